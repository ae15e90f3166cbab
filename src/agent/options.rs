//! What an agent is started with.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::money::MoneyOptions;
use crate::cas::CasReader;
use crate::chain::ChainBackend;
use crate::keys::{NostrKey, RootSecret};
use crate::network::Network;
use crate::nostr::link::{LinkOptions, RelayConfig};
use crate::protocol::conduct::STALLED_AFTER;
use crate::protocol::participant::SigningPolicy;
use crate::store::Store;
use crate::time::UnixTime;

/// What an agent is started with.
pub struct AgentOptions {
    /// The root secret.
    pub root: RootSecret,
    /// The opened store.
    pub store: Store,
    /// Relays to use.
    pub relays: Vec<RelayConfig>,
    /// How connections behave.
    pub link: LinkOptions,
    /// Chain backends, with the time between two polls.
    pub chains: Vec<(Network, ChainBackend, Duration)>,
    /// What it may do with money.
    pub money: MoneyOptions,
    /// What this agent signs without asking.
    pub policy: SigningPolicy,
    /// What it joins and does by itself.
    pub standing: StandingPolicy,
    /// What it does for others as an aggregator.
    pub service: ServicePolicy,
    /// Where to keep the encrypted bundle of a store that is a file; nowhere if there is none.
    pub bundle: Option<std::path::PathBuf>,
    /// Content-addressed storage to look for updates and announcements of this agent's DIDs that are not stored
    /// here; it learns what is looked for.
    pub cas: Option<CasReader>,
    /// Confirmations that the last update of a DID needs before the next one is signed. Rounds of a cohort ask
    /// for six whatever this says (spec.md §3.2, step 5).
    pub min_conf: u32,
    /// Ask the relays of this list what they are and what time it is (NIP-11), once a day.
    pub describe_relays: bool,
    /// Entries of a cohort's log after which a snapshot of its state is taken: [`SNAPSHOT_AFTER`] but in tests.
    pub snapshot_after: u64,
    /// The clock.
    pub clock: Clock,
}

#[cfg(test)]
impl AgentOptions {
    /// An agent that talks to nobody: a fresh secret, an empty store in memory, this clock.
    pub(crate) fn alone(clock: Clock) -> Self {
        use crate::protocol::participant::Decline;

        Self {
            root: RootSecret::generate(&mut rand::rngs::OsRng),
            store: Store::open_in_memory().unwrap(),
            relays: Vec::new(),
            link: LinkOptions::default(),
            chains: Vec::new(),
            money: MoneyOptions::default(),
            policy: SigningPolicy {
                max_fee_rate: 1,
                max_fee_sat: 50_000,
                decline: Decline::Idle,
            },
            standing: StandingPolicy::default(),
            service: ServicePolicy::default(),
            cas: None,
            min_conf: 6,
            bundle: None,
            describe_relays: false,
            snapshot_after: snapshot_after(),
            clock,
        }
    }
}

/// The written policy by which an agent acts when nobody is there (DESIGN §2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StandingPolicy {
    /// Join cohorts of followed aggregators that fit.
    pub auto_join: bool,
    /// Only these aggregators.
    pub allowed_aggregators: BTreeSet<NostrKey>,
    /// Only these networks.
    pub allowed_networks: BTreeSet<Network>,
    /// Most seats a cohort may have.
    pub max_members: u16,
    /// Highest fee rate the terms may allow, in sat/vB.
    pub max_fee_rate: u32,
    /// Most cohorts to be a member of at once.
    pub max_cohorts: usize,
    /// Also cohorts that require deposits: updates are deposited anyway.
    pub deposit_updates: bool,
}

/// Entries of a cohort's log after which a snapshot of its state is taken, unless the snapshot is four times as large
/// as they are: some forty rounds of three members. A start replays twice as many at most.
pub const SNAPSHOT_AFTER: u64 = 500;

/// The same, or what a test says.
#[must_use]
pub fn snapshot_after() -> u64 {
    #[cfg(debug_assertions)]
    if let Some(rows) = crate::failpoint::snapshot_after() {
        return rows;
    }
    SNAPSHOT_AFTER
}

/// How an aggregator serves others, where that is no term of a cohort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServicePolicy {
    /// Most keys that may subscribe to new cohorts; 0 for none.
    pub max_subscribers: u64,
    /// Rounds in a row without an answer after which the operator is told how to go on without a seat.
    ///
    /// No term: nothing that a member checks depends on it. An offer to go on without somebody can be made at any time,
    /// for any reason that is said; and a number of absences, which only the aggregator sees, could not be held against
    /// it anyway.
    pub stalled_after: u16,
}

impl Default for ServicePolicy {
    fn default() -> Self {
        Self {
            max_subscribers: 1_000,
            stalled_after: STALLED_AFTER,
        }
    }
}

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> UnixTime + Send + Sync>;

/// The clock of this machine.
#[must_use]
pub fn system_clock() -> Clock {
    Arc::new(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        #[cfg(debug_assertions)]
        let now = now.saturating_add_signed(crate::failpoint::clock_offset());
        UnixTime(now)
    })
}
