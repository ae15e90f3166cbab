//! Every setting: its unit, default and meaning. The ranges are in [`super::RULES`].
//!
//! `default.toml` beside this file says the same to the people who edit it; a test holds the two
//! together.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::{fmt, str::FromStr};

use crate::nostr::RelayUrl;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

use super::duration::Span;
use crate::keys::public::NostrKey;
use crate::network::Network;

/// The settings of an agent: `config.toml`, with what environment and command line changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The network of commands that name none.
    pub network: Network,
    /// Relays to use instead of those of `relays.toml`, for every network, reading and writing.
    /// Empty: use `relays.toml`. Configured by hand, so that private addresses are allowed.
    #[serde(with = "relay_urls")]
    pub relays: Vec<RelayUrl>,
    /// Where the chain is read, per network.
    pub chain: Chains,
    /// Where objects are read and published that are found by their hash. Nothing is set by default.
    pub cas: Cas,
    /// Terms of the cohorts this agent advertises, where the command does not say otherwise.
    pub aggregator: Aggregator,
    /// What this agent joins and signs as a participant.
    pub participant: Participant,
    /// Mainnet, and how much may be at stake.
    pub money: Money,
    /// Bounds of fee rates, per network.
    pub fees: Fees,
    /// What others can link.
    pub privacy: Privacy,
    /// Bounds of what the agent uses of this machine.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            network: Network::Signet,
            relays: Vec::new(),
            chain: Chains::default(),
            cas: Cas::default(),
            aggregator: Aggregator::default(),
            participant: Participant::default(),
            money: Money::default(),
            fees: Fees::default(),
            privacy: Privacy::default(),
            limits: Limits::default(),
        }
    }
}

/// A setting of each network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    default,
    bound(deserialize = "T: DefaultOf + Deserialize<'de>")
)]
pub struct PerNetwork<T> {
    /// Mainnet.
    pub bitcoin: T,
    /// The default signet.
    pub signet: T,
    /// A private regression-test chain.
    pub regtest: T,
    /// Testnet version 3.
    pub testnet3: T,
    /// Testnet version 4.
    pub testnet4: T,
    /// Mutinynet.
    pub mutinynet: T,
}

impl<T> PerNetwork<T> {
    /// That of a network.
    #[must_use]
    pub const fn of(&self, network: Network) -> &T {
        match network {
            Network::Bitcoin => &self.bitcoin,
            Network::Signet => &self.signet,
            Network::Regtest => &self.regtest,
            Network::Testnet3 => &self.testnet3,
            Network::Testnet4 => &self.testnet4,
            Network::Mutinynet => &self.mutinynet,
        }
    }
}

/// What a setting is on a network where nobody set it.
pub trait DefaultOf {
    /// The setting.
    fn default_of(network: Network) -> Self;
}

impl<T: DefaultOf> Default for PerNetwork<T> {
    fn default() -> Self {
        Self {
            bitcoin: T::default_of(Network::Bitcoin),
            signet: T::default_of(Network::Signet),
            regtest: T::default_of(Network::Regtest),
            testnet3: T::default_of(Network::Testnet3),
            testnet4: T::default_of(Network::Testnet4),
            mutinynet: T::default_of(Network::Mutinynet),
        }
    }
}

impl DefaultOf for Chain {
    fn default_of(_: Network) -> Self {
        Self::default()
    }
}

/// Chain backends, one per network. None is contacted before a command needs the chain, and none switches mainnet on.
pub type Chains = PerNetwork<Chain>;

/// The chain backend of one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Chain {
    /// What is spoken at `url`.
    pub backend: Backend,
    /// Its address; none for the backend's default, see [`Chain::url_for`].
    pub url: Option<ServiceUrl>,
    /// For `bitcoind`: a file with one line `user:password`, like Bitcoin Core's `.cookie`.
    pub cookie_file: Option<PathBuf>,
    /// For `bitcoind` without a cookie: the user that its `rpcauth` or `rpcuser` names.
    pub user: Option<String>,
    /// The file whose first line is that user's password.
    pub password_file: Option<PathBuf>,
    /// Esplora servers that have to agree with `url` on every fact that moves money.
    pub check: Vec<ServiceUrl>,
    /// An HTTP proxy for the Esplora servers.
    pub http_proxy: Option<ServiceUrl>,
    /// Time between two looks at the chain.
    pub poll: Span,
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            backend: Backend::Esplora,
            url: None,
            cookie_file: None,
            user: None,
            password_file: None,
            check: Vec::new(),
            http_proxy: None,
            poll: Span::from_seconds(30),
        }
    }
}

impl Chain {
    /// The address to use on `network`: the one that is set, else a public Esplora server (regtest:
    /// one on this machine) or a node on this machine at its usual port.
    #[must_use]
    pub fn url_for(&self, network: Network) -> String {
        if let Some(url) = &self.url {
            return url.to_string();
        }
        let default = match (self.backend, network) {
            (Backend::Esplora, Network::Bitcoin) => "https://mempool.space/api",
            (Backend::Esplora, Network::Signet) => "https://mempool.space/signet/api",
            (Backend::Esplora, Network::Regtest) => "http://127.0.0.1:3002",
            (Backend::Esplora, Network::Testnet3) => "https://blockstream.info/testnet/api",
            (Backend::Esplora, Network::Testnet4) => "https://mempool.space/testnet4/api",
            (Backend::Esplora, Network::Mutinynet) => "https://mutinynet.com/api",
            (Backend::Bitcoind, Network::Bitcoin) => "http://127.0.0.1:8332",
            (Backend::Bitcoind, Network::Signet | Network::Mutinynet) => "http://127.0.0.1:38332",
            (Backend::Bitcoind, Network::Regtest) => "http://127.0.0.1:18443",
            (Backend::Bitcoind, Network::Testnet3) => "http://127.0.0.1:18332",
            (Backend::Bitcoind, Network::Testnet4) => "http://127.0.0.1:48332",
        };
        default.to_owned()
    }
}

/// Content-addressed storage: IPFS, over HTTP. Nothing of it is contacted unless it is set here or named
/// with a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Cas {
    /// Gateways that objects are read from, tried in this order. They learn what is looked for.
    pub gateways: Vec<ServiceUrl>,
    /// The RPC of the node that `did publish` stores objects at.
    pub rpc: Option<ServiceUrl>,
    /// A file that only its owner can read with one line `bearer:TOKEN` or `basic:USER:PASSWORD`, for
    /// an RPC that wants it.
    pub rpc_auth_file: Option<PathBuf>,
}

/// What a chain backend speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The Esplora HTTP API.
    Esplora,
    /// The JSON-RPC of Bitcoin Core.
    Bitcoind,
}

/// The address of an HTTP service: http or https, no user, password, query or fragment, kept
/// without a trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceUrl(Url);

impl ServiceUrl {
    /// The parsed address.
    #[must_use]
    pub const fn url(&self) -> &Url {
        &self.0
    }
}

impl FromStr for ServiceUrl {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = Url::parse(text).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.query().is_none()
                && url.fragment().is_none()
        });
        let Some(url) = parsed else {
            return Err(format!(
                "{text:?} is not the address of a service: use https://host or https://host/path"
            ));
        };
        if !url.username().is_empty() || url.password().is_some() {
            // The text holds a secret: it is not repeated.
            return Err(
                "an address holds no user or password: they go into a file of their own".to_owned(),
            );
        }
        Ok(Self(url))
    }
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl Serialize for ServiceUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServiceUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Terms of the cohorts this agent advertises.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Aggregator {
    /// The beacon's type.
    pub beacon: BeaconChoice,
    /// Fewest members with which a cohort freezes.
    pub min_members: u32,
    /// Seats. All members must sign every signal: at 99 % availability each, 20 members are all
    /// there 82 % of the time, 50 members 60 %.
    pub max_members: u32,
    /// SMT indexes, or DIDs of a CAS beacon, that one member may register.
    pub indexes_per_member: u32,
    /// Time from the advert to the freeze of the set.
    pub formation: Span,
    /// Time between two openings of a round.
    pub cadence: Span,
    /// Time members have to respond to an opening.
    pub response: Span,
    /// Time members have to sign.
    pub signing: Span,
    /// Blocks the previous signal must be deep before the next is signed.
    pub depth: u32,
    /// What happens to a round in which everybody is idle.
    pub empty_rounds: EmptyRounds,
    /// Whether members may, or must, deposit the updates they want announced.
    pub deposits: DepositsChoice,
    /// Most a signal's transaction may pay, in sat/vB.
    pub max_fee_rate: u32,
    /// Times in one round a member may have lost its nonces.
    pub max_nonce_losses: u32,
    /// Proof of work asked of an opt-in, in leading zero bits; 0 for none.
    pub pow_bits: u32,
    /// Only opt-ins with an invite of this agent are accepted.
    pub invite_only: bool,
    /// Rounds in a row that a member misses before this agent says how to go on without it.
    pub stalled_rounds: u32,
}

impl Default for Aggregator {
    fn default() -> Self {
        Self {
            beacon: BeaconChoice::Smt,
            min_members: 2,
            max_members: 20,
            indexes_per_member: 8,
            formation: Span::from_days(7),
            cadence: Span::from_days(1),
            response: Span::from_hours(12),
            signing: Span::from_hours(2),
            depth: 1,
            empty_rounds: EmptyRounds::Skip,
            deposits: DepositsChoice::None,
            max_fee_rate: 50,
            max_nonce_losses: 3,
            pow_bits: 0,
            invite_only: false,
            stalled_rounds: 2,
        }
    }
}

/// A beacon type a cohort can have (spec.md §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BeaconChoice {
    /// Sparse Merkle tree: members see only their own proofs.
    Smt,
    /// Content-addressed announcement: a map of DIDs every member sees.
    Cas,
}

/// What happens to a round in which everybody is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmptyRounds {
    /// It ends without a transaction.
    Skip,
    /// Its signal is sent all the same.
    Signal,
}

/// Whether members may, or must, deposit the updates they want announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DepositsChoice {
    /// Hashes only.
    None,
    /// A member may; this agent verifies and keeps what it gets.
    Accepted,
    /// Every announced update is deposited.
    Required,
}

/// What this agent joins and signs as a participant. A cohort outside of it is refused with the
/// setting that refused it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Participant {
    /// Networks on which cohorts may be joined.
    pub allowed_networks: Vec<Network>,
    /// Aggregators whose cohorts may be joined; empty for any.
    #[serde(with = "keys")]
    pub allowed_aggregators: Vec<NostrKey>,
    /// Joins cohorts that fit by itself. Needs `allowed_aggregators`.
    pub auto_join: bool,
    /// What a round is answered with when there is no update.
    pub when_no_update: WhenNoUpdate,
    /// Whether updates are deposited with aggregators that take deposits, where `did update` does not say: the
    /// aggregator sees DID, document and update, and verifies them.
    pub deposit_updates: bool,
    /// Fewest members a cohort may be set to have.
    pub min_members: u32,
    /// Most members a cohort may be set to have.
    pub max_members: u32,
    /// Most a signal may pay, in sat/vB: nothing above is signed.
    pub max_fee_rate: u32,
    /// Cohorts this agent is in at the same time.
    pub max_cohorts: u32,
}

impl Default for Participant {
    fn default() -> Self {
        Self {
            allowed_networks: Network::ALL
                .into_iter()
                .filter(|network| !network.carries_value())
                .collect(),
            allowed_aggregators: Vec::new(),
            auto_join: false,
            when_no_update: WhenNoUpdate::NoUpdate,
            deposit_updates: false,
            min_members: 2,
            max_members: 50,
            max_fee_rate: 100,
            max_cohorts: 10,
        }
    }
}

/// What a round is answered with when there is no update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenNoUpdate {
    /// The statement that nothing changes, which is announced: resolvers can tell it from silence.
    NoUpdate,
    /// Idle: if all are, the round needs no transaction.
    Idle,
}

/// What others can link. Seat keys unlink authorship only: whoever sees one connection still sees
/// one address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Privacy {
    /// The key of a new seat.
    pub seat: SeatKey,
    /// How relays are connected to.
    pub connections: Connections,
    /// Address of a SOCKS5 proxy for relays and chain; none to connect directly.
    #[serde(deserialize_with = "proxy", skip_serializing_if = "Option::is_none")]
    pub proxy: Option<SocketAddr>,
}

/// The key of a new seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum SeatKey {
    /// A fresh one per cohort.
    #[default]
    Fresh,
    /// The agent's identity, the same everywhere.
    Identity,
}

/// Mainnet, and how much may be at stake: on every network, so that what is tried on a test network is what holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Money {
    /// Whether mainnet may be used by an agent that is started with `run --mainnet`. Neither does anything alone.
    pub mainnet: bool,
    /// The highest fee of one transaction, in sat: nothing above is signed or sent.
    pub max_fee_sat: u64,
    /// The most that is asked for at once, in sat.
    pub max_funding_sat: u64,
    /// The most an address may hold together with what is asked for, in sat.
    pub max_balance_sat: u64,
}

impl Default for Money {
    fn default() -> Self {
        Self {
            mainnet: false,
            max_fee_sat: 50_000,
            max_funding_sat: 1_000_000,
            max_balance_sat: 2_000_000,
        }
    }
}

/// Bounds of fee rates, one table per network.
pub type Fees = PerNetwork<Fee>;

impl DefaultOf for Fee {
    fn default_of(network: Network) -> Self {
        let test = Self::default();
        match network {
            // Where blocks are full, what waits at 2 sat/vB may wait for weeks.
            Network::Bitcoin => Self {
                fallback: 10,
                ..test
            },
            _ => test,
        }
    }
}

/// Bounds of the fee rates of one network, in sat/vB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fee {
    /// Never less is paid.
    pub floor: u32,
    /// Never more is paid or signed.
    pub ceiling: u32,
    /// What is paid when the chain backend has no estimate.
    pub fallback: u32,
}

impl Default for Fee {
    fn default() -> Self {
        Self {
            floor: 1,
            ceiling: 200,
            fallback: 2,
        }
    }
}

/// How relays are connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Connections {
    /// One connection per relay, for all seats.
    #[default]
    Shared,
    /// One connection per relay and seat.
    Isolate,
}

/// Bounds of what the agent uses of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Relays connected to at the same time.
    pub relays: u32,
    /// Largest size of the store, in MiB.
    pub store_mib: u32,
    /// Most proof of work done for a seat without being asked, in leading zero bits (20 take a fraction of a second).
    pub pow_bits: u32,
    /// Subscribers told of new cohorts; 0 for none.
    pub subscribers: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            relays: 16,
            store_mib: 4_096,
            pow_bits: 20,
            subscribers: 1_000,
        }
    }
}

fn proxy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(|_| {
        serde::de::Error::custom(format!(
            "{text:?} is not the address of a proxy: use an IP address and a port, like 127.0.0.1:9050"
        ))
    })
}

mod relay_urls {
    use super::*;

    pub(super) fn serialize<S: Serializer>(urls: &[RelayUrl], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(urls.iter().map(RelayUrl::as_str))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<RelayUrl>, D::Error> {
        let texts = Vec::<String>::deserialize(d)?;
        texts
            .iter()
            .map(|text| super::super::relays::parse_url(text).map_err(serde::de::Error::custom))
            .collect()
    }
}

mod keys {
    use super::*;
    use ::nostr::nips::nip19::FromBech32 as _;

    pub(super) fn serialize<S: Serializer>(keys: &[NostrKey], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(keys)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<NostrKey>, D::Error> {
        let texts = Vec::<String>::deserialize(d)?;
        texts
            .iter()
            .map(|text| parse(text).map_err(serde::de::Error::custom))
            .collect()
    }

    fn parse(text: &str) -> Result<NostrKey, String> {
        if text.starts_with("nsec1") || text.starts_with("ncryptsec1") {
            // A secret pasted by mistake is not repeated.
            return Err("a secret key does not belong here: use the npub".to_owned());
        }
        let bech32 = || {
            let key = ::nostr::PublicKey::from_bech32(text).ok()?;
            NostrKey::from_bytes(key.as_bytes()).ok()
        };
        text.parse().ok().or_else(bech32).ok_or_else(|| {
            format!("{text:?} is not a public key: use npub1… or 64 lower-case hex digits")
        })
    }
}
