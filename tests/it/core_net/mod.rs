//! The pure core, both roles, whole cohorts in one thread: happy paths with known answers, and every
//! threat of the threat model as a test that is named after it.

mod admission;
mod agg_restored;
mod chain;
mod coverage;
mod deposits;
mod deposits_bounds;
mod deposits_refused;
mod effects;
mod exports;
mod fallback;
mod fallback_refused;
mod fallback_replaced;
mod fixed;
mod formation;
mod happy;
mod history;
mod ladder;
mod money;
pub mod net;
mod node;
mod order;
mod recovered;
mod reform;
mod refunds;
mod replacing;
mod requests;
mod reseated;
mod responses;
mod rounds;
mod said_before;
mod sessions;
mod snapshots;
mod spares;
mod strangers;
mod topups;
mod watch;
