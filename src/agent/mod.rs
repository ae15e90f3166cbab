//! The runtime: feeds the core, carries out its effects, owns the clock and the randomness.
//!
//! One [`Agent`] owns everything that changes: the store, the state machines of its cohorts, the signer.
//! It handles one input at a time. For each, log entry, outbox rows and artifacts are one transaction;
//! only then is anything sent, signed or broadcast (DESIGN §6, rules 1, 5 and 8).

pub mod admitting;
pub mod adverts;
mod alarms;
mod answering;
pub mod backend;
pub mod backup;
mod broadcasting;
pub mod bundle;
mod causes;
mod chain_news;
pub mod chains;
mod changes;
pub mod clocks;
pub mod control;
pub mod copies;
mod creating;
mod delivery;
mod depositing;
pub mod dids;
pub mod error;
pub mod events;
mod feed;
pub mod former;
pub mod fresh;
pub mod handle;
mod held_keys;
mod inbound;
mod input_names;
mod journal;
pub mod launch;
pub mod leaving;
pub mod money;
mod node;
pub mod options;
pub mod outbound;
pub mod publishing;
mod quota;
pub mod recovery;
mod reforming;
mod refunding;
mod registering;
pub mod relay_health;
mod relay_lists;
mod relays;
mod replaying;
mod resuming;
mod routing;
pub mod runtime;
mod saving;
mod seats;
mod settling;
pub mod sidecar;
pub mod singleton;
mod snapshots;
mod standing;
mod subscribers;
pub mod timeline;
mod updating;
mod upkeep;
mod verifying;
mod watch;

pub use backend::AgentBackend;
pub use error::AgentError;
pub use events::{AgentEvent, ChainState, What};
pub use fresh::FreshResolution;
pub use handle::AgentHandle;
pub use money::MoneyOptions;
pub use options::{
    AgentOptions, Clock, ServicePolicy, StandingPolicy, snapshot_after, system_clock,
};
pub use runtime::Agent;
pub use sidecar::{MissingArtifact, MissingKind};
