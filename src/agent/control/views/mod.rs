//! What the operations answer: plain data, rendered by the command line or printed as JSON.
//!
//! Units are in the names (`_sat`, `_s`, `_ms`, `_bytes`); times are [`UnixTime`] (seconds since
//! 1970); keys, ids and transaction ids are hex. Everything a peer, relay or server wrote is
//! [`PeerText`](super::PeerText). A field that is not known is absent in JSON, never a guess.
//!
//! [`UnixTime`]: crate::time::UnixTime

mod admission;
mod agent;
mod backup;
mod cohort;
mod demo;
mod did;
mod doctor;
mod keeping;
mod money;
mod psbt;
mod publish;
mod refund;
mod round;
mod singleton;
mod terms;
mod update;

pub use admission::*;
pub use agent::*;
pub use backup::*;
pub use cohort::*;
pub use demo::*;
pub use did::*;
pub use doctor::*;
pub use keeping::*;
pub use money::*;
pub use psbt::*;
pub use publish::*;
pub use refund::*;
pub use round::*;
pub use singleton::*;
pub use terms::*;
pub use update::*;
