//! did:btcr2 identifiers, documents, JSON hashing and signed updates.
//!
//! Pure: no clock, no random source, no network. What comes from outside is parsed once into these
//! types; nothing here panics on it.
//!
//! | module | what it is |
//! |---|---|
//! | [`identifier`] | [`Did`]: encoding and strict decoding |
//! | [`json`] | strict parsing, RFC 8785, document hash, IPFS address |
//! | [`document`] | [`Document`]: a conformant document and its beacons and methods |
//! | [`multikey`], [`initial`], [`genesis`] | keys, the initial documents of `k1` and `x1` |
//! | [`patch`], [`builder`] | [`DocumentPatch`]: RFC 6902; the changes people name, as one |
//! | [`update`], [`mod@verify`] | unsigned and signed updates; applying one |
//! | [`datetime`] | XML dateTime, as proofs and resolution options write it |
//! | [`error`] | error codes and the ids of rules |

pub mod builder;
mod conformance;
pub mod datetime;
pub mod document;
pub mod error;
pub mod genesis;
pub mod identifier;
pub mod initial;
pub mod json;
pub mod multikey;
pub mod patch;
pub mod update;
pub mod verify;

pub use builder::PatchBuilder;
pub use document::{BeaconKind, BeaconService, Document, InvalidDocument, VerificationMethod};
pub use error::{ErrorCode, Rule};
pub use genesis::{GenesisBuilder, GenesisDocument};
pub use identifier::{Did, IdKind, InvalidDid};
pub use initial::{KeyAddress, initial_key_document};
pub use patch::DocumentPatch;
pub use update::{SignedUpdate, UnsignedUpdate};
pub use verify::{UpdateFault, VerifyOptions, verify};
