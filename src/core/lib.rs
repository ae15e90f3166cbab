//! The pure half of btcr2-agent: everything that decides, and nothing that waits.
//!
//! No socket, clock, file or thread is opened here, and no random number is drawn but where a secret is made. Time,
//! randomness, messages and the chain come in as values; what is to be done comes out as effects. The `btcr2-agent`
//! crate carries them out, and re-exports these modules under the same names.
//!
//! It is a crate of its own so that it can be optimised where the rest is not: the simulator runs thousands of cohorts
//! in `cargo test` (docs/simulator.md).
//!
//! | module | what it is |
//! |---|---|
//! | [`hash`], [`time`], [`network`] | values everything else is made of |
//! | [`keys`] | root secret, derivation, encrypted keystore, MuSig2 (public arithmetic and the signer) |
//! | [`did`] | identifiers, documents, JSON hashing, signed updates |
//! | [`beacon`] | sparse Merkle tree, CAS announcement, beacon address, signal transaction |
//! | [`resolver`] | did:btcr2 resolution: asks for chain data, CAS objects and sidecar, and is fed answers |
//! | [`protocol`] | terms, messages, and the state machines of aggregator and participant |
//! | [`nostr`] | events, ciphertexts, lanes, outbox |

pub mod beacon;
#[cfg(feature = "rusqlite")]
mod columns;
pub mod did;
pub mod hash;
pub mod keys;
pub mod network;
pub mod nostr;
pub mod protocol;
pub mod resolver;
pub mod time;
