//! Keys: root secret, derivation, encrypted keystore, MuSig2.

pub mod public;
pub mod secret;

pub use public::NostrKey;
pub use secret::OwnKey;
