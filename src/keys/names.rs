//! How people write keys: NIP-19 names and hex.

use nostr::nips::nip19::{FromBech32 as _, Nip19, ToBech32 as _};
use zeroize::Zeroizing;

use super::public::NostrKey;
use super::root::SecretText;
use crate::hash::array_from_hex;

/// The longest name that is read, as NIP-19 advises for bech32 texts.
const MAX_NAME: usize = 5000;

/// How many relay hints of a name are kept: a member connects to five relays at most (DESIGN §4), and a
/// name that lists more than this was not written to be helpful.
const MAX_RELAYS: usize = 16;

/// Why a text names no public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// A secret key was pasted where a public one belongs. The text is not repeated anywhere.
    #[error(
        "this is a SECRET key, a public one is needed: do not paste it anywhere, and use its npub"
    )]
    SecretKey,
    /// An event or note: it names no author that could be relied on.
    #[error("this names an event, not a key: use npub1…, nprofile1…, naddr1… or 64 hex digits")]
    Event,
    /// Nothing of the above.
    #[error("not a Nostr key: expected npub1…, nprofile1…, naddr1… or 64 hex digits")]
    Unknown,
    /// Well-formed, but no such point exists.
    #[error("no point of secp256k1 has this x coordinate: nobody can own this key")]
    NotOnCurve,
}

/// Reads a public key as people pass it around: `npub1…`, `nprofile1…`, `naddr1…` (its author), each also
/// with `nostr:` before it (NIP-21), or 64 hex digits. Returns the relay hints too, at most 16, none for
/// `npub` and hex.
pub fn parse_public_key(text: &str) -> Result<(NostrKey, Vec<String>), NameError> {
    let text = text.trim();
    let text = text.strip_prefix("nostr:").unwrap_or(text);
    if text.len() > MAX_NAME {
        return Err(NameError::Unknown);
    }
    if text.len() == 64 {
        let bytes = array_from_hex(&text.to_lowercase()).map_err(|_| NameError::Unknown)?;
        return Ok((on_curve(&bytes)?, Vec::new()));
    }
    let (key, relays) = match Nip19::from_bech32(text).map_err(|_| NameError::Unknown)? {
        Nip19::Pubkey(key) => (key, Vec::new()),
        Nip19::Profile(profile) => (profile.public_key, profile.relays),
        Nip19::Coordinate(naddr) => (naddr.coordinate.public_key, naddr.relays),
        Nip19::EventId(_) | Nip19::Event(_) => return Err(NameError::Event),
        Nip19::Secret(_) | Nip19::EncryptedSecret(_) => return Err(NameError::SecretKey),
    };
    let relays = relays
        .into_iter()
        .take(MAX_RELAYS)
        .map(|url| url.to_string())
        .collect();
    Ok((on_curve(key.as_bytes())?, relays))
}

/// The `npub1…` form of a key (NIP-19).
#[must_use]
pub fn npub(key: &NostrKey) -> String {
    let Ok(npub) = nostr::PublicKey::from_byte_array(key.to_bytes()).to_bech32();
    npub
}

/// The 32 bytes of `nsec1…` or 64 hex digits; not checked to be a secret key.
pub(super) fn parse_secret_key(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let text = text.trim();
    if text.len() == 64 {
        let lower = Zeroizing::new(text.to_lowercase());
        return array_from_hex(&lower).ok().map(Zeroizing::new);
    }
    if text.len() > MAX_NAME {
        return None;
    }
    let key = nostr::SecretKey::from_bech32(text).ok()?;
    Some(Zeroizing::new(key.to_secret_bytes()))
}

/// The `nsec1…` form of a secret key (NIP-19).
pub(super) fn nsec(secret: &[u8; 32]) -> SecretText {
    #[allow(clippy::expect_used)] // only called with the bytes of a key that was checked
    let key = nostr::SecretKey::from_slice(secret).expect("a secret key");
    let Ok(nsec) = key.to_bech32();
    SecretText::new(nsec)
}

fn on_curve(bytes: &[u8; 32]) -> Result<NostrKey, NameError> {
    NostrKey::from_bytes(bytes).map_err(|_| NameError::NotOnCurve)
}
