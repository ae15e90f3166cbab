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
        (Some(passphrase), Origin::Nsec) => File::Nip49 {
            version: VERSION,
            kind: Kind::Nsec,
            ncryptsec: ncryptsec(root, passphrase, log_n, rng)?,
        },
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

/// The identity key as NIP-49 encrypts it, `ncryptsec1…`, for use in another Nostr client.
pub fn ncryptsec<R: RngCore + CryptoRng>(
    root: &RootSecret,
    passphrase: &str,
    log_n: u8,
    rng: &mut R,
) -> Result<String, KeystoreError> {
    if passphrase.is_empty() {
        return Err(KeystoreError::EmptyPassphrase);
    }
    check_cost(log_n)?;
    let secret = nostr::SecretKey::from_slice(root.identity_bytes().as_slice())
        .map_err(|_| KeystoreError::Encryption)?;
    // NIP-49 asks whether the key was ever handled in clear; an imported one may have been.
    let security = KeySecurity::Unknown;
    EncryptedSecretKey::new_with_rng(rng, &secret, passphrase, log_n, security)
        .map_err(|_| KeystoreError::Encryption)?
        .to_bech32()
        .map_err(|_| KeystoreError::Encryption)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    const WORDS: &str =
        "leader monkey parrot ring guide accident before fence cannon height naive bean";
    const NSEC: &str = "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5";
    /// Fast, and no protection: for tests.
    const LOG_N: u8 = 1;

    fn roots() -> [RootSecret; 2] {
        [
            RootSecret::from_words(WORDS).unwrap(),
            RootSecret::from_nsec(NSEC).unwrap(),
        ]
    }

    fn sealed(root: &RootSecret, passphrase: Option<&str>) -> String {
        seal(root, passphrase, LOG_N, &mut StdRng::seed_from_u64(7))
            .unwrap()
            .to_string()
    }

    fn error(text: &str, passphrase: Option<&str>) -> KeystoreError {
        open(text, passphrase).unwrap_err()
    }

    #[test]
    fn opens_with_the_passphrase_only() {
        for root in roots() {
            let text = sealed(&root, Some("correct horse"));
            assert_eq!(is_encrypted(&text), Ok(true));
            for secret in ["leader", "nsec1", "67dea2ed"] {
                assert!(!text.contains(secret), "{text}");
            }
            let opened = open(&text, Some("correct horse")).unwrap();
            assert_eq!(opened.identity().public(), root.identity().public());
            assert_eq!(opened.nsec().expose(), root.nsec().expose());
            assert_eq!(
                opened.words().map(|w| w.expose().to_owned()),
                root.words().map(|w| w.expose().to_owned())
            );
            assert_eq!(error(&text, None), KeystoreError::NeedsPassphrase);
            for wrong in ["", "correct horse ", "Correct horse"] {
                assert_eq!(error(&text, Some(wrong)), KeystoreError::WrongPassphrase);
            }
        }
    }

    /// The file of a words root, taken apart and decrypted here by the primitives alone.
    #[test]
    fn words_file_is_what_its_documentation_says() {
        let text = sealed(&roots()[0], Some("nostr"));
        let file: serde_json::Value = serde_json::from_str(&text).unwrap();
        let field = |name: &str| from_hex(file[name].as_str().unwrap()).unwrap();
        assert_eq!(file["version"], 1);
        assert_eq!(file["kind"], "words");
        assert_eq!(file["encryption"], "scrypt-xchacha20poly1305");
        assert_eq!(file["log_n"], LOG_N);
        let mut key = [0; 32];
        let params = scrypt::Params::new(LOG_N, 8, 1, 32).unwrap();
        scrypt::scrypt(b"nostr", &field("salt"), &params, &mut key).unwrap();
        let nonce: [u8; 24] = field("nonce").try_into().unwrap();
        let payload = Payload {
            msg: &field("ciphertext"),
            aad: b"btcr2-agent keystore 1 words",
        };
        let entropy = XChaCha20Poly1305::new(&key.into())
            .decrypt(&nonce.into(), payload)
            .unwrap();
        let words = bip39::Mnemonic::from_entropy(&entropy).unwrap();
        assert_eq!(words.to_string(), WORDS);
    }

    /// The example of NIP-49, from another client, inside our file.
    #[test]
    fn nip49_example() {
        let text = r#"{"encryption":"nip49","version":1,"kind":"nsec","ncryptsec":"ncryptsec1qgg9947rlpvqu76pj5ecreduf9jxhselq2nae2kghhvd5g7dgjtcxfqtd67p9m0w57lspw8gsq6yphnm8623nsl8xn9j4jdzz84zm3frztj3z7s35vpzmqf6ksu8r89qk5z2zxfmu5gv8th8wclt0h4p"}"#;
        let root = open(text, Some("nostr")).unwrap();
        let expected = RootSecret::from_nsec(
            "3501454135014541350145413501453fefb02227e449e57cf4d3a3ce05378683",
        )
        .unwrap();
        assert_eq!(root.nsec().expose(), expected.nsec().expose());
    }

    #[test]
    fn passphrases_are_normalised() {
        // The full-width letters are another way to type the same passphrase (NFKC).
        for root in roots() {
            let text = sealed(&root, Some("ｎｏｓｔｒ\u{212B}"));
            assert!(open(&text, Some("nostr\u{00C5}")).is_ok());
        }
    }

    #[test]
    fn every_sealing_is_different() {
        let mut rng = StdRng::seed_from_u64(1);
        for root in roots() {
            let one = seal(&root, Some("p"), LOG_N, &mut rng).unwrap();
            let two = seal(&root, Some("p"), LOG_N, &mut rng).unwrap();
            assert_ne!(*one, *two);
        }
    }

    #[test]
    fn without_passphrase_it_is_readable_and_says_so() {
        for (root, secret) in roots().iter().zip([WORDS, NSEC]) {
            let text = sealed(root, None);
            assert_eq!(is_encrypted(&text), Ok(false));
            assert!(text.contains(secret) && text.contains("NOT ENCRYPTED"));
            let opened = open(&text, None).unwrap();
            assert_eq!(opened.identity().public(), root.identity().public());
        }
        assert_eq!(
            seal(&roots()[0], Some(""), LOG_N, &mut StdRng::seed_from_u64(1)).unwrap_err(),
            KeystoreError::EmptyPassphrase
        );
    }

    /// Changes one field of a file.
    fn with(text: &str, field: &str, value: serde_json::Value) -> String {
        let mut file: serde_json::Value = serde_json::from_str(text).unwrap();
        assert!(file.get(field).is_some(), "{field}");
        file[field] = value;
        file.to_string()
    }

    #[test]
    fn altered_words_files_do_not_open() {
        let text = sealed(&roots()[0], Some("p"));
        let file: serde_json::Value = serde_json::from_str(&text).unwrap();
        for field in ["salt", "nonce", "ciphertext"] {
            let good = file[field].as_str().unwrap();
            // Flip one bit in every byte, then cut the end off.
            for at in 0..good.len() / 2 {
                let mut bytes = from_hex(good).unwrap();
                bytes[at] ^= 0x10;
                let bad = with(&text, field, to_hex(&bytes).into());
                assert_eq!(error(&bad, Some("p")), KeystoreError::WrongPassphrase);
            }
            let cut = with(&text, field, good[2..].into());
            assert!(open(&cut, Some("p")).is_err());
            let odd = with(&text, field, good[1..].into());
            assert_eq!(
                error(&odd, Some("p")),
                KeystoreError::Malformed(field_name(field))
            );
        }
        let cost = with(&text, "log_n", 2.into());
        assert_eq!(error(&cost, Some("p")), KeystoreError::WrongPassphrase);
    }

    fn field_name(field: &str) -> &'static str {
        ["salt", "nonce", "ciphertext"]
            .into_iter()
            .find(|name| *name == field)
            .unwrap()
    }

    #[test]
    fn altered_nsec_files_do_not_open() {
        let text = sealed(&roots()[1], Some("p"));
        let file: serde_json::Value = serde_json::from_str(&text).unwrap();
        let good = file["ncryptsec"].as_str().unwrap();
        let bad = with(
            &text,
            "ncryptsec",
            good.replace("ncryptsec1qgq", "ncryptsec1qgz").into(),
        );
        assert_eq!(
            error(&bad, Some("p")),
            KeystoreError::Malformed("ncryptsec")
        );
        let (_, data) = bech32::decode(good).unwrap();
        for at in [2, 20, 43, 60, 90] {
            let mut data = data.clone();
            data[at] ^= 1;
            let hrp = bech32::Hrp::parse("ncryptsec").unwrap();
            let text = with(
                &text,
                "ncryptsec",
                bech32::encode::<bech32::Bech32>(hrp, &data).unwrap().into(),
            );
            assert_eq!(
                error(&text, Some("p")),
                KeystoreError::WrongPassphrase,
                "{at}"
            );
        }
    }

    #[test]
    fn files_can_not_ask_for_unbounded_memory() {
        for log_n in [0, 23, 63, 64, 255] {
            let text = with(&sealed(&roots()[0], Some("p")), "log_n", log_n.into());
            assert_eq!(error(&text, Some("p")), KeystoreError::Cost(log_n));
            for root in roots() {
                assert_eq!(
                    seal(&root, Some("p"), log_n, &mut StdRng::seed_from_u64(1)).unwrap_err(),
                    KeystoreError::Cost(log_n)
                );
            }
            let text = sealed(&roots()[1], Some("p"));
            let file: serde_json::Value = serde_json::from_str(&text).unwrap();
            let (hrp, mut data) = bech32::decode(file["ncryptsec"].as_str().unwrap()).unwrap();
            data[1] = log_n;
            let greedy = bech32::encode::<bech32::Bech32>(hrp, &data).unwrap();
            let text = with(&text, "ncryptsec", greedy.into());
            assert_eq!(error(&text, Some("p")), KeystoreError::Cost(log_n));
        }
    }

    #[test]
    fn what_is_no_keystore_says_so() {
        let words = sealed(&roots()[0], Some("p"));
        for text in ["", "{}", "[]", "leader monkey", &words[..words.len() - 3]] {
            assert!(matches!(
                error(text, Some("p")),
                KeystoreError::Malformed(_)
            ));
        }
        assert_eq!(
            error(&with(&words, "version", 2.into()), Some("p")),
            KeystoreError::Version(2)
        );
        assert!(matches!(
            error(&with(&words, "kind", "nsec".into()), Some("p")),
            KeystoreError::Malformed(_)
        ));
        assert!(matches!(
            error(&with(&words, "kind", "zpub".into()), Some("p")),
            KeystoreError::Malformed(_)
        ));
        assert!(matches!(
            error(&format!("{words}{}", " ".repeat(MAX_FILE)), Some("p")),
            KeystoreError::Malformed(_)
        ));
        let extra = words.replacen('{', "{\"note\": 1,", 1);
        assert!(matches!(
            error(&extra, Some("p")),
            KeystoreError::Malformed(_)
        ));
        let plain = with(&sealed(&roots()[0], None), "secret", "leader monkey".into());
        let shown = error(&plain, None);
        assert_eq!(shown, KeystoreError::Root(RootError::WordCount(2)));
        assert!(!format!("{shown} {shown:?}").contains("leader"));
    }

    proptest! {
        #[test]
        fn foreign_text_never_panics(text in ".{0,300}") {
            prop_assert!(open(&text, Some("p")).is_err());
        }
    }
}
