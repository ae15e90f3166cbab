//! Integration tests, one binary: linking is what costs.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod beacon_vectors;
mod chain;
mod cli;
mod core_net;
mod did_vectors;
mod e2e;
mod musig_vectors;
mod node;
mod nostr;
mod protocol_doc;
mod store;
