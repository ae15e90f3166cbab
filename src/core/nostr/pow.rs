//! Proof of work for relays that ask for it (NIP-13).

use sha2::{Digest as _, Sha256};

use super::event::{EventDraft, EventFault};
use crate::keys::NostrKey;

/// A number that stands nowhere else in an event by chance, to find the place of the nonce.
const PLACE: &str = "13131313131313131313";

/// Adds a nonce tag such that the event's id has `bits` leading zero bits.
///
/// Blocks: a core tries some million ids of small events a second, and the expected number of tries is
/// `2^bits`. Gives up, with `None`, after sixteen times as many.
pub fn mine(
    mut draft: EventDraft,
    author: NostrKey,
    bits: u8,
) -> Result<Option<EventDraft>, EventFault> {
    draft
        .tags
        .retain(|tag| tag.first().is_none_or(|name| name != "nonce"));
    let nonce_tag = |nonce: String| vec!["nonce".to_owned(), nonce, bits.to_string()];
    draft.tags.insert(0, nonce_tag(PLACE.to_owned()));
    let serialised = String::from_utf8(draft.serialise(author))
        .map_err(|_| EventFault::Malformed("not UTF-8".to_owned()))?;
    // The nonce is in the first tag, before everything its author or peers chose.
    let Some((before, after)) = serialised.split_once(PLACE) else {
        return Ok(None);
    };
    let start = Sha256::new_with_prefix(before);
    let tries = 16u64.saturating_mul(1u64.checked_shl(u32::from(bits)).unwrap_or(u64::MAX));
    let found = (0..tries).find(|nonce| {
        let mut hasher = start.clone();
        hasher.update(nonce.to_string());
        hasher.update(after);
        leading_zeros(&hasher.finalize()) >= u32::from(bits)
    });
    Ok(found.map(|nonce| {
        if let Some(tag) = draft.tags.first_mut() {
            *tag = nonce_tag(nonce.to_string());
        }
        draft
    }))
}

/// Leading zero bits of an id: the work that was done for it.
#[must_use]
pub fn leading_zeros(id: &[u8]) -> u32 {
    let zeros = id.iter().take_while(|byte| **byte == 0).count();
    let rest = id.get(zeros).map_or(0, |byte| byte.leading_zeros());
    u32::try_from(zeros).unwrap_or(u32::MAX).saturating_mul(8) + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::OwnKey;
    use crate::time::UnixTime;

    #[test]
    fn bits_are_counted_as_in_nip_13() {
        // The example of NIP-13: an id that starts 000006d8 has 21 bits.
        assert_eq!(leading_zeros(&[0x00, 0x00, 0x06, 0xd8]), 21);
        assert_eq!(leading_zeros(&[0x80]), 0);
        assert_eq!(leading_zeros(&[0, 0]), 16);
    }

    #[test]
    fn a_mined_event_has_the_work_and_a_valid_signature() {
        let key = OwnKey::from_bytes(&[5; 32]).unwrap();
        let draft = EventDraft {
            created_at: UnixTime(1_700_000_000),
            kind: 8327,
            tags: vec![
                vec!["p".into(), PLACE.into()],
                vec!["nonce".into(), "1".into(), "3".into()],
            ],
            content: format!("quote \" and {PLACE}"),
        };
        let mined = mine(draft.clone(), key.public(), 10).unwrap().unwrap();
        let event = mined.sign(&key).unwrap();
        assert!(leading_zeros(event.id.as_bytes()) >= 10);
        assert_eq!(event.content, draft.content);
        assert_eq!(event.tags_named("nonce").count(), 1);
        assert_eq!(event.tags[0][2], "10");
        event.into_inner().verify().unwrap();
    }
}
