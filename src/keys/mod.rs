//! Keys: root secret, derivation, encrypted keystore, MuSig2.

pub mod musig;
pub mod public;
pub mod secret;
pub mod signer;

pub use musig::{AggregateNonce, KeySet, PartialSignature, PublicNonce, SessionEntry, SessionHash};
pub use public::NostrKey;
pub use secret::OwnKey;
pub use signer::{NonceSlot, Signer, SignerError};
