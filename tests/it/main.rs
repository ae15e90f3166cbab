//! Integration tests, one binary: linking is what costs.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod beacon_vectors;
mod cas;
mod chain;
mod cli;
mod core_net;
// Fail points exist where debug assertions do.
#[cfg(all(unix, debug_assertions))]
mod crash;
mod did_vectors;
mod e2e;
mod entry_points;
mod keep;
mod lookup;
mod musig_vectors;
mod node;
mod nostr;
mod protocol_doc;
mod resolver;
mod security_doc;
mod serve;
mod store;
mod synthetic;
