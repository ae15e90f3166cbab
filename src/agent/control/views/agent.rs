//! The agent itself: status, relays, keys, follows.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{CohortSummaryView, DeliveryView};
use crate::agent::control::PeerText;
use crate::hash::CohortId;
use crate::keys::NostrKey;
use crate::network::Network;
use crate::nostr::information::RelayLimits;
use crate::nostr::outbox::Budget;
use crate::time::UnixTime;

/// Answer of `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// Version of the daemon.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Now, by the daemon's clock.
    pub now: UnixTime,
    /// When it started.
    pub started_at: UnixTime,
    /// The home directory.
    pub home: String,
    /// The agent's identity.
    pub identity: NostrKey,
    /// The chain backend, one per network in use.
    pub chains: Vec<ChainView>,
    /// The relays.
    pub relays: Vec<RelayView>,
    /// The cohorts that have not ended.
    pub cohorts: Vec<CohortSummaryView>,
    /// Messages of current rounds, by cohort.
    pub delivery: Vec<CohortDeliveryView>,
    /// What waits to be sent or acknowledged.
    pub outbox: OutboxView,
    /// Messages that were ignored, by reason.
    pub ignored: Vec<CounterView>,
    /// What relays serve strangers of this agent's adverts.
    #[serde(default)]
    pub adverts: Vec<AdvertServedView>,
    /// What needs a person.
    pub alarms: Vec<AlarmView>,
}

/// Who serves an advert of this agent to a stranger: read back over connections of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdvertServedView {
    /// The cohort.
    pub cohort: CohortId,
    /// When it was read back; absent if it was not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked_at: Option<UnixTime>,
    /// Relays that served it.
    pub served: u32,
    /// Relays that were asked.
    pub relays: u32,
    /// Those that did not, and why.
    pub missing: Vec<MissingAtView>,
}

/// A relay that does not serve an advert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingAtView {
    /// The relay.
    pub url: String,
    /// Why, in its or our words.
    pub reason: PeerText,
}

/// The messages of a cohort's current round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CohortDeliveryView {
    /// The cohort.
    pub cohort: CohortId,
    /// The messages.
    pub messages: Vec<DeliveryView>,
}

/// The outbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxView {
    /// Messages not yet taken by enough relays.
    pub unpublished: u32,
    /// Messages not yet acknowledged by their recipient.
    pub unacknowledged: u32,
    /// When the oldest of these was first sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_at: Option<UnixTime>,
}

/// How often something happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterView {
    /// Stable snake_case code of the reason.
    pub reason: String,
    /// How often since the start.
    pub count: u64,
}

/// Something that needs a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlarmView {
    /// Since when.
    pub at: UnixTime,
    /// Stable snake_case code.
    pub code: String,
    /// One sentence.
    pub text: PeerText,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// A chain backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainView {
    /// The network.
    pub network: Network,
    /// Where: the URL without user name and password.
    pub backend: String,
    /// The height of its tip, when it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// When the tip was last asked for successfully.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_at: Option<UnixTime>,
    /// Why it can not be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<PeerText>,
}

/// State of a relay connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayState {
    /// Nothing needs it now, or no daemon runs.
    Unused,
    /// Being connected to.
    Connecting,
    /// Connected and caught up.
    Connected,
    /// Connected; it has not served its stored events yet.
    CatchingUp,
    /// Lost; it will be tried again.
    Waiting,
    /// It can not be used; `reason` says why.
    Refused,
}

impl fmt::Display for RelayState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unused => "unused",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::CatchingUp => "catching up",
            Self::Waiting => "waiting",
            Self::Refused => "refused",
        })
    }
}

/// Where a relay was configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RelaySource {
    /// The defaults in the binary.
    Default,
    /// The home directory's relays.toml.
    Configured,
    /// Terms of a joined cohort.
    Cohort,
}

impl fmt::Display for RelaySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Default => "default",
            Self::Configured => "configured",
            Self::Cohort => "cohort",
        })
    }
}

/// What is remembered of a relay over restarts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayHealthView {
    /// Since when it is counted what it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted_since: Option<UnixTime>,
    /// When something last worked: a connection, an answer, an event it served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_worked: Option<UnixTime>,
    /// When a connection last failed or ended, or an event was not answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failed: Option<UnixTime>,
    /// How often that happened since something worked.
    pub failures_in_row: u32,
    /// What the last failure was, in the library's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<PeerText>,
}

/// A relay and what it did, over restarts of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayView {
    /// The URL.
    pub url: String,
    /// Whether it is read from.
    pub read: bool,
    /// Whether it is written to.
    pub write: bool,
    /// For which networks; none means all.
    pub networks: Vec<Network>,
    /// Where it was configured.
    pub source: RelaySource,
    /// Its connection.
    pub state: RelayState,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<UnixTime>,
    /// Messages it took.
    pub accepted: u64,
    /// Messages it refused.
    pub refused: u64,
    /// Messages it never answered.
    pub silent: u64,
    /// Events it served.
    pub received: u64,
    /// Milliseconds it takes to answer an event, averaged over the last ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_ms: Option<u64>,
    /// Seconds by which its clock is ahead of this machine's; behind if negative.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_ahead_s: Option<i64>,
    /// What it says it takes (NIP-11), if it said anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<RelayLimits>,
    /// How much it is sent at most, if there is a budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// When it worked and failed; absent if nothing was ever seen of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<RelayHealthView>,
    /// Its last refusal or error, in its own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<PeerText>,
}

/// Answer of `relay list`, `relay add` and `relay remove`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayListView {
    /// When this was so.
    #[serde(default)]
    pub now: UnixTime,
    /// The relays.
    pub relays: Vec<RelayView>,
}

/// Answer of `relay probe`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayProbeView {
    /// When they were probed.
    #[serde(default)]
    pub now: UnixTime,
    /// One result per relay.
    pub relays: Vec<ProbeView>,
}

/// What trying a relay showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeView {
    /// The relay.
    pub url: String,
    /// Milliseconds until the WebSocket was open; absent when it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_ms: Option<u64>,
    /// What it calls itself (NIP-11).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<PeerText>,
    /// Its software (NIP-11).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub software: Option<PeerText>,
    /// Whether it took an event of our kinds; absent when not tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrote: Option<bool>,
    /// Whether it served that event on another connection; absent when not tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_back: Option<bool>,
    /// Milliseconds until it answered the first event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_ms: Option<u64>,
    /// Which of the events that an agent sends it took and served.
    #[serde(default)]
    pub kinds: Vec<KindProbeView>,
    /// What it says it takes (NIP-11), if it said anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<RelayLimits>,
    /// Seconds by which its clock is ahead of this machine's; behind if negative.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_ahead_s: Option<i64>,
    /// The event that the last probe left there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<KeptView>,
    /// Whether it asks for authentication (NIP-42).
    pub wants_auth: bool,
    /// Proof of work it asks for (NIP-13), in bits; 0 is none.
    pub wants_pow: u8,
    /// What was known of it before; absent if nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<RelayHealthView>,
    /// What went wrong or is worth knowing.
    pub notes: Vec<PeerText>,
}

/// One event of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindProbeView {
    /// Its kind.
    pub kind: u16,
    /// Its size in bytes of JSON.
    pub bytes: u32,
    /// Whether the relay took it; absent if it did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<bool>,
    /// Whether it served it on another connection; absent when not tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<bool>,
}

/// Whether a relay kept the event that an earlier probe left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptView {
    /// When it was left there.
    pub since: UnixTime,
    /// Whether it is still served.
    pub served: bool,
}

/// An aggregator this agent follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowView {
    /// Its key.
    pub aggregator: NostrKey,
    /// Since when.
    pub since: UnixTime,
    /// Relay hints it came with.
    pub relays: Vec<PeerText>,
    /// Whether it was told.
    pub told: bool,
    /// Open cohorts of it that are known.
    pub open_cohorts: u32,
}

/// Answer of `follow`, `unfollow` and `followed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowedView {
    /// When this was so.
    pub now: UnixTime,
    /// The aggregators.
    pub followed: Vec<FollowView>,
}

/// Answer of `subscribers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscribersView {
    /// When this was so.
    pub now: UnixTime,
    /// Who follows this agent and said so.
    pub subscribers: Vec<SubscriberView>,
}

/// One subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriberView {
    /// Its key.
    pub key: NostrKey,
    /// Since when.
    pub since: UnixTime,
}

/// Answer of `init`. The words are not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitView {
    /// The home directory.
    pub home: String,
    /// The agent's identity.
    pub identity: NostrKey,
    /// The network new cohorts and DIDs are for.
    pub network: Network,
    /// Whether a passphrase protects the keystore.
    pub encrypted: bool,
    /// Where the root secret comes from.
    pub origin: KeyOrigin,
}

/// Where a root secret comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyOrigin {
    /// Generated here.
    Generated,
    /// Recovery words.
    Words,
    /// An nsec.
    Nsec,
}

impl fmt::Display for KeyOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Generated => "generated here",
            Self::Words => "recovery words",
            Self::Nsec => "an imported nsec",
        })
    }
}

/// Answer of `key show`: public parts only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    /// The agent's identity.
    pub identity: NostrKey,
    /// Whether a passphrase protects the keystore.
    pub encrypted: bool,
    /// Where the root secret comes from.
    pub origin: KeyOrigin,
    /// The keystore file.
    pub file: String,
}
