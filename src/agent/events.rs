//! What an agent tells whoever listens.

use crate::hash::CohortId;
use crate::keys::NostrKey;
use crate::network::Network;
use crate::protocol::effect::Report;
use crate::protocol::funding::PaymentMoved;
use crate::store::Role;
use crate::time::UnixTime;

/// Something that happened, for whoever listens.
#[derive(Debug, Clone)]
pub struct AgentEvent {
    /// When.
    pub at: UnixTime,
    /// In which cohort.
    pub cohort: Option<CohortId>,
    /// In which role.
    pub role: Option<Role>,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum What {
    /// The core reports.
    Report(Report),
    /// An advert was found and checked.
    AdvertFound {
        /// Its aggregator.
        aggregator: NostrKey,
        /// Its status.
        status: String,
    },
    /// A DID may be used: its registration is acknowledged and its history complete.
    DidReady {
        /// The DID.
        did: String,
    },
    /// An update of a DID is on the chain.
    DidUpdated {
        /// The DID.
        did: String,
        /// Its version now.
        version: u64,
    },
    /// A signal of a DID's own beacon moved.
    Announcement {
        /// The DID.
        did: String,
        /// The version its update leads to.
        version: u64,
        /// The transaction.
        txid: bitcoin::Txid,
        /// Where it stands.
        standing: crate::store::SpendStanding,
    },
    /// A relay connected or was lost.
    Relay {
        /// Its address.
        url: String,
        /// Whether it is connected.
        connected: bool,
        /// Why not.
        reason: String,
    },
    /// The chain backend was reached, or was not.
    Chain {
        /// The network.
        network: Network,
        /// The height, or why there is none.
        state: Result<u32, String>,
    },
    /// Another copy of this agent was seen at work.
    AnotherCopy {
        /// What was seen.
        sighting: super::copies::Sighting,
        /// Whether this copy stops for it; otherwise the other one will.
        stops: bool,
    },
    /// Wall and monotonic clock disagree; secret nonces were dropped.
    ClockSlipped {
        /// How.
        slip: super::clocks::Slip,
        /// How many nonces.
        dropped: usize,
    },
    /// A payment to a cohort's beacon moved.
    Payment(PaymentMoved),
    /// Money is stopped: nothing is spent and nobody asked to pay until the agent is started again without the switch.
    MoneyStopped {
        /// Why, as the operator said it.
        reason: Option<String>,
    },
    /// A message came that counts for nothing.
    Ignored {
        /// Why.
        reason: String,
    },
}

/// The state of one chain backend, for people.
#[derive(Debug, Clone, Default)]
pub struct ChainState {
    /// Height of the best block, once known.
    pub height: Option<u32>,
    /// The last failure, if the last poll failed.
    pub error: Option<String>,
}
