//! The pure core of the protocol (DESIGN §5): terms, messages, and both roles' state machines.
//!
//! Nothing here knows a clock, a socket, a file or a random source, and nothing here holds a secret.
//! Inputs come in with the time; effects go out, in the order in which they must be carried out.

pub mod admission;
pub mod aggregator;
pub mod chain_view;
pub mod conduct;
pub mod confirmation;
pub mod deposit;
pub mod effect;
pub mod evidence;
pub mod export;
pub mod fallback_message;
pub mod fees;
mod formation_message;
pub mod funding;
pub mod history;
pub mod ids;
pub mod kept;
pub mod ladder;
pub mod message;
pub mod money;
pub mod nonce_audit;
pub mod participant;
pub mod proof_message;
pub mod quota;
pub mod raw_json;
pub mod reform;
pub mod refund_message;
pub mod registration;
mod report;
pub mod round_failed;
pub mod set;
pub mod snapshot;
pub mod terms;

pub use ids::{Label, Round, Seat, SessionId, Subject};
