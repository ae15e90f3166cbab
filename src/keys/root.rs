//! The root secret of an agent, and everything derived from it.
//!
//! One secret restores identity, seats, DID keys and SMT nonces (DESIGN §3). It has one of two forms:
//!
//! - **Words**: a BIP-39 English mnemonic without passphrase. Its seed makes the BIP-32 master key `m`.
//!   New roots have twelve words: their 128 bits are the security level of secp256k1 itself, so more words
//!   would only be more to copy wrongly. Any valid length is accepted.
//! - **nsec**: an imported Nostr secret key `d`. The BIP-32 master seed is the 64 bytes
//!   `HMAC-SHA512(key = "btcr2/root/1", data = d)`, where `d` is taken with even Y, so that a key and its
//!   negation, which have one npub, also have one tree.
//!
//! | secret | derivation |
//! |---|---|
//! | identity | words: `m/44'/1237'/0'/0/0` (NIP-06, so the words open the same npub in any Nostr client); nsec: `d` |
//! | seat of a cohort | `HMAC-SHA256(m/8327'/0', "btcr2/seat/1" ‖ cohort)` |
//! | DID key | `m/8327'/1'/network'/counter'`, with the did:btcr2 number of the network |
//! | SMT nonce | `HMAC-SHA256(m/8327'/2', cohort ‖ round ‖ index)`, round as 32 bits big-endian |
//! | bundle encryption key | `HMAC-SHA256(m/8327'/3', "btcr2/bundle/1")` |
//!
//! A path as HMAC key means the 32 bytes of its private key. 8327 is the Nostr kind of our messages; no BIP
//! uses it as purpose. All steps outside NIP-06's are hardened: a leaked child key leads nowhere. Should an
//! HMAC output not be a secret key (one chance in 2¹²⁸), the byte 1, then 2 and so on, is appended.
//!
//! These derivations are what a backup restores. They never change; a new scheme gets new tags.

use std::fmt;

use bip39::Mnemonic;
use bitcoin::NetworkKind;
use bitcoin::bip32::{ChainCode, ChildNumber, Xpriv};
use bitcoin::hashes::{Hash as _, HashEngine as _, Hmac, HmacEngine, sha256, sha512};
use rand::{CryptoRng, RngCore};
use secp256k1::SECP256K1;
use zeroize::{Zeroize as _, Zeroizing};

use super::names;
use super::secret::{InvalidSecret, OwnKey};
use crate::hash::{CohortId, SmtIndex, SmtNonce};
use crate::network::Network;
use crate::protocol::ids::Round;

/// The root secret of an agent. Its Debug form shows the public identity only.
pub struct RootSecret(Box<Derived>);

/// On the heap, so that moving the root leaves no copies behind; overwritten on drop.
struct Derived {
    origin: Origin,
    identity: Zeroizing<[u8; 32]>,
    seats: Zeroizing<[u8; 32]>,
    dids: Branch,
    smt_nonces: Zeroizing<[u8; 32]>,
    bundle: Zeroizing<[u8; 32]>,
}

/// What the tree grows from: exactly what the keystore has to keep.
pub(super) enum Origin {
    /// The mnemonic overwrites itself on drop.
    Words(Mnemonic),
    /// The identity key is the root.
    Nsec,
}

/// Why a text is not a root secret. Says where the text is wrong, never what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// Not 12, 15, 18, 21 or 24 words.
    #[error("{0} words: a root has 12, 15, 18, 21 or 24")]
    WordCount(usize),
    /// A word is not in the BIP-39 English list. Counted from 1.
    #[error("word {0} is not in the BIP-39 English word list")]
    UnknownWord(usize),
    /// All words are in the list, but the checksum is wrong: one is misread or misplaced.
    #[error("the words are not a root: one of them is wrong or out of place")]
    Checksum,
    /// Not an `nsec1…` or 64 hex digits, or no secret key of secp256k1.
    #[error("not a Nostr secret key: expected nsec1… or 64 hex digits")]
    NotASecretKey,
}

/// A counter of DID keys that BIP-32 has no hardened index for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("DID key counter {0} is above 2147483647")]
pub struct CounterTooLarge(pub u32);

/// Words of a newly generated root.
pub const NEW_ROOT_WORDS: usize = 12;

impl RootSecret {
    /// Makes a new root of [`NEW_ROOT_WORDS`] words from a cryptographic generator.
    pub fn generate<R: RngCore + CryptoRng>(rng: &mut R) -> Self {
        let mut entropy = Zeroizing::new([0; NEW_ROOT_WORDS / 3 * 4]);
        rng.fill_bytes(entropy.as_mut_slice());
        #[allow(clippy::expect_used)] // BIP-39 defines a mnemonic for every 16 bytes
        let words = Mnemonic::from_entropy(entropy.as_slice()).expect("16 bytes of entropy");
        Self::from_mnemonic(words)
    }

    /// Reads a BIP-39 English mnemonic; case and white space do not matter.
    pub fn from_words(words: &str) -> Result<Self, RootError> {
        let words = Zeroizing::new(words.to_lowercase());
        Mnemonic::parse_in_normalized(bip39::Language::English, &words)
            .map(Self::from_mnemonic)
            .map_err(|error| match error {
                bip39::Error::BadWordCount(count) => RootError::WordCount(count),
                bip39::Error::UnknownWord(index) => RootError::UnknownWord(index.saturating_add(1)),
                _ => RootError::Checksum,
            })
    }

    /// Reads a Nostr secret key: `nsec1…` or 64 hex digits.
    pub fn from_nsec(text: &str) -> Result<Self, RootError> {
        let secret = names::parse_secret_key(text).ok_or(RootError::NotASecretKey)?;
        Self::from_secret_bytes(&secret)
    }

    /// Takes the 32 bytes of a Nostr secret key.
    pub fn from_secret_bytes(secret: &[u8; 32]) -> Result<Self, RootError> {
        let identity = OwnKey::from_bytes(secret).map_err(|_| RootError::NotASecretKey)?;
        let even = Zeroizing::new(identity.keypair().secret_bytes());
        let mut engine = HmacEngine::<sha512::Hash>::new(b"btcr2/root/1");
        engine.input(even.as_slice());
        let seed = Zeroizing::new(Hmac::from_engine(engine).to_byte_array());
        // Exported again, it is the key that was imported, byte for byte.
        let imported = Zeroizing::new(*secret);
        Ok(Self::grow(Origin::Nsec, seed.as_slice(), Some(imported)))
    }

    pub(super) fn from_entropy(entropy: &[u8]) -> Result<Self, RootError> {
        Mnemonic::from_entropy(entropy)
            .map(Self::from_mnemonic)
            .map_err(|_| RootError::WordCount(entropy.len().saturating_mul(3) / 4))
    }

    fn from_mnemonic(words: Mnemonic) -> Self {
        let seed = Zeroizing::new(words.to_seed_normalized(""));
        Self::grow(Origin::Words(words), seed.as_slice(), None)
    }

    /// Derives every branch from the master seed.
    fn grow(origin: Origin, seed: &[u8], identity: Option<Zeroizing<[u8; 32]>>) -> Self {
        let master = Branch::master(seed);
        let own = master.hardened(8327);
        let identity = identity.unwrap_or_else(|| {
            let account = master.hardened(44).hardened(1237).hardened(0);
            account.normal(0).normal(0).secret()
        });
        Self(Box::new(Derived {
            origin,
            identity,
            seats: own.hardened(0).secret(),
            dids: own.hardened(1),
            smt_nonces: own.hardened(2).secret(),
            bundle: own.hardened(3).secret(),
        }))
    }

    /// The words of the root, to be written down; none if it was imported as nsec.
    #[must_use]
    pub fn words(&self) -> Option<SecretText> {
        match &self.0.origin {
            Origin::Words(words) => Some(SecretText::new(words.to_string())),
            Origin::Nsec => None,
        }
    }

    /// The identity key: the agent's npub, with which an aggregator signs its adverts.
    #[must_use]
    pub fn identity(&self) -> OwnKey {
        #[allow(clippy::expect_used)] // taken from a checked key or a BIP-32 derivation
        OwnKey::from_bytes(&self.0.identity).expect("the identity is a secret key")
    }

    /// The identity's secret as `nsec1…`, for use in another Nostr client.
    #[must_use]
    pub fn nsec(&self) -> SecretText {
        names::nsec(&self.0.identity)
    }

    /// The key of this agent's seat in a cohort: unlinkable to the identity and to its other seats.
    #[must_use]
    pub fn seat(&self, cohort: &CohortId) -> OwnKey {
        let seed = |counter: &[u8]| {
            hmac(
                &self.0.seats,
                &[b"btcr2/seat/1", cohort.as_bytes(), counter],
            )
        };
        #[allow(clippy::expect_used)] // each try fails with probability 2^-128
        std::iter::once(seed(&[]))
            .chain((1..=u8::MAX).map(|n| seed(&[n])))
            .find_map(|bytes| OwnKey::from_bytes(&bytes).ok())
            .expect("one of 256 hashes is a secret key")
    }

    /// The key number `counter` for DIDs of `network`.
    pub fn did_key(&self, network: Network, counter: u32) -> Result<OwnKey, CounterTooLarge> {
        if ChildNumber::from_hardened_idx(counter).is_err() {
            return Err(CounterTooLarge(counter));
        }
        let secret = self
            .0
            .dids
            .hardened(u32::from(network.number()))
            .hardened(counter)
            .secret();
        OwnKey::from_bytes(&secret).map_err(|InvalidSecret| CounterTooLarge(counter))
    }

    /// The SMT nonce of one index in one round of a cohort.
    #[must_use]
    pub fn smt_nonce(&self, cohort: &CohortId, round: Round, index: &SmtIndex) -> SmtNonce {
        let round = round.0.to_be_bytes();
        let nonce = hmac(
            &self.0.smt_nonces,
            &[cohort.as_bytes(), &round, index.as_bytes()],
        );
        SmtNonce::from_bytes(*nonce)
    }

    /// The key that encrypts the backup bundle.
    #[must_use]
    pub fn bundle_key(&self) -> BundleKey {
        BundleKey(hmac(&self.0.bundle, &[b"btcr2/bundle/1"]))
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.0.origin
    }

    pub(super) fn identity_bytes(&self) -> &Zeroizing<[u8; 32]> {
        &self.0.identity
    }
}

impl fmt::Debug for RootSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = match self.0.origin {
            Origin::Words(_) => "words",
            Origin::Nsec => "nsec",
        };
        write!(f, "RootSecret({form} of {})", self.identity().public())
    }
}

/// A symmetric key of 32 bytes for the backup bundle. Never printed; overwritten on drop.
pub struct BundleKey(Zeroizing<[u8; 32]>);

impl BundleKey {
    /// The key bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for BundleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BundleKey(secret)")
    }
}

/// A secret in words or bech32. It is printed only by whoever asks for it by name.
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    pub(super) fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret itself, for the one screen that shows it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(hidden)")
    }
}

/// A BIP-32 extended private key that is overwritten on drop. Not `Copy`, unlike what it holds.
struct Branch(Xpriv);

impl Branch {
    fn master(seed: &[u8]) -> Self {
        // The network only marks the text form, which is never made.
        #[allow(clippy::expect_used)]
        // fails with probability 2^-127, and then for everybody's wallets
        Self(Xpriv::new_master(NetworkKind::Main, seed).expect("the seed makes a master key"))
    }

    fn hardened(&self, index: u32) -> Self {
        self.child(ChildNumber::from_hardened_idx(index))
    }

    fn normal(&self, index: u32) -> Self {
        self.child(ChildNumber::from_normal_idx(index))
    }

    fn child(&self, number: Result<ChildNumber, bitcoin::bip32::Error>) -> Self {
        #[allow(clippy::expect_used)] // did_key checks its counter, all others are constants
        let number = number.expect("the index is below 2^31");
        #[allow(clippy::expect_used)] // the deepest path has five steps
        Self(
            self.0
                .derive_priv(SECP256K1, &[number])
                .expect("the path is shorter than 255 steps"),
        )
    }

    fn secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.private_key.secret_bytes())
    }
}

impl Drop for Branch {
    fn drop(&mut self) {
        self.0.private_key.non_secure_erase();
        self.0.chain_code = ChainCode::from([0; 32]);
        // The chain code has no erasing type; keep the store from being optimised away.
        std::hint::black_box(&self.0);
    }
}

/// HMAC-SHA256 of the concatenated parts.
fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut engine = HmacEngine::<sha256::Hash>::new(key);
    for part in parts {
        engine.input(part);
    }
    let mut bytes = Hmac::from_engine(engine).to_byte_array();
    let kept = Zeroizing::new(bytes);
    bytes.zeroize();
    kept
}
