//! Who is seated: what the terms ask of an opt-in, and what shows that it is met (docs/protocol.md "Admission").
//!
//! Keys cost nothing, so a seat has to cost something else: work, a code, somebody's word. Whatever shows it is bound
//! to the cohort and to the key of the seat. Who sees it can not use it for another key.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::hash::{CohortId, SchnorrSignature, sha256, tagged_hash};
use crate::keys::NostrKey;

/// Most work that terms may ask for, in leading zero bits: minutes of one core. More keeps people out, not machines.
pub const MAX_WORK_BITS: u8 = 28;

/// Tag of the hash that work is counted in.
const WORK_TAG: &str = "btcr2/admission/work/1";

/// Who gets a seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admission {
    /// Whoever asks, while seats are free. A term that is absent says this: terms from before there was the term keep
    /// their id and their meaning.
    #[default]
    Open,
    /// Whoever did this much work for its seat's key: leading zero bits, 1 to [`MAX_WORK_BITS`].
    Pow(u8),
    /// Whom the operator approves, one by one.
    Approval,
    /// Whoever has a code that the operator handed out.
    Code,
}

/// A text that names no way of admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("admission is open, pow:BITS with 1 to {MAX_WORK_BITS} bits, approval or code")]
pub struct ParseAdmissionError;

impl Admission {
    /// Whether anybody is seated. Then the term is absent.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }
}

impl fmt::Display for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::Pow(bits) => write!(f, "pow:{bits}"),
            Self::Approval => f.write_str("approval"),
            Self::Code => f.write_str("code"),
        }
    }
}

impl FromStr for Admission {
    type Err = ParseAdmissionError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "open" => Ok(Self::Open),
            "approval" => Ok(Self::Approval),
            "code" => Ok(Self::Code),
            _ => {
                let bits = text.strip_prefix("pow:").ok_or(ParseAdmissionError)?;
                let bits: u8 = bits.parse().map_err(|_| ParseAdmissionError)?;
                let fits = (1..=MAX_WORK_BITS).contains(&bits);
                fits.then_some(Self::Pow(bits)).ok_or(ParseAdmissionError)
            }
        }
    }
}

/// What an opt-in shows for a seat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ticket {
    /// The number that makes the hash of cohort, key and number small: see [`work_bits`]. Below 2^53.
    Work(u64),
    /// The key of a code vouches for the key of the seat.
    Code(Vouch),
    /// An invited key vouches for the key of the seat.
    Invited(Vouch),
}

/// A key's word for the key of a seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vouch {
    /// The key that vouches: of a code, or one that was invited.
    pub key: NostrKey,
    /// Its signature of [`vouch_digest`].
    pub sig: SchnorrSignature,
}

/// What a vouching key stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VouchAs {
    /// It is the key of a code.
    Code,
    /// It was invited.
    Invited,
}

/// The digest by which a key vouches for the key of a seat in one cohort.
#[must_use]
pub fn vouch_digest(of: VouchAs, cohort: &CohortId, seat: NostrKey) -> [u8; 32] {
    let tag = match of {
        VouchAs::Code => "btcr2/admission/code/1",
        VouchAs::Invited => "btcr2/admission/invited/1",
    };
    tagged_hash(tag, &[cohort.as_bytes(), &seat.to_bytes()])
}

impl Vouch {
    /// Whether the key vouches for this seat, and no other, in this cohort, and no other.
    #[must_use]
    pub fn verifies(&self, of: VouchAs, cohort: &CohortId, seat: NostrKey) -> bool {
        self.key
            .verifies(&vouch_digest(of, cohort, seat), &self.sig)
    }
}

/// Work for one seat's key in one cohort: everything of the hash that does not change from try to try.
#[derive(Clone)]
struct Work(Sha256);

impl Work {
    fn new(cohort: &CohortId, seat: NostrKey) -> Self {
        let tag = sha256(WORK_TAG.as_bytes());
        let mut hasher = Sha256::new();
        hasher.update(tag);
        hasher.update(tag);
        hasher.update(cohort.as_bytes());
        hasher.update(seat.to_bytes());
        Self(hasher)
    }

    fn bits(&self, number: u64) -> u8 {
        let mut hasher = self.0.clone();
        hasher.update(number.to_be_bytes());
        let hash = hasher.finalize();
        let zeros = hash.iter().take_while(|byte| **byte == 0).count();
        let rest = hash.get(zeros).map_or(0, |byte| byte.leading_zeros());
        let bits = zeros
            .saturating_mul(8)
            .saturating_add(usize::try_from(rest).unwrap_or(0));
        u8::try_from(bits).unwrap_or(u8::MAX)
    }
}

/// The work that a number shows: leading zero bits, as NIP-13 counts them, of
/// `taggedhash("btcr2/admission/work/1", cohort ‖ seat key ‖ number)`, the number as 8 bytes.
#[must_use]
pub fn work_bits(cohort: &CohortId, seat: NostrKey, number: u64) -> u8 {
    Work::new(cohort, seat).bits(number)
}

/// Looks for a number that shows this much work. Blocks: the expected number of hashes is `2^bits`. Gives up after
/// sixteen times as many, which one in nine million does.
#[must_use]
pub fn mine(cohort: &CohortId, seat: NostrKey, bits: u8) -> Option<u64> {
    let work = Work::new(cohort, seat);
    let tries = 16u64.saturating_mul(1u64.checked_shl(bits.into()).unwrap_or(u64::MAX));
    (0..tries).find(|number| work.bits(*number) >= bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::to_hex;
    use crate::keys::OwnKey;

    const COHORT: CohortId = CohortId::from_bytes([7; 32]);

    fn key(n: u8) -> OwnKey {
        OwnKey::from_bytes(&[n; 32]).unwrap()
    }

    #[test]
    fn names_are_read_back_and_others_refused() {
        for (text, admission, json) in [
            ("open", Admission::Open, r#""open""#),
            ("pow:1", Admission::Pow(1), r#"{"pow":1}"#),
            ("pow:28", Admission::Pow(28), r#"{"pow":28}"#),
            ("approval", Admission::Approval, r#""approval""#),
            ("code", Admission::Code, r#""code""#),
        ] {
            assert_eq!(text.parse(), Ok(admission));
            assert_eq!(admission.to_string(), text);
            assert_eq!(serde_json::to_string(&admission).unwrap(), json);
            assert_eq!(serde_json::from_str::<Admission>(json).unwrap(), admission);
        }
        for text in [
            "", "pow", "pow:", "pow:0", "pow:29", "pow:-1", "Open", "list",
        ] {
            assert_eq!(
                text.parse::<Admission>(),
                Err(ParseAdmissionError),
                "{text}"
            );
        }
    }

    /// Against the definition, with the general tagged hash.
    #[test]
    fn work_is_the_zero_bits_of_the_tagged_hash() {
        let seat = key(1).public();
        let number = mine(&COHORT, seat, 12).unwrap();
        let hash = tagged_hash(
            "btcr2/admission/work/1",
            &[&[7; 32], &seat.to_bytes(), &number.to_be_bytes()],
        );
        assert_eq!(&to_hex(&hash)[..3], "000");
        assert!(work_bits(&COHORT, seat, number) >= 12);
        assert!((0..number).all(|earlier| work_bits(&COHORT, seat, earlier) < 12));
        // For another key, or in another cohort, it is what any number is.
        let others = (2..60u8).filter(|n| work_bits(&COHORT, key(*n).public(), number) >= 12);
        assert_eq!(others.count(), 0);
        assert!(work_bits(&CohortId::from_bytes([8; 32]), seat, number) < 12);
    }

    #[test]
    fn a_word_is_for_one_seat_of_one_cohort_in_one_meaning() {
        let (code, seat) = (key(3), key(4).public());
        let vouch = Vouch {
            key: code.public(),
            sig: code.sign_digest(&vouch_digest(VouchAs::Code, &COHORT, seat)),
        };
        assert!(vouch.verifies(VouchAs::Code, &COHORT, seat));
        assert!(!vouch.verifies(VouchAs::Invited, &COHORT, seat));
        assert!(!vouch.verifies(VouchAs::Code, &COHORT, key(5).public()));
        assert!(!vouch.verifies(VouchAs::Code, &CohortId::from_bytes([8; 32]), seat));
    }
}
