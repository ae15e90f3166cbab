//! Whole agents over a real relay on loopback: cohorts form, announce and confirm, and after every round
//! everything that must be durable is read back from the members' own files and recomputed.
//!
//! Nothing here sleeps: tests wait for what agents report, with deadlines that only a failure reaches.

mod acts;
mod checks;
mod clocks;
pub mod company;
mod copies;
mod deposits;
pub mod fallback;
mod formation;
mod joining;
mod keeping;
mod life;
mod money;
pub mod play;
mod pruning;
mod psbts;
mod publishing;
mod relays;
pub mod replacing;
mod restarts;
mod rounds;
mod secrets;
mod singly;
mod snapshots;
mod storm;
mod strangers;
mod words;
