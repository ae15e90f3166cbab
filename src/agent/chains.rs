//! From settings to chain backends.

use std::time::Duration;

use super::control::{ErrorCode, Failure};
use crate::chain::{ChainBackend, CoreLogin};
use crate::config::{Backend, Chain};
use crate::network::Network;

/// The backend of a network: the server that is set, and with `check` the servers that have to agree with
/// it. `timeout` bounds one request. Nothing is contacted yet; a cookie file is read with the first request.
///
/// # Errors
/// A setting that cannot be used, by its key.
pub fn backend_of(
    chain: &Chain,
    network: Network,
    timeout: Duration,
) -> Result<ChainBackend, Failure> {
    let bad = |key: &str, error: &dyn std::fmt::Display| {
        Failure::new(
            ErrorCode::BadConfig,
            format!("chain.{network}.{key}: {error}"),
        )
    };
    let proxy = chain.http_proxy.as_ref().map(ToString::to_string);
    let esplora = |key: &str, url: &str| {
        ChainBackend::esplora_through(url, timeout, proxy.as_deref())
            .map_err(|error| bad(key, &error))
    };
    let url = chain.url_for(network);
    let primary = match chain.backend {
        Backend::Esplora => esplora("url", &url)?,
        Backend::Bitcoind => {
            let login = match (&chain.cookie_file, &chain.user, &chain.password_file) {
                (Some(file), _, _) => CoreLogin::Cookie(file.clone()),
                (None, Some(user), Some(file)) => CoreLogin::from_password_file(user, file)
                    .map_err(|error| bad("password_file", &error))?,
                _ => {
                    return Err(bad(
                        "backend",
                        &"needs cookie_file, or user and password_file",
                    ));
                }
            };
            ChainBackend::core(&url, login, timeout).map_err(|error| bad("url", &error))?
        }
    };
    let checks: Result<Vec<_>, _> = chain
        .check
        .iter()
        .map(|url| esplora("check", &url.to_string()))
        .collect();
    Ok(ChainBackend::compared(primary, checks?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const TIMEOUT: Duration = Duration::from_secs(10);

    #[test]
    fn settings_become_the_backend_they_name() {
        let mut chain = Config::default().chain.of(Network::Signet).clone();
        let backend = backend_of(&chain, Network::Signet, TIMEOUT).unwrap();
        assert_eq!(backend.host(), "mempool.space");
        chain.check = vec!["https://a.example/api".parse().unwrap()];
        let backend = backend_of(&chain, Network::Signet, TIMEOUT).unwrap();
        assert_eq!(backend.host(), "mempool.space (checked by a.example)");

        chain.backend = Backend::Bitcoind;
        chain.cookie_file = Some("/nowhere/.cookie".into());
        let backend = backend_of(&chain, Network::Signet, TIMEOUT).unwrap();
        assert_eq!(backend.host(), "127.0.0.1:38332 (checked by a.example)");

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        chain.check.clear();
        chain.cookie_file = None;
        chain.user = Some("alice".to_owned());
        chain.password_file = Some(file.clone());
        let failure = backend_of(&chain, Network::Signet, TIMEOUT).unwrap_err();
        assert!(
            failure
                .message
                .starts_with("chain.signet.password_file: cannot read")
        );
        std::fs::write(&file, "hunter2\nsecond line\n").unwrap();
        let backend = backend_of(&chain, Network::Signet, TIMEOUT).unwrap();
        assert_eq!(backend.host(), "127.0.0.1:38332");
        assert!(!format!("{backend:?}").contains("hunter2"));
    }
}
