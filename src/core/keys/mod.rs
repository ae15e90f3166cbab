//! Keys: root secret, derivation, encrypted keystore, MuSig2.

pub mod code;
pub mod keystore;
pub mod musig;
pub mod names;
pub mod public;
pub mod root;
pub mod secret;
pub mod signer;

#[cfg(test)]
mod bip327_tests;

pub use code::InviteCode;
pub use musig::{AggregateNonce, KeySet, PartialSignature, PublicNonce, SessionEntry, SessionHash};
pub use public::{KeyName, NostrKey};
pub use root::RootSecret;
pub use secret::OwnKey;
pub use signer::{NonceSlot, Signer, SignerError};
