//! From a home directory to an agent that is ready to run.
//!
//! Order: the home is there and private, nobody else holds it, the settings are understood, the keystore
//! opens, the store opens. Each refusal is one line with a remedy. What the network does (an unreachable
//! relay or chain) is no reason not to start.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use bitcoin::Amount;

use super::backend::AgentBackend;
use super::backup::BackupError;
use super::bundle::{BundleError, BundleState};
use super::chains::backend_of;
use super::control::views::RelaySource;
use super::control::{ErrorCode, Failure};
use super::error::AgentError;
use super::money::{MoneyOptions, StopFile};
use super::options::{AgentOptions, ServicePolicy, StandingPolicy, system_clock};
use super::runtime::Agent;
use crate::cas::{self, CasReader};
use crate::chain::ChainBackend;
use crate::config::{
    Config, ConfigError, Connections, Home, HomeError, HomeLock, Provenance, RelayEntry,
    RelayError, RelayList, WhenNoUpdate,
};
use crate::keys::keystore::{self, KeystoreError};
use crate::keys::{NostrKey, RootSecret};
use crate::network::Network;
use crate::nostr::link::{LinkOptions, RelayConfig};
use crate::protocol::fees::FeePolicy;
use crate::protocol::money::{KillSwitch as _, MoneyRules};
use crate::protocol::participant::{Decline, SigningPolicy};
use crate::resolver::DEFAULT_MIN_CONF;
use crate::store::{RelayRow, Store, StoreError};
use crate::time::UnixTime;

/// How long a chain backend waits for one answer.
const CHAIN_TIMEOUT: Duration = Duration::from_secs(10);

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

/// The networks of this agent's cohorts, and the configured one.
fn networks_in_use(config: &Config, store: &Store) -> Result<BTreeSet<Network>, Failure> {
    let mut networks = BTreeSet::from([config.network]);
    for row in store.view().live_cohorts().map_err(store_failure)? {
        let terms = crate::protocol::terms::Terms::parse(&row.terms);
        networks.extend(terms.map(|(terms, _)| terms.network));
    }
    Ok(networks)
}

/// What the settings and the command say of money.
fn money_options(
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
fn check_secret(root: &RootSecret, sealed: bool) -> Result<(), Failure> {
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
fn chains(
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
fn cas(config: &Config) -> Result<Option<CasReader>, Failure> {
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

fn standing_policy(config: &Config) -> StandingPolicy {
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

fn service_policy(config: &Config) -> ServicePolicy {
    ServicePolicy {
        max_subscribers: config.limits.subscribers.into(),
        stalled_after: u16::try_from(config.aggregator.stalled_rounds).unwrap_or(u16::MAX),
    }
}

/// Settings that mean something which this version can not do are refused: ignoring a proxy or a rule
/// would do what the operator ruled out.
fn check_supported(config: &Config) -> Result<(), Failure> {
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

/// A failure of the home directory.
#[must_use]
#[allow(clippy::needless_pass_by_value)] // for map_err
pub fn home_failure(error: HomeError) -> Failure {
    let code = match &error {
        HomeError::Locked { .. } => ErrorCode::AlreadyRunning,
        HomeError::Missing { .. } => ErrorCode::NotInitialized,
        _ => ErrorCode::Io,
    };
    split(code, &error.to_string())
}

/// A failure of the settings.
#[must_use]
#[allow(clippy::needless_pass_by_value)] // for map_err
pub fn config_failure(error: ConfigError) -> Failure {
    Failure::new(ErrorCode::BadConfig, error.to_string())
        .remedy("correct the setting; the comments in config.toml say what is allowed")
}

/// A failure of relays.toml.
#[must_use]
#[allow(clippy::needless_pass_by_value)] // for map_err
pub fn relay_failure(error: RelayError) -> Failure {
    Failure::new(ErrorCode::BadConfig, error.to_string()).remedy("correct relays.toml")
}

/// A failure of the store.
#[must_use]
#[allow(clippy::needless_pass_by_value)] // for map_err
pub fn store_failure(error: StoreError) -> Failure {
    split(ErrorCode::StoreFailed, &error.to_string())
}

/// A failure of the bundle.
#[must_use]
#[allow(clippy::needless_pass_by_value)] // for map_err
pub fn bundle_failure(error: BundleError) -> Failure {
    let text = error.to_string();
    let code = match error {
        BundleError::Store(error) => return store_failure(error),
        BundleError::Io { .. } => ErrorCode::Io,
        BundleError::WrongWords => ErrorCode::WrongPassphrase,
        _ => ErrorCode::BadBundle,
    };
    split(code, &text)
}

/// A failure of a backup.
#[must_use]
#[allow(clippy::needless_pass_by_value)] // for map_err
pub fn backup_failure(error: BackupError) -> Failure {
    let text = error.to_string();
    let code = match error {
        BackupError::Store(error) => return store_failure(error),
        BackupError::Home(error) => return home_failure(error),
        BackupError::Io { .. } | BackupError::Occupied { .. } => ErrorCode::Io,
        _ => ErrorCode::BadBundle,
    };
    split(code, &text)
}

/// A failure of the keystore.
#[must_use]
pub fn keystore_failure(home: &Home, error: &KeystoreError) -> Failure {
    let file = home.keystore_path();
    let file = file.display();
    match error {
        KeystoreError::WrongPassphrase => Failure::new(
            ErrorCode::WrongPassphrase,
            "wrong passphrase, or the keystore file was altered",
        )
        .remedy("try again; with the recovery words a new home can be made: `btcr2-agent init --import-words`"),
        KeystoreError::NeedsPassphrase => Failure::new(
            ErrorCode::PassphraseNeeded,
            format!("{file} is encrypted"),
        )
        .remedy("give --passphrase-file FILE"),
        other => Failure::new(ErrorCode::Io, format!("{file}: {other}")),
    }
}

/// A failure of the runtime.
#[must_use]
#[allow(clippy::needless_pass_by_value)] // for map_err
pub fn agent_failure(error: AgentError) -> Failure {
    let text = error.to_string();
    let code = match error {
        AgentError::Store(error) => return store_failure(error),
        AgentError::Bundle(error) => return bundle_failure(error),
        AgentError::Money(_) => ErrorCode::RefusedByMoneyGate,
        AgentError::Log { .. }
        | AgentError::NewerSnapshot { .. }
        | AgentError::NoSnapshot(_)
        | AgentError::Broken(_) => ErrorCode::StoreFailed,
        AgentError::UnknownCohort(_) | AgentError::UnknownDid(_) | AgentError::UnknownRelay(_) => {
            ErrorCode::NotFound
        }
        AgentError::Refused(_) => ErrorCode::WrongPhase,
        AgentError::Did { .. } => ErrorCode::InvalidValue,
        AgentError::Spend(crate::beacon::singleton::SpendError::Insufficient { .. }) => {
            return Failure::new(ErrorCode::InsufficientFunds, text).remedy(
                "`btcr2-agent did announce … --dry-run` shows what to pay, with a QR code",
            );
        }
        AgentError::Spend(crate::beacon::singleton::SpendError::OverLimit { .. }) => {
            ErrorCode::RefusedByPolicy
        }
        AgentError::Spend(_) => ErrorCode::InvalidValue,
        AgentError::NoChain(_) | AgentError::Lookup(_) | AgentError::Chain(_) => {
            ErrorCode::ChainUnreachable
        }
        AgentError::Unresolvable { .. } => ErrorCode::NotResolved,
        AgentError::AnotherCopy(_) => {
            return Failure::new(ErrorCode::AnotherCopy, text).remedy(
                "stop one of the two for good; to go on with this home: `btcr2-agent takeover`",
            );
        }
        AgentError::Stopped => {
            return Failure::new(ErrorCode::NotRunning, text)
                .remedy("look at its log, and start it with `btcr2-agent run`");
        }
        AgentError::Send(_) | AgentError::Defect(_) => ErrorCode::Internal,
    };
    split(code, &text)
}

/// Errors of the lower layers are one sentence, a colon or semicolon, and the remedy.
fn split(code: ErrorCode, text: &str) -> Failure {
    match text.split_once("; ").or_else(|| text.rsplit_once(": ")) {
        Some((message, remedy)) if is_advice(remedy) => Failure::new(code, message).remedy(remedy),
        _ => Failure::new(code, text),
    }
}

/// Whether a clause tells what to do.
fn is_advice(clause: &str) -> bool {
    const VERBS: [&str; 14] = [
        "check",
        "choose",
        "close",
        "free",
        "give",
        "make",
        "one agent per home",
        "put",
        "remove",
        "run",
        "set",
        "stop",
        "use",
        "one",
    ];
    VERBS.iter().any(|verb| {
        clause
            .strip_prefix(verb)
            .is_some_and(|rest| rest.starts_with([' ', ';', ':']))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_of_lower_layers_become_hints() {
        let failure = split(
            ErrorCode::StoreFailed,
            "the store has schema version 9, and this program knows versions up to 1: use the newer btcr2-agent that wrote it",
        );
        assert_eq!(
            failure.remedy.as_deref(),
            Some("use the newer btcr2-agent that wrote it")
        );
        let failure = split(ErrorCode::Io, "cannot read /x: permission denied");
        assert_eq!(failure.message, "cannot read /x: permission denied");
        assert_eq!(failure.remedy, None);
    }

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
