//! Invite codes: what an operator hands out, and the key that a code is in one cohort.
//!
//! A code is 128 random bits, written in bech32m so that a slip of the pen is noticed. In each cohort it is another
//! key pair. The aggregator keeps the public key: neither its store nor its log can be used to enter. A member signs
//! its seat's key with the secret one: who sees that can not enter with another key.

use std::fmt;

use bech32::{Bech32m, Hrp};
use zeroize::Zeroizing;

use super::secret::OwnKey;
use crate::hash::{CohortId, tagged_hash};

/// The prefix of a code's text.
const PREFIX: &str = "invite";

/// The secret of an invitation: shown once, to be handed on.
pub struct InviteCode(Zeroizing<[u8; 16]>);

/// A text is no code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an invite code: it starts with {PREFIX}1 and its last characters are a checksum, so copy all of it"
)]
pub struct ParseCodeError;

impl InviteCode {
    /// A code of 16 random bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads a code, in lower or upper case, with white space around it.
    pub fn parse(text: &str) -> Result<Self, ParseCodeError> {
        let text = text.trim();
        let known = text.len() <= 64 && text.is_ascii();
        let (prefix, bytes) = known
            .then(|| bech32::decode(text).ok())
            .flatten()
            .ok_or(ParseCodeError)?;
        let bytes = Zeroizing::new(bytes);
        let code: [u8; 16] = bytes.as_slice().try_into().map_err(|_| ParseCodeError)?;
        let code = Self::from_bytes(code);
        // Bech32 of 2017 passes the decoder too: only what this makes is a code.
        let canonical = code.expose_text();
        if prefix.to_lowercase() != PREFIX || *canonical != text.to_lowercase() {
            return Err(ParseCodeError);
        }
        Ok(code)
    }

    /// The text to hand on.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn expose_text(&self) -> Zeroizing<String> {
        let prefix = Hrp::parse_unchecked(PREFIX);
        Zeroizing::new(
            bech32::encode::<Bech32m>(prefix, &*self.0)
                .expect("16 bytes fit into a bech32m string"),
        )
    }

    /// The key pair that this code is in a cohort.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn key_in(&self, cohort: &CohortId) -> OwnKey {
        let secret = Zeroizing::new(tagged_hash(
            "btcr2/admission/code-key/1",
            &[cohort.as_bytes(), &*self.0],
        ));
        OwnKey::from_bytes(&secret).expect("a hash is zero or above the order once in 2^127 times")
    }
}

impl fmt::Debug for InviteCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InviteCode(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_back_and_a_slip_is_noticed() {
        let code = InviteCode::from_bytes([7; 16]);
        let text = code.expose_text();
        assert!(text.starts_with("invite1"), "{}", *text);
        let cohort = CohortId::from_bytes([1; 32]);
        let same = |text: &str| InviteCode::parse(text).unwrap().key_in(&cohort).public();
        let key = code.key_in(&cohort).public();
        assert_eq!(same(&text), key);
        assert_eq!(same(&format!(" {}\n", text.to_uppercase())), key);
        assert_ne!(code.key_in(&CohortId::from_bytes([2; 32])).public(), key);
        assert_eq!(format!("{code:?}"), "InviteCode(..)");
        for place in 0..text.len() {
            let mut slip = text.as_bytes().to_vec();
            slip[place] = if slip[place] == b'q' { b'p' } else { b'q' };
            let slip = String::from_utf8(slip).unwrap();
            assert!(InviteCode::parse(&slip).is_err(), "{slip}");
        }
        let other = bech32::encode::<bech32::Bech32>(Hrp::parse_unchecked(PREFIX), &[7; 16]);
        for text in [
            "",
            "invite1",
            "naddr1qqqqqqqq",
            "ïnvite1qqqq",
            &other.unwrap(),
        ] {
            assert!(InviteCode::parse(text).is_err(), "{text}");
        }
    }
}
