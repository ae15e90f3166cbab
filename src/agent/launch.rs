//! From a home directory to an agent that is ready to run.
//!
//! Order: the home is there and private, nobody else holds it, the settings are understood, the keystore
//! opens, the store opens. Each refusal is one line with a remedy. What the network does (an unreachable
//! relay or chain) is no reason not to start.

mod failures;
mod settings;

use std::collections::BTreeSet;
use std::path::Path;

use super::backend::AgentBackend;
use super::bundle::BundleState;
use super::control::views::RelaySource;
use super::control::{ErrorCode, Failure};
use super::options::{AgentOptions, system_clock};
use super::runtime::Agent;
use crate::config::{Config, Home, HomeLock, Provenance, RelayEntry, RelayList};
use crate::keys::keystore;
use crate::keys::{NostrKey, RootSecret};
use crate::network::Network;
use crate::nostr::link::{LinkOptions, RelayConfig};
use crate::resolver::DEFAULT_MIN_CONF;
use crate::store::{RelayRow, Store};
use crate::time::UnixTime;

pub use failures::{
    agent_failure, backup_failure, bundle_failure, config_failure, home_failure, keystore_failure,
    relay_failure, store_failure,
};
use settings::{
    cas, chains, check_secret, check_supported, money_options, networks_in_use, service_policy,
    standing_policy,
};
pub use settings::{chain_at, chain_of, fee_policy, money_rules, signing_policy};

/// A home that this process holds, with everything in it open.
pub struct Opened {
    /// The home.
    pub home: Home,
    /// Its settings.
    pub config: Config,
    root: RootSecret,
    store: Store,
    lock: HomeLock,
    /// The command said `--mainnet`.
    mainnet: bool,
    /// The keystore has a passphrase.
    sealed: bool,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened")
            .field("home", &self.home)
            .finish_non_exhaustive()
    }
}

/// An agent that is ready to run.
pub struct Launched {
    /// The agent, to be driven by [`Agent::run`].
    pub agent: Agent,
    /// What serves its commands.
    pub backend: AgentBackend,
    /// What the operator should know: one sentence each.
    pub warnings: Vec<String>,
    /// Holds the home; to be kept until the agent has stopped.
    pub lock: HomeLock,
}

impl std::fmt::Debug for Launched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Launched")
            .field("warnings", &self.warnings)
            .finish_non_exhaustive()
    }
}

/// A relay as it is configured, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelaySetting {
    /// The relay.
    pub entry: RelayEntry,
    /// Where it was configured.
    pub source: RelaySource,
}

/// The home at a path. Creates nothing.
pub fn home(path: &Path) -> Result<Home, Failure> {
    Home::locate(Some(path), None).map_err(home_failure)
}

/// The settings of a home, of the environment as well.
pub fn load_config(home: &Home) -> Result<Config, Failure> {
    // Only what could be a setting, and only as text: other variables are nobody's business here.
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let config = Config::load(home, environment, Vec::new()).map_err(config_failure)?;
    check_supported(&config)?;
    Ok(config)
}

/// Takes a home and opens what is in it.
pub fn open(path: &Path, passphrase: Option<&str>) -> Result<Opened, Failure> {
    let home = home(path)?;
    home.check().map_err(home_failure)?;
    let lock = home.lock().map_err(home_failure)?;
    let config = load_config(&home)?;
    let text = read_keystore(&home)?.ok_or_else(|| no_keystore(&home))?;
    let root =
        keystore::open(&text, passphrase).map_err(|error| keystore_failure(&home, &error))?;
    let store = open_store(&home, &config)?;
    // Before anything is built on it, or a peer told something that a damaged page says.
    store.check_pages().map_err(store_failure)?;
    Ok(Opened {
        sealed: keystore::is_encrypted(&text).unwrap_or(false),
        home,
        config,
        root,
        store,
        lock,
        mainnet: false,
    })
}

/// Opens the store of a home, with the size it may have.
pub fn open_store(home: &Home, config: &Config) -> Result<Store, Failure> {
    let store = Store::open(&home.store_path()).map_err(store_failure)?;
    store
        .limit_bytes(u64::from(config.limits.store_mib) << 20)
        .map_err(store_failure)?;
    #[cfg(debug_assertions)]
    if let Some(pages) = crate::failpoint::store_pages() {
        let bytes = pages.saturating_mul(4096);
        store.limit_bytes(bytes).map_err(store_failure)?;
    }
    Ok(store)
}

/// Seconds by which the clock may be behind what is stored before that is said: more than members and relays that
/// are well set differ by.
const CLOCK_BEHIND_SECONDS: u64 = 15 * 60;

/// What to say of a clock that is behind what this agent did last.
fn clock_warning(store: &Store, now: UnixTime) -> Result<Option<String>, Failure> {
    let last = store.view().last_entry_at().map_err(store_failure)?;
    let behind = last.map_or(0, |last| last.since(now));
    Ok((behind > CLOCK_BEHIND_SECONDS).then(|| {
        format!(
            "the clock of this computer is {} minutes behind the last entry of the log: set it; messages are dated \
             by it, and relays and other agents may not take them",
            behind / 60
        )
    }))
}

/// The text of the keystore file; `None` if there is none. It must not be readable by others.
pub fn read_keystore(home: &Home) -> Result<Option<zeroize::Zeroizing<String>>, Failure> {
    let path = home.keystore_path();
    let unreadable = |error: std::io::Error| {
        Failure::new(
            ErrorCode::Io,
            format!("cannot read {}: {error}", path.display()),
        )
    };
    match std::fs::symlink_metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
        Ok(_) => {}
    }
    crate::config::check_private(&path).map_err(home_failure)?;
    let text = std::fs::read_to_string(&path).map_err(unreadable)?;
    Ok(Some(zeroize::Zeroizing::new(text)))
}

/// The failure of a command that needs a key where there is none.
#[must_use]
pub fn no_keystore(home: &Home) -> Failure {
    Failure::new(
        ErrorCode::NotInitialized,
        format!("there is no key in {}", home.root().display()),
    )
    .remedy("make one with `btcr2-agent init`")
}

impl Opened {
    /// The agent's identity.
    #[must_use]
    pub fn identity(&self) -> NostrKey {
        self.root.identity().public()
    }

    /// Whether the root secret has recovery words.
    #[must_use]
    pub fn has_words(&self) -> bool {
        self.root.words().is_some()
    }

    /// Writes the bundle of an agent that does not run, and copies it if a place is given.
    pub fn write_bundle(&self, copy_to: Option<&Path>) -> Result<BundleState, Failure> {
        super::bundle::write_bundle(
            &self.home.bundle_path(),
            &self.home.store_path(),
            self.root.bundle_key(),
            self.identity(),
            system_clock(),
            copy_to,
        )
        .map_err(bundle_failure)
    }

    /// Says that the command asked for mainnet. It is used if the configuration allows it too.
    #[must_use]
    pub const fn with_mainnet(mut self, asked: bool) -> Self {
        self.mainnet = asked;
        self
    }

    /// The relays of this home.
    pub fn relays(&self) -> Result<Vec<RelaySetting>, Failure> {
        let by_hand = self.store.view().relays().map_err(store_failure)?;
        relay_settings(&self.home, &self.config, &by_hand)
    }

    /// Starts the connections and rebuilds the state. Must be called within a tokio runtime.
    pub fn start(self) -> Result<Launched, Failure> {
        let mut warnings = Vec::new();
        let settings = self.relays()?;
        let Self {
            home,
            config,
            root,
            store,
            lock,
            mainnet,
            sealed,
        } = self;
        let money = money_options(&home, &config, mainnet, &mut warnings)?;
        if money.rules.mainnet {
            check_secret(&root, sealed)?;
        }
        warnings.extend(clock_warning(&store, system_clock()())?);
        let networks = networks_in_use(&config, &store)?;
        let relays = relays_of(&settings, &networks, &config, &mut warnings);
        for network in &networks {
            let any = settings
                .iter()
                .any(|setting| setting.entry.networks.contains(network));
            if !any {
                warnings.push(format!(
                    "no relay is configured for {network}: add one with `btcr2-agent relay add <url>`"
                ));
            }
        }
        let identity = root.identity();
        let options = AgentOptions {
            root,
            store,
            relays,
            link: LinkOptions {
                auth: Some(identity),
                ..LinkOptions::default()
            },
            chains: chains(&config, money.rules.mainnet)?,
            money,
            policy: signing_policy(&config),
            standing: standing_policy(&config),
            service: service_policy(&config),
            bundle: Some(home.bundle_path()),
            cas: cas(&config)?,
            min_conf: DEFAULT_MIN_CONF,
            describe_relays: true,
            snapshot_after: super::options::snapshot_after(),
            clock: system_clock(),
        };
        let (agent, handle) = Agent::start(options).map_err(agent_failure)?;
        Ok(Launched {
            backend: AgentBackend::new(handle, home, config),
            agent,
            warnings,
            lock,
        })
    }
}

/// The relays of a home: those of its own list, else the list of this program; and those added by hand.
pub fn relay_settings(
    home: &Home,
    config: &Config,
    by_hand: &[RelayRow],
) -> Result<Vec<RelaySetting>, Failure> {
    let (list, source) = if config.relays.is_empty() {
        let source = if home.relays_path().exists() {
            RelaySource::Configured
        } else {
            RelaySource::Default
        };
        (RelayList::load(home).map_err(relay_failure)?, source)
    } else {
        let list = RelayList::by_hand(config.relays.iter().cloned());
        (list, RelaySource::Configured)
    };
    let mut settings: Vec<RelaySetting> = list
        .entries()
        .iter()
        .map(|entry| RelaySetting {
            entry: entry.clone(),
            source,
        })
        .collect();
    for row in by_hand {
        let networks = if row.networks.is_empty() {
            Network::ALL.to_vec()
        } else {
            row.networks.clone()
        };
        let entry = RelayEntry {
            url: row.url.clone(),
            read: row.read,
            write: row.write,
            networks,
            // Adding a relay again changes how it is used, not what it bears.
            budget: settings
                .iter()
                .find(|setting| setting.entry.url == row.url)
                .and_then(|setting| setting.entry.budget),
        };
        settings.retain(|setting| setting.entry.url != entry.url);
        settings.push(RelaySetting {
            entry,
            source: RelaySource::Configured,
        });
    }
    Ok(settings)
}

/// How the link uses a relay. Only relays the operator named may be private or on this machine.
#[must_use]
pub fn relay_config(setting: &RelaySetting) -> RelayConfig {
    RelayConfig {
        url: setting.entry.url.clone(),
        read: setting.entry.read,
        write: setting.entry.write,
        allow_private: setting.source == RelaySource::Configured,
        budget: setting.entry.budget,
    }
}

/// Parses a relay a command named.
pub fn relay_by_hand(url: &str) -> Result<RelayEntry, Failure> {
    RelayEntry::parse(url, Provenance::ByHand).map_err(|error| {
        Failure::new(ErrorCode::InvalidValue, error.to_string())
            .remedy("a relay is wss://host, or ws://host:port for one of your own")
    })
}

fn relays_of(
    settings: &[RelaySetting],
    networks: &BTreeSet<Network>,
    config: &Config,
    warnings: &mut Vec<String>,
) -> Vec<RelayConfig> {
    let limit = usize::try_from(config.limits.relays).unwrap_or(usize::MAX);
    let wanted = |setting: &&RelaySetting| {
        let mut of = setting.entry.networks.iter();
        of.any(|network| networks.contains(network))
    };
    let relays: Vec<RelayConfig> = settings.iter().filter(wanted).map(relay_config).collect();
    if relays.len() > limit {
        warnings.push(format!(
            "{} relays are configured, limits.relays allows {limit}: the first {limit} are used",
            relays.len()
        ));
    }
    relays.into_iter().take(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relays_added_by_hand_go_before_those_of_the_list() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path()).unwrap();
        let config = Config::default();
        let list = relay_settings(&home, &config, &[]).unwrap();
        assert!(list.iter().all(|s| s.source == RelaySource::Default));
        let first = list[0].entry.url.clone();
        let row = RelayRow {
            url: first.clone(),
            read: true,
            write: false,
            networks: vec![Network::Regtest],
            source: "command".into(),
            added: crate::time::UnixTime(1),
        };
        let changed = relay_settings(&home, &config, &[row]).unwrap();
        assert_eq!(changed.len(), list.len());
        let found = changed.iter().find(|s| s.entry.url == first).unwrap();
        assert_eq!(found.source, RelaySource::Configured);
        assert!(!found.entry.write);
        assert_eq!(found.entry.networks, [Network::Regtest]);
    }
}
