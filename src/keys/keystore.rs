//! The file that keeps the root secret at rest: JSON, encrypted with a passphrase unless told otherwise.
//!
//! | `kind` | `encryption` | what the file holds |
//! |---|---|---|
//! | `words` | `scrypt-xchacha20poly1305` | the entropy behind the words, encrypted as NIP-49 encrypts keys |
//! | `nsec` | `nip49` | `ncryptsec1…` exactly as NIP-49 defines it; any Nostr client can import it |
//! | either | `none` | words or `nsec1…` in clear, with a warning: for demos and automation |
//!
//! The construction is NIP-49's: the passphrase in Unicode form NFKC, scrypt with r = 8, p = 1 and N = 2^`log_n`,
//! 16 bytes of salt, XChaCha20-Poly1305 with 24 bytes of nonce. For words the associated data is the ASCII text
//! `btcr2-agent keystore 1 words`; salt and `log_n` are authenticated by being inputs of the key.

use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305};
use nostr::nips::nip19::{FromBech32 as _, ToBech32 as _};
use nostr::nips::nip49::{EncryptedSecretKey, KeySecurity};
use rand::{CryptoRng, RngCore};
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization as _;
use zeroize::Zeroizing;

use super::root::{Origin, RootError, RootSecret};
use crate::hash::{array_from_hex, from_hex, to_hex};

/// The version of the file format.
const VERSION: u32 = 1;

/// The usual cost: 256 MiB and about a second. The most that fits a small server, and the most that common
/// Nostr libraries open without being asked to.
pub const DEFAULT_LOG_N: u8 = 18;

/// The highest cost that is opened or made, the last row of NIP-49's table: 4 GiB. A file that asks for
/// more is meant to exhaust memory.
pub const MAX_LOG_N: u8 = 22;

/// A file is some 300 bytes; whatever is much longer is not a keystore.
const MAX_FILE: usize = 8192;

const WORDS_CONTEXT: &[u8] = b"btcr2-agent keystore 1 words";

/// Why a keystore can not be opened or made. Never holds anything secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeystoreError {
    /// The file is encrypted and no passphrase was given.
    #[error("the keystore is encrypted: give its passphrase")]
    NeedsPassphrase,
    /// Decryption failed: another passphrase, or the file was altered. Nobody can tell which.
    #[error("wrong passphrase, or the keystore file was altered")]
    WrongPassphrase,
    /// An empty passphrase protects nothing.
    #[error("the passphrase is empty: give one, or ask for a keystore without encryption")]
    EmptyPassphrase,
    /// Not a keystore file.
    #[error("not a keystore file: {0}")]
    Malformed(&'static str),
    /// Made by a newer release.
    #[error("keystore version {0}, this release reads version {VERSION}: update btcr2-agent")]
    Version(u32),
    /// The scrypt cost is out of bounds.
    #[error("scrypt log_n {0} is not between 1 and {MAX_LOG_N}")]
    Cost(u8),
    /// The file opened, and what is in it is not a root secret.
    #[error("the keystore holds no root secret: {0}")]
    Root(#[from] RootError),
    /// Encryption failed.
    #[error("the keystore could not be encrypted")]
    Encryption,
}

/// Writes a root secret as the text of a keystore file.
///
/// `log_n` is the scrypt cost ([`DEFAULT_LOG_N`]). Without passphrase the secret stands in the text in clear.
pub fn seal<R: RngCore + CryptoRng>(
    root: &RootSecret,
    passphrase: Option<&str>,
    log_n: u8,
    rng: &mut R,
) -> Result<Zeroizing<String>, KeystoreError> {
    let file = match (passphrase, root.origin()) {
        (Some(""), _) => return Err(KeystoreError::EmptyPassphrase),
        (Some(passphrase), Origin::Words(words)) => {
            let (entropy, length) = words.to_entropy_array();
            let entropy = Zeroizing::new(entropy);
            let entropy = entropy.get(..length).ok_or(KeystoreError::Encryption)?;
            seal_words(entropy, passphrase, log_n, rng)?
        }
        (Some(passphrase), Origin::Nsec) => {
            check_cost(log_n)?;
            let secret = nostr::SecretKey::from_slice(root.identity_bytes().as_slice())
                .map_err(|_| KeystoreError::Encryption)?;
            // NIP-49 asks whether the key was ever handled in clear; an imported one may have been.
            let security = KeySecurity::Unknown;
            let Ok(ncryptsec) =
                EncryptedSecretKey::new_with_rng(rng, &secret, passphrase, log_n, security)
                    .map_err(|_| KeystoreError::Encryption)?
                    .to_bech32()
            else {
                return Err(KeystoreError::Encryption);
            };
            File::Nip49 {
                version: VERSION,
                kind: Kind::Nsec,
                ncryptsec,
            }
        }
        (None, origin) => {
            let (kind, secret) = match origin {
                Origin::Words(_) => (Kind::Words, root.words()),
                Origin::Nsec => (Kind::Nsec, Some(root.nsec())),
            };
            let secret = secret.ok_or(KeystoreError::Encryption)?;
            File::None {
                version: VERSION,
                kind,
                warning: PLAIN_WARNING.to_owned(),
                secret: Plain(Zeroizing::new(secret.expose().to_owned())),
            }
        }
    };
    let mut text = Zeroizing::new(String::new());
    *text = serde_json::to_string_pretty(&file).map_err(|_| KeystoreError::Encryption)?;
    text.push('\n');
    Ok(text)
}

/// Opens the text of a keystore file. A passphrase is ignored when the file is not encrypted; ask
/// [`is_encrypted`] to say so.
pub fn open(text: &str, passphrase: Option<&str>) -> Result<RootSecret, KeystoreError> {
    match parse(text)? {
        File::Scrypt {
            kind: Kind::Words,
            log_n,
            salt,
            nonce,
            ciphertext,
            ..
        } => {
            check_cost(log_n)?;
            let salt = array_from_hex(&salt).map_err(|_| KeystoreError::Malformed("salt"))?;
            let nonce: [u8; 24] =
                array_from_hex(&nonce).map_err(|_| KeystoreError::Malformed("nonce"))?;
            let ciphertext =
                from_hex(&ciphertext).map_err(|_| KeystoreError::Malformed("ciphertext"))?;
            let passphrase = passphrase.ok_or(KeystoreError::NeedsPassphrase)?;
            let entropy = cipher(passphrase, &salt, log_n)?
                .decrypt(
                    &nonce.into(),
                    Payload {
                        msg: &ciphertext,
                        aad: WORDS_CONTEXT,
                    },
                )
                .map(Zeroizing::new)
                .map_err(|_| KeystoreError::WrongPassphrase)?;
            Ok(RootSecret::from_entropy(&entropy)?)
        }
        File::Nip49 {
            kind: Kind::Nsec,
            ncryptsec,
            ..
        } => {
            let encrypted = EncryptedSecretKey::from_bech32(&ncryptsec)
                .map_err(|_| KeystoreError::Malformed("ncryptsec"))?;
            check_cost(encrypted.log_n())?;
            let passphrase = passphrase.ok_or(KeystoreError::NeedsPassphrase)?;
            let secret = encrypted
                .decrypt_with_max_log_n(passphrase, MAX_LOG_N)
                .map_err(|_| KeystoreError::WrongPassphrase)?;
            let bytes = Zeroizing::new(secret.to_secret_bytes());
            Ok(RootSecret::from_secret_bytes(&bytes)?)
        }
        File::None { kind, secret, .. } => Ok(match kind {
            Kind::Words => RootSecret::from_words(&secret.0)?,
            Kind::Nsec => RootSecret::from_nsec(&secret.0)?,
        }),
        File::Scrypt { .. } | File::Nip49 { .. } => Err(KeystoreError::Malformed(
            "kind and encryption do not go together",
        )),
    }
}

/// Whether the keystore file asks for a passphrase.
pub fn is_encrypted(text: &str) -> Result<bool, KeystoreError> {
    Ok(!matches!(parse(text)?, File::None { .. }))
}

const PLAIN_WARNING: &str = "NOT ENCRYPTED: whoever reads this file owns the keys";

/// The file, as JSON. `version` is checked before the rest is read.
#[derive(Serialize, Deserialize)]
#[serde(tag = "encryption", deny_unknown_fields)]
enum File {
    #[serde(rename = "scrypt-xchacha20poly1305")]
    Scrypt {
        version: u32,
        kind: Kind,
        log_n: u8,
        /// Hex, as nonce and ciphertext.
        salt: String,
        nonce: String,
        ciphertext: String,
    },
    #[serde(rename = "nip49")]
    Nip49 {
        version: u32,
        kind: Kind,
        ncryptsec: String,
    },
    #[serde(rename = "none")]
    None {
        version: u32,
        kind: Kind,
        warning: String,
        secret: Plain,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Words,
    Nsec,
}

/// A secret in clear on its way to or from the file.
struct Plain(Zeroizing<String>);

impl Serialize for Plain {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(|text| Self(Zeroizing::new(text)))
    }
}

fn parse(text: &str) -> Result<File, KeystoreError> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    if text.len() > MAX_FILE {
        return Err(KeystoreError::Malformed("too long"));
    }
    // serde's messages may quote the text, which may be secret: they are not passed on.
    let Head { version } =
        serde_json::from_str(text).map_err(|_| KeystoreError::Malformed("no version"))?;
    if version != VERSION {
        return Err(KeystoreError::Version(version));
    }
    serde_json::from_str(text)
        .map_err(|_| KeystoreError::Malformed("a field is missing, unknown or of the wrong type"))
}

fn seal_words<R: RngCore + CryptoRng>(
    entropy: &[u8],
    passphrase: &str,
    log_n: u8,
    rng: &mut R,
) -> Result<File, KeystoreError> {
    let mut salt = [0; 16];
    let mut nonce = [0; 24];
    rng.fill_bytes(&mut salt);
    rng.fill_bytes(&mut nonce);
    let payload = Payload {
        msg: entropy,
        aad: WORDS_CONTEXT,
    };
    let ciphertext = cipher(passphrase, &salt, log_n)?
        .encrypt(&nonce.into(), payload)
        .map_err(|_| KeystoreError::Encryption)?;
    Ok(File::Scrypt {
        version: VERSION,
        kind: Kind::Words,
        log_n,
        salt: to_hex(&salt),
        nonce: to_hex(&nonce),
        ciphertext: to_hex(&ciphertext),
    })
}

/// The cipher for a passphrase: NIP-49's key derivation.
fn cipher(
    passphrase: &str,
    salt: &[u8; 16],
    log_n: u8,
) -> Result<XChaCha20Poly1305, KeystoreError> {
    check_cost(log_n)?;
    let passphrase: Zeroizing<String> = Zeroizing::new(passphrase.nfkc().collect());
    let mut key = Zeroizing::new([0; 32]);
    let params =
        scrypt::Params::new(log_n, 8, 1, key.len()).map_err(|_| KeystoreError::Cost(log_n))?;
    scrypt::scrypt(passphrase.as_bytes(), salt, &params, key.as_mut_slice())
        .map_err(|_| KeystoreError::Cost(log_n))?;
    XChaCha20Poly1305::new_from_slice(key.as_slice()).map_err(|_| KeystoreError::Encryption)
}

fn check_cost(log_n: u8) -> Result<(), KeystoreError> {
    if (1..=MAX_LOG_N).contains(&log_n) {
        Ok(())
    } else {
        Err(KeystoreError::Cost(log_n))
    }
}
