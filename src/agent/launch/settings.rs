//! What the settings of a home mean: chains, money, policies, and what this version can not do.

use std::collections::BTreeSet;
use std::time::Duration;

use bitcoin::Amount;

use super::store_failure;
use crate::agent::chains::backend_of;
use crate::agent::control::{ErrorCode, Failure};
use crate::agent::money::{MoneyOptions, StopFile};
use crate::agent::options::{ServicePolicy, StandingPolicy};
use crate::cas::{self, CasReader};
use crate::chain::ChainBackend;
use crate::config::{Config, Connections, Home, WhenNoUpdate};
use crate::keys::RootSecret;
use crate::network::Network;
use crate::protocol::fees::FeePolicy;
use crate::protocol::money::{KillSwitch as _, MoneyRules};
use crate::protocol::participant::{Decline, SigningPolicy};
use crate::store::Store;

/// How long a chain backend waits for one answer.
const CHAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The networks of this agent's cohorts, and the configured one.
pub(super) fn networks_in_use(
    config: &Config,
    store: &Store,
) -> Result<BTreeSet<Network>, Failure> {
    let mut networks = BTreeSet::from([config.network]);
    for row in store.view().live_cohorts().map_err(store_failure)? {
        let terms = crate::protocol::terms::Terms::parse(&row.terms);
        networks.extend(terms.map(|(terms, _)| terms.network));
    }
    Ok(networks)
}

/// What the settings and the command say of money.
pub(super) fn money_options(
    home: &Home,
    config: &Config,
    asked: bool,
    warnings: &mut Vec<String>,
) -> Result<MoneyOptions, Failure> {
    let money = &config.money;
    match (asked, money.mainnet) {
        (true, false) => {
            return Err(Failure::new(
                ErrorCode::RefusedByMoneyGate,
                "--mainnet was given, and config.toml does not allow mainnet",
            )
            .remedy("read docs/money.md, then write `mainnet = true` under [money] in config.toml"));
        }
        (false, true) => warnings.push(
            "config.toml allows mainnet, and the agent was started without --mainnet: it stays off".to_owned(),
        ),
        (false, false) if config.network.carries_value() => warnings.push(
            "network = \"bitcoin\": mainnet is refused, because it is not switched on; see docs/money.md".to_owned(),
        ),
        _ => {}
    }
    let switch = StopFile::in_home(home);
    if switch.is_pulled() {
        warnings.push(format!(
            "money is stopped: {} is there",
            switch.path().display()
        ));
    }
    let fees = Network::ALL
        .into_iter()
        .map(|network| (network, fee_policy(config, network)))
        .collect();
    Ok(MoneyOptions {
        rules: money_rules(config, asked),
        fees,
        switch: Some(switch),
    })
}

/// What the gate may permit, where the command asked for mainnet or did not.
#[must_use]
pub const fn money_rules(config: &Config, asked: bool) -> MoneyRules {
    let money = &config.money;
    MoneyRules {
        mainnet: asked && money.mainnet,
        max_fee: Amount::from_sat(money.max_fee_sat),
        max_funding: Amount::from_sat(money.max_funding_sat),
        max_balance: Amount::from_sat(money.max_balance_sat),
    }
}

/// The bounds of fee rates on a network.
#[must_use]
pub const fn fee_policy(config: &Config, network: Network) -> FeePolicy {
    let fee = config.fees.of(network);
    FeePolicy {
        floor: fee.floor,
        ceiling: fee.ceiling,
        fallback: fee.fallback,
    }
}

/// Where coins have a price, a secret that others can read or know is refused.
pub(super) fn check_secret(root: &RootSecret, sealed: bool) -> Result<(), Failure> {
    if !sealed {
        return Err(Failure::new(
            ErrorCode::RefusedByMoneyGate,
            "mainnet needs a keystore with a passphrase: whoever reads this one has the funds",
        )
        .remedy("make a home with a passphrase: `btcr2-agent init` in another --home"));
    }
    let known = root.words().is_some_and(|words| {
        // The words of examples and test vectors repeat: nobody draws them.
        let distinct: BTreeSet<&str> = words.expose().split_whitespace().collect();
        distinct.len() <= 2
    });
    if known {
        return Err(Failure::new(
            ErrorCode::RefusedByMoneyGate,
            "these recovery words are an example that everybody knows",
        )
        .remedy("make a key of your own: `btcr2-agent init` in another --home"));
    }
    Ok(())
}

/// A backend for every network that may be used. None is contacted before a cohort needs it.
pub(super) fn chains(
    config: &Config,
    mainnet: bool,
) -> Result<Vec<(Network, ChainBackend, Duration)>, Failure> {
    let networks = Network::ALL.into_iter();
    networks
        .filter(|network| mainnet || !network.carries_value())
        .map(|network| {
            let backend = chain_of(config, network)?;
            let poll = config.chain.of(network).poll.seconds();
            Ok((network, backend, Duration::from_secs(poll)))
        })
        .collect()
}

/// The backend that is configured for a network.
pub fn chain_of(config: &Config, network: Network) -> Result<ChainBackend, Failure> {
    backend_of(config.chain.of(network), network, CHAIN_TIMEOUT)
}

/// A backend at a URL that a command named.
pub fn chain_at(url: &str) -> Result<ChainBackend, Failure> {
    ChainBackend::esplora(url, CHAIN_TIMEOUT)
        .map_err(|error| Failure::new(ErrorCode::InvalidValue, error.to_string()))
}

/// Where objects are looked for that a resolution needs and that are not stored; nowhere unless it is configured.
pub(super) fn cas(config: &Config) -> Result<Option<CasReader>, Failure> {
    let gateways = config.cas.gateways.iter();
    let reader = CasReader::new(
        gateways.map(|gateway| gateway.url().as_str()),
        cas::DEFAULT_TIMEOUT,
    )
    .map_err(|error| Failure::new(ErrorCode::BadConfig, format!("cas.gateways: {error}")))?;
    Ok((!reader.is_empty()).then_some(reader))
}

/// What these settings say is signed without asking.
#[must_use]
pub const fn signing_policy(config: &Config) -> SigningPolicy {
    SigningPolicy {
        max_fee_rate: config.participant.max_fee_rate,
        max_fee_sat: config.money.max_fee_sat,
        decline: match config.participant.when_no_update {
            WhenNoUpdate::NoUpdate => Decline::NoUpdate,
            WhenNoUpdate::Idle => Decline::Idle,
        },
    }
}

pub(super) fn standing_policy(config: &Config) -> StandingPolicy {
    let participant = &config.participant;
    StandingPolicy {
        auto_join: participant.auto_join,
        allowed_aggregators: participant.allowed_aggregators.iter().copied().collect(),
        allowed_networks: participant.allowed_networks.iter().copied().collect(),
        max_members: u16::try_from(participant.max_members).unwrap_or(u16::MAX),
        max_fee_rate: participant.max_fee_rate,
        max_cohorts: usize::try_from(participant.max_cohorts).unwrap_or(usize::MAX),
        deposit_updates: participant.deposit_updates,
    }
}

pub(super) fn service_policy(config: &Config) -> ServicePolicy {
    ServicePolicy {
        max_subscribers: config.limits.subscribers.into(),
        stalled_after: u16::try_from(config.aggregator.stalled_rounds).unwrap_or(u16::MAX),
    }
}

/// Settings that mean something which this version can not do are refused: ignoring a proxy or a rule
/// would do what the operator ruled out.
pub(super) fn check_supported(config: &Config) -> Result<(), Failure> {
    let refused = |key: String, why: &str| {
        Err(Failure::new(
            ErrorCode::BadConfig,
            format!("{key}: {why} by this version"),
        )
        .remedy("remove the setting"))
    };
    if config.privacy.proxy.is_some() {
        return refused("privacy.proxy".into(), "a proxy is not supported");
    }
    if config.privacy.connections == Connections::Isolate {
        let key = "privacy.connections".into();
        return refused(key, "a connection per seat is not supported");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::agent::launch::home;

    #[test]
    fn settings_this_version_can_not_honour_are_refused() {
        let mut config = Config::default();
        assert_eq!(check_supported(&config), Ok(()));
        config.privacy.proxy = Some("127.0.0.1:9050".parse().unwrap());
        let failure = check_supported(&config).unwrap_err();
        assert_eq!(failure.code, ErrorCode::BadConfig);
        assert!(failure.message.starts_with("privacy.proxy: "));
    }

    #[test]
    fn mainnet_needs_the_command_and_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path()).unwrap();
        let mut config = Config::default();
        let options = |config: &Config, asked| {
            let mut warnings = Vec::new();
            let options = money_options(&home, config, asked, &mut warnings)?;
            Ok::<_, Failure>((options.rules.mainnet, warnings))
        };
        assert_eq!(options(&config, false), Ok((false, vec![])));
        let failure = options(&config, true).unwrap_err();
        assert_eq!(failure.code, ErrorCode::RefusedByMoneyGate);
        assert!(failure.remedy.unwrap().contains("mainnet = true"));

        config.money.mainnet = true;
        let (on, warnings) = options(&config, false).unwrap();
        assert!(!on);
        assert!(warnings[0].contains("without --mainnet"), "{warnings:?}");
        assert_eq!(options(&config, true), Ok((true, vec![])));

        // Mainnet has no chain to look at before.
        let networks = |mainnet| {
            let chains = chains(&config, mainnet).unwrap();
            chains.iter().any(|(network, ..)| network.carries_value())
        };
        assert!(!networks(false));
        assert!(networks(true));

        StopFile::in_home(&home)
            .pull(crate::time::UnixTime(1), None)
            .unwrap();
        let (_, warnings) = options(&config, true).unwrap();
        assert!(warnings[0].starts_with("money is stopped"), "{warnings:?}");
    }

    #[test]
    fn the_settings_of_money_are_what_the_gate_and_the_rates_go_by() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path()).unwrap();
        let text = "[money]\nmax_fee_sat = 2000\nmax_funding_sat = 3000\nmax_balance_sat = 4000\n\
                    [fees.signet]\nfloor = 3\nceiling = 9\nfallback = 5\n";
        let config = Config::from_toml(text, Path::new("config.toml")).unwrap();
        let options = money_options(&home, &config, false, &mut Vec::new()).unwrap();
        let sat = Amount::from_sat;
        let rules = options.rules;
        assert_eq!(
            (rules.max_fee, rules.max_funding, rules.max_balance),
            (sat(2_000), sat(3_000), sat(4_000))
        );
        let fees = |network| {
            let fees = options.fee_policy(network);
            (fees.floor, fees.ceiling, fees.fallback)
        };
        assert_eq!(fees(Network::Signet), (3, 9, 5));
        assert_eq!(fees(Network::Regtest), (1, 200, 2));
        assert_eq!(fees(Network::Bitcoin), (1, 200, 10));
        assert_eq!(signing_policy(&config).max_fee_sat, 2_000);
        for (text, key) in [
            (
                "[money]\nmax_funding_sat = 3000000\n",
                "money.max_funding_sat",
            ),
            ("[fees.signet]\nfloor = 201\n", "fees.signet.floor"),
            ("[fees.signet]\nfallback = 201\n", "fees.signet.fallback"),
            ("[fees.signet]\nfloor = 5\n", "fees.signet.floor"),
            ("[money]\nmainnet = 1\n", "money.mainnet"),
        ] {
            let error = Config::from_toml(text, Path::new("config.toml")).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
    }

    #[test]
    fn mainnet_needs_a_secret_that_nobody_else_has() {
        let own = RootSecret::generate(&mut rand::rngs::OsRng);
        assert_eq!(check_secret(&own, true), Ok(()));
        let readable = check_secret(&own, false).unwrap_err();
        assert_eq!(readable.code, ErrorCode::RefusedByMoneyGate);
        for words in [
            "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about",
            "zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo wrong",
        ] {
            let known = RootSecret::from_words(words).unwrap();
            assert!(
                check_secret(&known, true)
                    .unwrap_err()
                    .message
                    .contains("everybody knows")
            );
        }
        assert!(RootSecret::from_words("not words").is_err());
    }
}
