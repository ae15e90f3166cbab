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
//! | channel of an advertised cohort | `HMAC-SHA256(m/8327'/0', "btcr2/channel/1" ‖ cohort)` |
//! | DID key | `m/8327'/1'/network'/counter'`, with the did:btcr2 number of the network |
//! | SMT nonce | `HMAC-SHA256(m/8327'/2', cohort ‖ round ‖ index)`, round as 32 bits big-endian |
//! | refunds | words only: `m/86'/coin'/0'/0/0` (BIP-86: the first address of a taproot wallet of these words); coin 0 on bitcoin, 1 elsewhere |
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
use bitcoin::ScriptBuf;
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
///
/// ```compile_fail,E0599
/// let root = btcr2_core::keys::RootSecret::generate(&mut rand::rngs::OsRng);
/// let copy = root.clone();
/// ```
///
/// ```compile_fail,E0277
/// let root = btcr2_core::keys::RootSecret::generate(&mut rand::rngs::OsRng);
/// println!("{}", root.words().unwrap());
/// ```
pub struct RootSecret(Box<Derived>);

/// On the heap, so that moving the root leaves no copies behind; overwritten on drop.
struct Derived {
    origin: Origin,
    identity: Zeroizing<[u8; 32]>,
    seats: Zeroizing<[u8; 32]>,
    dids: Branch,
    smt_nonces: Zeroizing<[u8; 32]>,
    bundle: Zeroizing<[u8; 32]>,
    /// Where refunds go: on bitcoin, and on every other network.
    refunds: Option<[ScriptBuf; 2]>,
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
        let refunds = matches!(origin, Origin::Words(_)).then(|| {
            [0, 1].map(|coin| {
                let account = master.hardened(86).hardened(coin).hardened(0);
                account.normal(0).normal(0).address_script()
            })
        });
        Self(Box::new(Derived {
            origin,
            identity,
            seats: own.hardened(0).secret(),
            dids: own.hardened(1),
            smt_nonces: own.hardened(2).secret(),
            bundle: own.hardened(3).secret(),
            refunds,
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
        self.of_cohort(b"btcr2/seat/1", cohort)
    }

    /// The key of the channel of a cohort this agent advertises (DESIGN §4): its secret is what
    /// membership hands out, so it is never a key of anything else.
    #[must_use]
    pub fn channel(&self, cohort: &CohortId) -> OwnKey {
        self.of_cohort(b"btcr2/channel/1", cohort)
    }

    fn of_cohort(&self, tag: &[u8], cohort: &CohortId) -> OwnKey {
        let seed = |counter: &[u8]| hmac(&self.0.seats, &[tag, cohort.as_bytes(), counter]);
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

    /// Where refunds go unless another address is named: the first address of a BIP-86 wallet of the words, so that
    /// any such wallet can spend them. None for a root that was imported as nsec: no wallet has its tree.
    #[must_use]
    pub fn refund_script(&self, network: Network) -> Option<ScriptBuf> {
        let [bitcoin, other] = self.0.refunds.as_ref()?;
        Some(match network {
            Network::Bitcoin => bitcoin.clone(),
            _ => other.clone(),
        })
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

    /// The taproot script of the key alone (BIP-86).
    fn address_script(&self) -> ScriptBuf {
        let mut keypair = self.0.private_key.keypair(SECP256K1);
        let (internal, _) = keypair.x_only_public_key();
        keypair.non_secure_erase();
        ScriptBuf::new_p2tr(SECP256K1, internal, None)
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

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;
    use crate::hash::to_hex;

    const TWELVE: &str =
        "leader monkey parrot ring guide accident before fence cannon height naive bean";
    const TWENTY_FOUR: &str = "what bleak badge arrange retreat wolf trade produce cricket blur \
        garlic valid proud rude strong choose busy staff weather area salt hollow arm fade";
    const NSEC: &str = "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5";

    /// What everything derived from a root looks like, for comparison.
    fn tree(root: &RootSecret) -> Vec<String> {
        let cohorts = [CohortId::from_bytes([7; 32]), CohortId::from_bytes([8; 32])];
        let mut tree = vec![root.identity().public().to_string()];
        tree.extend(cohorts.map(|cohort| root.seat(&cohort).public().to_string()));
        for (network, counter) in [
            (Network::Bitcoin, 0),
            (Network::Regtest, 0),
            (Network::Regtest, 1),
            (Network::Mutinynet, 7),
        ] {
            let key = root.did_key(network, counter).unwrap();
            tree.push(key.public().to_string());
        }
        let nonce = root.smt_nonce(&cohorts[0], Round(3), &SmtIndex::from_bytes([9; 32]));
        tree.push(to_hex(nonce.as_bytes()));
        tree.push(to_hex(root.bundle_key().as_bytes()));
        tree
    }

    // The trees below were computed by an independent implementation of BIP-32, BIP-39 and the table above.
    // They are what every backup depends on: a change here loses people's keys.

    /// The test vector of BIP-86, and what wallets make of the same words on test networks.
    #[test]
    fn refunds_go_to_the_first_address_of_a_bip_86_wallet() {
        let words = format!("{}about", "abandon ".repeat(11));
        let root = RootSecret::from_words(&words).unwrap();
        let address = |network: Network| {
            let script = root.refund_script(network).unwrap();
            bitcoin::Address::from_script(&script, network.bitcoin_network())
                .unwrap()
                .to_string()
        };
        assert_eq!(
            address(Network::Bitcoin),
            "bc1p5cyxnuxmeuwuvkwfem96lqzszd02n6xdcjrs20cac6yqjjwudpxqkedrcr"
        );
        assert_eq!(
            address(Network::Testnet3),
            "tb1p8wpt9v4frpf3tkn0srd97pksgsxc5hs52lafxwru9kgeephvs7rqlqt9zj"
        );
        assert!(address(Network::Regtest).starts_with("bcrt1p"));
        let imported = RootSecret::from_nsec(NSEC).unwrap();
        assert_eq!(imported.refund_script(Network::Regtest), None);
    }

    #[test]
    fn twelve_words_known_tree() {
        let root = RootSecret::from_words(TWELVE).unwrap();
        assert_eq!(
            root.nsec().expose(),
            "nsec10allq0gjx7fddtzef0ax00mdps9t2kmtrldkyjfs8l5xruwvh2dq0lhhkp",
            "NIP-06"
        );
        assert_eq!(
            tree(&root),
            [
                "17162c921dc4d2518f9a101db33695df1afb56ab82f5ff3e5da6eec3ca5cd917",
                "62d51b6e5952c17e16b7e56287ee24b463f742a2f6b5a711f7883acaa4c01348",
                "fb989c24c48ce4c5ceb1dc322a393d693d7188e3004392a3825a6566f129f7ca",
                "151bc96244c843217ccd71e24df324a26d08e29c9085b9d4cfffee94bd89b332",
                "4f644d464beacaf041970b8227461096d6b1532a0524ce56a89a113e0d5bb3ae",
                "85a3a601e7a1479d6338f77f23110a3a5341361f5fd874e61113b3a7489a58ec",
                "27cca21f808519d7025d1b81229370557521e91f553f31baadf1eec945cf7840",
                "294bb4d8c2a58f861aeded2a92f94e93a673e81b718a622e30704635abb2afc6",
                "214c546504e8be788978c7235f819156be31d3cbbb72c1606de99b61fb04ce8c",
            ]
        );
    }

    #[test]
    fn twenty_four_words_known_tree() {
        let root = RootSecret::from_words(TWENTY_FOUR).unwrap();
        assert_eq!(
            tree(&root),
            [
                "d41b22899549e1f3d335a31002cfd382174006e166d3e658e3a5eecdb6463573",
                "9cecba229b06bef8d7ceb247048e8a64e70c92270cd1ae9b6c3740a83f39a276",
                "450947c87f549037a7948635738154c66299e7bf4202362250a0a724faf7e3cd",
                "a7461abe89522af676dc4502d2b749e3f8ec6c99376d658724c76c2ba0686aff",
                "85f28b122a01e197e716171b50e6ab6456efad6f0a4f29787cac49e84b249498",
                "e9e19c756614c8f2ec9519474f4f859a4726bf3c9577092f43cd65f5467d56cf",
                "ad84e5e56ce96769c6e7f4c55426d1a5d77235b53edf01174a4d365ac8339fad",
                "ffc1e23ef43adc7a7e71e8dcc33c5dabff9feed12629b252c6d91515a6e4b60b",
                "b1640146f73e707bce0f536f5d9c36d3f295272eb6ae3d361caea8925c4b5612",
            ]
        );
    }

    #[test]
    fn nsec_known_tree() {
        let root = RootSecret::from_nsec(NSEC).unwrap();
        assert!(root.words().is_none());
        assert_eq!(root.nsec().expose(), NSEC);
        assert_eq!(
            tree(&root),
            [
                "7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e",
                "092e7be80e4c3c32c35766d144d1b1d38590ec67c4a5b25e485ec45ae6b9a58e",
                "0bb7d9cf997ca0a51a912a2005e0aafb09db8f0bfa8406821e3802969d43b2ce",
                "4964e897ad82acaeb95073f5e5226ee71136ce75a773e55afcd1cb3ae6794dd2",
                "994e4ea1f4b30d2b0121836aeb0fb3c03242d86cb5391cb60254d8d858b29839",
                "b980557dadc2f130113841542f2cf9bd568ce76a983160d18dae40ce1b77e5f3",
                "4787a4ccef4ea9b07076073d4fe6f29f813f67b8ef33a66fc9a72f08b13effcc",
                "647ceca018b3fdb922c4556b10c58ce9886404fe31d575ac5f8df946c89d5b14",
                "4b77f30c5e4c6d546af4b0e6d1c4972bb27b01e1bf887454fa19bb6a9635a1d9",
            ]
        );
    }

    #[test]
    fn an_odd_nsec_and_its_negation_have_one_tree_and_export_themselves() {
        // 6 has an odd point (see `secret`); the second is the order minus 6.
        let odd = format!("{:064x}", 6);
        let even = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd036413b";
        let [odd_root, even_root] = [&odd, even].map(|hex| RootSecret::from_nsec(hex).unwrap());
        assert_eq!(
            tree(&odd_root)[..2],
            [
                "fff97bd5755eeea420453a14355235d382f6472f8568a18b2f057a1460297556",
                "09bf3d0d2b27db80e2b50eb016cfdcde4a341d287aca1b1ee91d99355c1f7a77",
            ]
        );
        assert_eq!(tree(&odd_root), tree(&even_root));
        for (root, hex) in [(&odd_root, odd.as_str()), (&even_root, even)] {
            let again = names::parse_secret_key(root.nsec().expose()).unwrap();
            assert_eq!(to_hex(again.as_slice()), hex);
        }
    }

    #[test]
    fn generated_roots_come_back_from_their_words() {
        let root = RootSecret::generate(&mut StdRng::seed_from_u64(1));
        let other = RootSecret::generate(&mut StdRng::seed_from_u64(2));
        let words = root.words().unwrap();
        assert_eq!(words.expose().split(' ').count(), NEW_ROOT_WORDS);
        let untidy = format!("  {}\n", words.expose().to_uppercase().replace(' ', "  \t"));
        assert_eq!(tree(&RootSecret::from_words(&untidy).unwrap()), tree(&root));
        assert_ne!(tree(&other), tree(&root));
    }

    #[test]
    fn smt_nonces_differ_by_each_input() {
        let root = RootSecret::from_words(TWELVE).unwrap();
        let nonce = |cohort, round, index| {
            let (cohort, index) = (CohortId::from_bytes([cohort; 32]), [index; 32]);
            root.smt_nonce(&cohort, Round(round), &SmtIndex::from_bytes(index))
                .to_bytes()
        };
        let all = [
            nonce(1, 1, 1),
            nonce(2, 1, 1),
            nonce(1, 2, 1),
            nonce(1, 1, 2),
        ];
        let distinct: std::collections::HashSet<_> = all.into_iter().collect();
        assert_eq!(distinct.len(), 4);
    }

    #[test]
    fn wrong_roots_are_refused_without_repeating_them() {
        let words = |text: &str| RootSecret::from_words(text).unwrap_err();
        let swapped = TWELVE.replacen("leader monkey", "monkey leader", 1);
        assert_eq!(words(&swapped), RootError::Checksum);
        assert_eq!(
            words(&TWELVE.replace("parrot", "parot")),
            RootError::UnknownWord(3)
        );
        assert_eq!(words("leader monkey"), RootError::WordCount(2));
        assert_eq!(words(""), RootError::WordCount(0));
        for text in [
            "",
            "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe6",
            "npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg",
            // Zero, and the order of the curve.
            &"0".repeat(64),
            "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",
        ] {
            assert_eq!(
                RootSecret::from_nsec(text).unwrap_err(),
                RootError::NotASecretKey,
                "{text}"
            );
        }
        assert!(
            !words(&TWELVE.replace("parrot", "parot"))
                .to_string()
                .contains("parot")
        );
    }

    #[test]
    fn the_did_counter_is_bounded() {
        let root = RootSecret::from_words(TWELVE).unwrap();
        let last = (1 << 31) - 1;
        assert!(root.did_key(Network::Signet, last).is_ok());
        assert_eq!(
            root.did_key(Network::Signet, last + 1).unwrap_err(),
            CounterTooLarge(1 << 31)
        );
    }

    #[test]
    fn debug_shows_no_secret() {
        for root in [
            RootSecret::from_words(TWELVE).unwrap(),
            RootSecret::from_nsec(NSEC).unwrap(),
        ] {
            let shown = format!(
                "{root:?} {:?} {:?} {:?}",
                root.words(),
                root.nsec(),
                root.bundle_key()
            );
            assert!(shown.contains(&root.identity().public().to_string()));
            let derived = &root.0;
            for secret in [
                &derived.identity,
                &derived.seats,
                &derived.smt_nonces,
                &derived.bundle,
                &derived.dids.secret(),
                &root.bundle_key().0,
            ] {
                assert!(!shown.contains(&to_hex(secret.as_slice())));
                assert!(!shown.contains(&format!("{:?}", &secret[..4]).replace(['[', ']'], "")));
            }
            for word in TWELVE.split(' ').chain(["nsec1"]) {
                assert!(!shown.contains(word), "{word}");
            }
        }
    }
}
