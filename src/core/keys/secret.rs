//! One secret key that its owner may use: never printed, compared, cloned or serialised.

use std::fmt;

use secp256k1::{Keypair, Parity, SECP256K1, SecretKey};

use super::public::NostrKey;
use crate::hash::SchnorrSignature;

/// A secret key whose point has even Y, with its public key.
///
/// A secret whose point has odd Y is negated once, here, so that the Nostr key `x` and the MuSig2 key
/// `02 ‖ x` have the same secret (DESIGN §3). The memory is overwritten on drop.
pub struct OwnKey {
    keypair: Keypair,
    public: NostrKey,
}

/// The 32 bytes are zero or not below the order of the curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a secret key of secp256k1")]
pub struct InvalidSecret;

impl OwnKey {
    /// Takes 32 secret bytes; negates them if their point has odd Y.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, InvalidSecret> {
        let mut secret = SecretKey::from_slice(bytes).map_err(|_| InvalidSecret)?;
        let (x_only, parity) = secret.x_only_public_key(SECP256K1);
        if parity == Parity::Odd {
            secret = secret.negate();
        }
        let keypair = Keypair::from_secret_key(SECP256K1, &secret);
        secret.non_secure_erase();
        Ok(Self {
            keypair,
            public: NostrKey::new(x_only),
        })
    }

    /// The public key.
    #[must_use]
    pub const fn public(&self) -> NostrKey {
        self.public
    }

    /// Signs a 32-byte digest (BIP-340, fresh auxiliary randomness from the operating system).
    #[must_use]
    pub fn sign_digest(&self, digest: &[u8; 32]) -> SchnorrSignature {
        let message = secp256k1::Message::from_digest(*digest);
        let signature = SECP256K1.sign_schnorr(&message, &self.keypair);
        SchnorrSignature::from_bytes(signature.serialize())
    }

    /// The key pair, for the few modules that sign or agree on keys (`keys`, `nostr`, `did`).
    #[must_use]
    pub const fn keypair(&self) -> &Keypair {
        &self.keypair
    }
}

impl Drop for OwnKey {
    fn drop(&mut self) {
        self.keypair.non_secure_erase();
    }
}

impl fmt::Debug for OwnKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnKey(secret of {})", self.public)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_points_are_negated_once() {
        // d = 1 has even Y; d = 6 has odd Y (03fff97bd5…), so its negation is the secret used.
        let even = OwnKey::from_bytes(&{
            let mut d = [0; 32];
            d[31] = 1;
            d
        })
        .unwrap();
        assert_eq!(even.keypair().secret_bytes()[31], 1);
        let odd = OwnKey::from_bytes(&{
            let mut d = [0; 32];
            d[31] = 6;
            d
        })
        .unwrap();
        assert_eq!(
            odd.public().to_string(),
            "fff97bd5755eeea420453a14355235d382f6472f8568a18b2f057a1460297556"
        );
        assert_eq!(
            crate::hash::to_hex(&odd.keypair().secret_bytes()),
            "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd036413b"
        );
        assert_eq!(
            odd.keypair().public_key(),
            odd.public().even_point(),
            "the key pair is the even one"
        );
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = OwnKey::from_bytes(&[7; 32]).unwrap();
        assert!(!format!("{key:?}").contains(&crate::hash::to_hex(&[7; 32])));
    }
}
