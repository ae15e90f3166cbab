//! How people write keys: NIP-19 names and hex.

use nostr::nips::nip19::{FromBech32 as _, Nip19, ToBech32 as _};
use zeroize::Zeroizing;

use super::public::NostrKey;
use super::root::SecretText;
use crate::hash::array_from_hex;

/// The longest name that is read: the code length of bech32, beyond which its checksum means little. NIP-19
/// advises a limit of 5000, and the decoder of the `nostr` crate keeps this one.
const MAX_NAME: usize = 1023;

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

#[cfg(test)]
mod tests {
    use nostr::nips::nip01::Coordinate;
    use nostr::nips::nip19::{Nip19Coordinate, Nip19Event, Nip19Profile};
    use nostr::{EventId, Kind, RelayUrl};
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d";
    const NPUB: &str = "npub180cvv07tjdrrgpa0j7j7tmnyl2yr6yr7l8j4s3evf6u64th6gkwsyjh6w6";

    /// The examples of NIP-19.
    #[test]
    fn nip19_examples() {
        let key: NostrKey = HEX.parse().unwrap();
        assert_eq!(npub(&key), NPUB);
        for text in [HEX, NPUB, &HEX.to_uppercase(), &format!("  nostr:{NPUB}\n")] {
            assert_eq!(parse_public_key(text), Ok((key, Vec::new())), "{text}");
        }
        let nprofile = "nprofile1qqsrhuxx8l9ex335q7he0f09aej04zpazpl0ne2cgukyawd24mayt8gpp4mhxue69uhhytnc9e3k7mgpz4mhxue69uhkg6nzv9ejuumpv34kytnrdaksjlyr9p";
        let relays = ["wss://r.x.com", "wss://djbas.sadkb.com"].map(String::from);
        assert_eq!(parse_public_key(nprofile), Ok((key, relays.to_vec())));
        assert_eq!(
            nsec(
                &array_from_hex("67dea2ed018072d675f5415ecfaed7d2597555e202d85b3d65ea4e58d2d92ffa")
                    .unwrap()
            )
            .expose(),
            "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5"
        );
    }

    #[test]
    fn naddr_names_its_author_and_hints_are_bounded() {
        let key = nostr::PublicKey::parse(HEX).unwrap();
        let relay = |n: u32| RelayUrl::parse(&format!("wss://r{n}.example.com")).unwrap();
        let coordinate = Coordinate::new(Kind::from(38327u16), key).identifier("00ff");
        let naddr = Nip19Coordinate::new(coordinate, [relay(1)])
            .to_bech32()
            .unwrap();
        assert_eq!(
            parse_public_key(&naddr),
            Ok((
                HEX.parse().unwrap(),
                vec!["wss://r1.example.com".to_owned()]
            ))
        );
        let greedy = Nip19Profile::new(key, (0..20).map(relay))
            .to_bech32()
            .unwrap();
        assert_eq!(parse_public_key(&greedy).unwrap().1.len(), MAX_RELAYS);
    }

    #[test]
    fn what_is_no_public_key_says_what_it_is() {
        let event = EventId::all_zeros();
        for (text, error) in [
            (
                "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5",
                NameError::SecretKey,
            ),
            (&*event.to_bech32().unwrap(), NameError::Event),
            (
                &Nip19Event::new(event).to_bech32().unwrap(),
                NameError::Event,
            ),
            ("", NameError::Unknown),
            ("npub1", NameError::Unknown),
            (&HEX[1..], NameError::Unknown),
            (&NPUB.replace("npub180", "npub181"), NameError::Unknown),
            // Five is no x coordinate (BIP-327's vectors).
            (&format!("{:064x}", 5), NameError::NotOnCurve),
            (&"a".repeat(MAX_NAME + 1), NameError::Unknown),
        ] {
            let found = parse_public_key(text).unwrap_err();
            assert_eq!(found, error, "{text}");
            assert!(!found.to_string().contains("nsec1vl029"));
        }
    }

    proptest! {
        #[test]
        fn foreign_text_never_panics(text in ".{0,200}", tail in "[a-z0-9]{0,200}") {
            for text in [text, format!("nprofile1{tail}"), format!("naddr1{tail}")] {
                let _ = parse_public_key(&text);
                let _ = parse_secret_key(&text);
            }
        }

        #[test]
        fn foreign_tlv_never_panics(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            for hrp in ["nprofile", "naddr", "nevent", "npub", "nsec"] {
                let hrp = bech32::Hrp::parse(hrp).unwrap();
                if let Ok(text) = bech32::encode::<bech32::Bech32>(hrp, &data) {
                    let _ = parse_public_key(&text);
                }
            }
        }
    }
}
