//! Terms: what an aggregator offers and a member agrees to (DESIGN §4 "Advert", §5).
//!
//! The terms are the content of the advert: one JSON object in RFC 8785 form. The cohort's id is the
//! SHA-256 of exactly those bytes, so that an edited term is another cohort.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::admission::{Admission, MAX_WORK_BITS};
use super::ids::MAX_RUNGS;
use crate::hash::{self, CohortId, bytes_newtype};
use crate::keys::NostrKey;
use crate::network::Network;
use crate::time::UnixTime;

/// The wire version these terms belong to.
pub const WIRE_VERSION: u32 = 1;

/// Bitcoin's mean time between blocks.
const SECONDS_PER_BLOCK: u64 = 600;

/// The largest canonical terms accepted, in bytes. A relay takes events of 65 536 bytes; terms need about 900.
pub const MAX_TERMS_BYTES: usize = 8_192;

bytes_newtype!(
    /// 16 random bytes that make two cohorts with equal terms distinct. Text: lower-case hex.
    Salt, 16, hash::to_hex, hash::array_from_hex
);
bytes_newtype!(
    /// SHA-256 of a text of terms of service. Text: lower-case hex.
    TextHash, 32, hash::to_hex, hash::array_from_hex
);

/// How a cohort turns updates into 32 bytes (spec.md §2.5, §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CohortBeacon {
    /// The root of a sparse Merkle tree; the aggregator learns neither DIDs nor updates.
    Smt,
    /// The hash of a CAS announcement; all members see all DIDs and update hashes.
    Cas,
}

impl fmt::Display for CohortBeacon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Smt => "smt",
            Self::Cas => "cas",
        })
    }
}

/// What a round does in which nobody has anything to announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmptyRounds {
    /// The round ends without a transaction.
    Skip,
    /// The round is signed and sent all the same, so that silence tells an observer nothing.
    Signal,
}

/// Whether members may, or must, show the aggregator what they announce: see [`super::deposit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Deposits {
    /// Hashes only. A term that is absent says this: terms from before there was the term keep their id and
    /// their meaning.
    #[default]
    None,
    /// A member may deposit an update; the aggregator verifies it completely before it aggregates its hash.
    Accepted,
    /// Every announced update is deposited.
    Required,
}

impl Deposits {
    /// Whether the aggregator takes no deposits. Then the term is absent.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

impl fmt::Display for Deposits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Accepted => "accepted",
            Self::Required => "required",
        })
    }
}

/// Which output the beacon address is (DESIGN §5 "Output policy").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutputPolicy {
    /// Taproot key path of the n-of-n MuSig2 key, no script tree.
    #[serde(rename = "musig2-key-path")]
    Musig2KeyPath,
    /// The same key path, and beside it one leaf that any k members can spend by. Any k seats, which the aggregator
    /// may own, can then make every DID that ever listed this beacon unresolvable.
    #[serde(rename = "k-of-n")]
    KOfN(u16),
}

impl OutputPolicy {
    /// What whoever joins has to know of this policy, in one sentence; `None` where all members sign every spend.
    #[must_use]
    pub fn risk(self) -> Option<String> {
        let Self::KOfN(threshold) = self else {
            return None;
        };
        let seats = if threshold == 1 { "seat" } else { "seats" };
        Some(format!(
            "any {threshold} {seats}, which the aggregator may own, can make every DID that ever listed this beacon \
             unresolvable, and a round that they sign without the others publishes the keys of all seats"
        ))
    }
}

/// Who pays for signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Funding {
    /// The aggregator; refunds go to it.
    Aggregator,
    /// The members, in equal shares; refunds go to them, in equal shares, so that each has to name a payee.
    Members,
}

impl fmt::Display for Funding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aggregator => "aggregator",
            Self::Members => "members",
        })
    }
}

/// Terms of service a member accepts in its opt-in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TermsOfService {
    /// SHA-256 of the exact text.
    pub sha256: TextHash,
    /// Where the text can be read. Shown, never fetched.
    pub url: String,
}

/// The terms of a cohort, version 1. Every field has a unit and a range: see [`Terms::validate`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// Wire version: 1.
    pub v: u32,
    /// The aggregator's identity key: author of the advert and of every message of the service.
    pub aggregator: NostrKey,
    /// Makes equal terms distinct.
    pub salt: Salt,
    /// A name for people: 0 to 64 characters, none of them a control character.
    pub name: String,
    /// Bitcoin network of the beacon and of the DIDs.
    pub network: Network,
    /// Beacon type.
    pub beacon: CohortBeacon,
    /// Output of the beacon address.
    pub output_policy: OutputPolicy,
    /// Fewest seats the cohort forms with, 1 to 1 000.
    pub seats_min: u16,
    /// Most seats, `seats_min` to 1 000. Default 20: every member must answer every round, so liveness is pⁿ.
    pub seats_max: u16,
    /// DIDs each seat must have registered before rounds open, 0 to `dids_max`.
    pub dids_min: u16,
    /// Most DIDs a seat may register, 1 to 1 000.
    pub dids_max: u16,
    /// Opt-ins count until then (seconds since 1970).
    pub join_by: UnixTime,
    /// Seconds members have to acknowledge the set, 1 to 2 592 000.
    pub formation_seconds: u32,
    /// Seconds between two scheduled openings, 0 (none) or 1 to 31 536 000.
    pub cadence_seconds: u32,
    /// A round opens when members reported this many pending updates, 0 (never) to 65 535.
    pub pending_trigger: u16,
    /// Seconds members have to respond to an opening, 1 to 2 592 000.
    pub response_seconds: u32,
    /// Seconds members have to sign after the request, per session, 1 to 2 592 000.
    pub signing_seconds: u32,
    /// Sessions a round may use before it fails, 1 to 16.
    pub sessions_max: u8,
    /// Confirmations of the previous signal before the next is signed, 1 to 100.
    pub depth: u8,
    /// What happens when nobody has anything to announce.
    pub empty_rounds: EmptyRounds,
    /// Whether updates may or must be deposited with the aggregator. Default none, and then absent.
    #[serde(default, skip_serializing_if = "Deposits::is_none")]
    pub deposits: Deposits,
    /// Ceiling of a signal's fee rate in sat/vB, 1 to 10 000.
    pub max_fee_rate: u32,
    /// What a session signs the signal at, so that a stuck one can be replaced without asking members again:
    /// multiples of the round's fee rate, 1 to 3 of them, ascending from 1, at most 100. Default 1, 3, 10.
    pub fee_ladder: Vec<u8>,
    /// Who pays for signals. Default the aggregator.
    pub funding: Funding,
    /// Relative lock time of refunds in blocks (BIP-68), 0 (no refunds) to 65 535; at least twice the cadence at
    /// 600 s a block. Default 1 008, a week.
    pub refund_blocks: u16,
    /// Cost of enrolment in sat. Advertised only: this software settles nothing.
    pub cost_enrolment_sat: u64,
    /// Cost per announcement in sat. Advertised only.
    pub cost_signal_sat: u64,
    /// Only keys the aggregator invited are seated.
    pub invite_only: bool,
    /// What is asked of who was not invited. Default nothing, and then absent.
    #[serde(default, skip_serializing_if = "Admission::is_open")]
    pub admission: Admission,
    /// Terms of service, if any.
    pub tos: Option<TermsOfService>,
}

/// A term that is missing, malformed or out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TermsError {
    /// Not the JSON of terms version 1.
    #[error("the terms are not valid: {0}")]
    Malformed(String),
    /// Valid JSON, but not in RFC 8785 form, so that its hash is not the cohort's id.
    #[error("the terms are not in canonical form (RFC 8785)")]
    NotCanonical,
    /// Too long.
    #[error("the terms have {0} bytes; at most {MAX_TERMS_BYTES} are allowed")]
    TooLong(usize),
    /// A field is out of its range.
    #[error("term {field} is {value}: allowed is {allowed}")]
    OutOfRange {
        /// Name of the field.
        field: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        allowed: String,
    },
}

impl Terms {
    /// Terms with every default, for a network, a beacon type and an aggregator.
    #[must_use]
    pub fn with_defaults(
        aggregator: NostrKey,
        network: Network,
        beacon: CohortBeacon,
        salt: Salt,
        join_by: UnixTime,
    ) -> Self {
        Self {
            v: WIRE_VERSION,
            aggregator,
            salt,
            name: String::new(),
            network,
            beacon,
            output_policy: OutputPolicy::Musig2KeyPath,
            seats_min: 2,
            seats_max: 20,
            dids_min: 0,
            dids_max: 8,
            join_by,
            formation_seconds: 86_400,
            cadence_seconds: 0,
            pending_trigger: 0,
            response_seconds: 43_200,
            signing_seconds: 7_200,
            sessions_max: 4,
            depth: 1,
            empty_rounds: EmptyRounds::Skip,
            deposits: Deposits::None,
            max_fee_rate: 50,
            fee_ladder: vec![1, 3, 10],
            funding: Funding::Aggregator,
            refund_blocks: 1_008,
            cost_enrolment_sat: 0,
            cost_signal_sat: 0,
            invite_only: false,
            admission: Admission::Open,
            tos: None,
        }
    }

    /// Parses the content of an advert or invitation: strict JSON of version 1, canonical, in range.
    pub fn parse(content: &str) -> Result<(Self, CohortId), TermsError> {
        if content.len() > MAX_TERMS_BYTES {
            return Err(TermsError::TooLong(content.len()));
        }
        let terms: Self = serde_json::from_str(content)
            .map_err(|error| TermsError::Malformed(error.to_string()))?;
        terms.validate()?;
        if terms.canonical() != content {
            return Err(TermsError::NotCanonical);
        }
        Ok((
            terms,
            CohortId::from_bytes(hash::sha256(content.as_bytes())),
        ))
    }

    /// The terms as canonical JSON (RFC 8785): the content of the advert.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn canonical(&self) -> String {
        serde_json_canonicalizer::to_string(self)
            .expect("terms have string keys and integers below 2^53 only")
    }

    /// The cohort's id: SHA-256 of the canonical terms.
    #[must_use]
    pub fn cohort_id(&self) -> CohortId {
        CohortId::from_bytes(hash::sha256(self.canonical().as_bytes()))
    }

    /// Checks every range.
    pub fn validate(&self) -> Result<(), TermsError> {
        const MONTH: u64 = 2_592_000;
        // Integers above 2^53 - 1 change value in RFC 8785 (they are written as IEEE doubles).
        const SAFE: u64 = (1 << 53) - 1;
        let v = u64::from;
        check("v", v(self.v), v(WIRE_VERSION), v(WIRE_VERSION))?;
        check("seats_min", self.seats_min.into(), 1, 1_000)?;
        check(
            "seats_max",
            self.seats_max.into(),
            self.seats_min.into(),
            1_000,
        )?;
        check("dids_max", self.dids_max.into(), 1, 1_000)?;
        check("dids_min", self.dids_min.into(), 0, self.dids_max.into())?;
        check("join_by", self.join_by.0, 0, SAFE)?;
        check("formation_seconds", v(self.formation_seconds), 1, MONTH)?;
        check("cadence_seconds", v(self.cadence_seconds), 0, 31_536_000)?;
        check("response_seconds", v(self.response_seconds), 1, MONTH)?;
        check("signing_seconds", v(self.signing_seconds), 1, MONTH)?;
        check("sessions_max", self.sessions_max.into(), 1, 16)?;
        check("depth", self.depth.into(), 1, 100)?;
        check("max_fee_rate", v(self.max_fee_rate), 1, 10_000)?;
        self.validate_ladder()?;
        self.validate_refunds()?;
        if let OutputPolicy::KOfN(k) = self.output_policy {
            // With all of them the leaf is no fallback; what counts is how many the set has in the end.
            let most = u64::from(self.seats_min).saturating_sub(1);
            check("output_policy", k.into(), 1, most)?;
            let keys = u64::try_from(crate::beacon::fallback::MAX_KEYS).unwrap_or(u64::MAX);
            check("seats_max", self.seats_max.into(), 1, keys)?;
        }
        if let Admission::Pow(bits) = self.admission {
            check("admission", bits.into(), 1, MAX_WORK_BITS.into())?;
        }
        check("cost_enrolment_sat", self.cost_enrolment_sat, 0, SAFE)?;
        check("cost_signal_sat", self.cost_signal_sat, 0, SAFE)?;
        text("name", &self.name, 64)?;
        if let Some(tos) = &self.tos {
            text("tos.url", &tos.url, 512)?;
        }
        Ok(())
    }
}

impl Terms {
    fn validate_ladder(&self) -> Result<(), TermsError> {
        let ladder = &self.fee_ladder;
        let ascends = ladder.iter().zip(ladder.iter().skip(1)).all(|(a, b)| a < b);
        let fits = ladder.len() <= usize::from(MAX_RUNGS) && ladder.iter().all(|rung| *rung <= 100);
        if ladder.first() == Some(&1) && ascends && fits {
            return Ok(());
        }
        Err(TermsError::OutOfRange {
            field: "fee_ladder",
            value: format!("{ladder:?}"),
            allowed: format!("1 to {MAX_RUNGS} multiples, ascending from 1, at most 100"),
        })
    }

    fn validate_refunds(&self) -> Result<(), TermsError> {
        if self.refund_blocks == 0 && self.funding == Funding::Members {
            return Err(TermsError::OutOfRange {
                field: "refund_blocks",
                value: "0".into(),
                allowed: "1 to 65535 when members fund: nobody pays in what can not come back"
                    .into(),
            });
        }
        // A refund must not ripen between two scheduled rounds: it would compete with the next signal.
        let cadence_blocks = u64::from(self.cadence_seconds).div_ceil(SECONDS_PER_BLOCK);
        let least = cadence_blocks.saturating_mul(2);
        if self.refund_blocks > 0 && u64::from(self.refund_blocks) < least {
            return Err(TermsError::OutOfRange {
                field: "refund_blocks",
                value: self.refund_blocks.to_string(),
                allowed: format!("0, or {least} to 65535: at least twice the cadence"),
            });
        }
        Ok(())
    }

    /// How many rungs the fee ladder has.
    #[must_use]
    pub fn rungs(&self) -> u8 {
        u8::try_from(self.fee_ladder.len()).unwrap_or(MAX_RUNGS)
    }
}

fn check(field: &'static str, value: u64, low: u64, high: u64) -> Result<(), TermsError> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(TermsError::OutOfRange {
        field,
        value: value.to_string(),
        allowed: if low == high {
            low.to_string()
        } else {
            format!("{low} to {high}")
        },
    })
}

/// Text shown to people: no control characters and none that reorder a line (bidi), so that a peer's
/// text can not forge what a terminal shows.
fn text(field: &'static str, value: &str, most: usize) -> Result<(), TermsError> {
    let forbidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if value.chars().count() > most || value.chars().any(forbidden) {
        return Err(TermsError::OutOfRange {
            field,
            value: format!("{value:?}"),
            allowed: format!("{most} characters without control characters"),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
