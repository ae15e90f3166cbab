//! The pure core of the protocol (DESIGN §5): terms, messages, aggregator, participant.

pub mod ids;

pub use ids::{Label, Round, Seat, SessionId};
