//! btcr2-agent: update aggregation for did:btcr2 over Nostr, both roles.
//!
//! Dependencies point inwards. The pure core (the crate [`btcr2_core`], whose modules are here under their own names)
//! knows no socket, clock, file or random source; [`agent`] feeds it and carries out its effects.
//!
//! | module | what it is |
//! |---|---|
//! | [`hash`], [`time`], [`network`] | values everything else is made of |
//! | [`keys`] | root secret, derivation, encrypted keystore, MuSig2 (public arithmetic and the signer) |
//! | [`did`] | identifiers, documents, JSON hashing, signed updates |
//! | [`beacon`] | sparse Merkle tree, CAS announcement, beacon address, signal transaction |
//! | [`resolver`] | did:btcr2 resolution: asks for chain data, CAS objects and sidecar, and is fed answers |
//! | [`protocol`] | terms, messages, and the state machines of aggregator and participant |
//! | [`nostr`] | relay connections; events, lanes and outbox of the core |
//! | [`chain`] | chain backends, and the in-process regtest chain |
//! | [`cas`] | content-addressed storage: reading and publishing over IPFS's HTTP interfaces |
//! | [`lookup`] | drives a resolver: from a chain backend or a recording, with CAS and limits; HTTP interface |
//! | [`store`] | SQLite: log, outbox, artifacts |
//! | [`config`] | typed configuration, home directory, relays |
//! | [`agent`] | the runtime that owns clock, randomness and secrets |
//! | [`demo`] | relay, chain and agents in one process |
//! | [`cli`] | commands and what they print |

pub mod agent;
pub mod cas;
pub mod chain;
pub mod cli;
pub mod config;
pub mod demo;
mod failpoint;
pub mod lookup;
pub mod nostr;
pub mod store;

pub(crate) use failpoint::fail_point;

pub use btcr2_core::{beacon, did, hash, keys, network, protocol, resolver, time};
