//! Adverts and their terms.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::agent::control::PeerText;
use crate::hash::CohortId;
pub use crate::hash::TosHash;
use crate::keys::NostrKey;
use crate::network::Network;
use crate::protocol::admission::Admission;
use crate::time::UnixTime;

/// The type of an aggregate beacon.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum BeaconType {
    /// SMTBeacon: a sparse Merkle tree; the aggregator learns neither DIDs nor updates.
    #[default]
    Smt,
    /// CASBeacon: a map of DIDs to update hashes, seen by all members.
    Cas,
}

impl fmt::Display for BeaconType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Smt => "smt",
            Self::Cas => "cas",
        })
    }
}

/// What happens in a round in which nobody updates.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum EmptyRounds {
    /// No transaction.
    #[default]
    Skip,
    /// A signal all the same.
    Signal,
}

impl fmt::Display for EmptyRounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Skip => "skip",
            Self::Signal => "signal",
        })
    }
}

/// Who pays for signals.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum FundBy {
    /// The aggregator.
    #[default]
    Aggregator,
    /// The members, in equal shares.
    Members,
}

/// Who can spend from the beacon, and so signal.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum OutputPolicy {
    /// All members together.
    #[default]
    Musig2KeyPath,
    /// All members together, or some of them when a round has stalled.
    KOfN,
}

/// Whether members deposit the updates they want announced.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Deposits {
    /// Hashes only.
    #[default]
    None,
    /// A member may: the aggregator verifies the update before it announces its hash.
    Accepted,
    /// Every announced update.
    Required,
}

impl fmt::Display for Deposits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Accepted => "accepted",
            Self::Required => "required",
        })
    }
}

/// Fewest and most of something, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span<T> {
    /// The fewest.
    pub min: T,
    /// The most.
    pub max: T,
}

/// A text is not a span of two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("use a number (3) or two with the smaller first (2-20)")]
pub struct ParseSpanError;

impl<T: FromStr + Copy + PartialOrd> FromStr for Span<T> {
    type Err = ParseSpanError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        let min = min.trim().parse().map_err(|_| ParseSpanError)?;
        let max = max.trim().parse().map_err(|_| ParseSpanError)?;
        if min <= max {
            Ok(Self { min, max })
        } else {
            Err(ParseSpanError)
        }
    }
}

impl<T: fmt::Display + PartialEq> fmt::Display for Span<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            write!(f, "{}", self.min)
        } else {
            write!(f, "{}-{}", self.min, self.max)
        }
    }
}

/// A fee rate in sat per 1 000 virtual bytes, exact. People write and read sat/vB, with up to
/// three decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FeeRate(pub u64);

/// A text is not a fee rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a fee rate is a number of sat/vB above zero with at most three decimals, such as 2 or 1.5"
)]
pub struct ParseFeeRateError;

impl FeeRate {
    /// The highest rate that parses, in sat/vB: ten times the worst the network has seen.
    pub const MAX_SAT_PER_VB: u64 = 10_000;

    /// The fee of a transaction of this size in sat, rounded up.
    #[must_use]
    pub const fn fee_sat(self, vsize: u64) -> u64 {
        self.0.saturating_mul(vsize).div_ceil(1000)
    }
}

impl FromStr for FeeRate {
    type Err = ParseFeeRateError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(decimals) || decimals.len() > 3 {
            return Err(ParseFeeRateError);
        }
        let whole: u64 = whole.parse().map_err(|_| ParseFeeRateError)?;
        let thousandths: u64 = format!("{decimals:0<3}")
            .parse()
            .map_err(|_| ParseFeeRateError)?;
        if whole > Self::MAX_SAT_PER_VB || (whole == 0 && thousandths == 0) {
            return Err(ParseFeeRateError);
        }
        Ok(Self(whole * 1000 + thousandths))
    }
}

impl fmt::Display for FeeRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            write!(f, "{whole}")
        } else {
            let decimals = format!("{rest:03}");
            write!(f, "{whole}.{}", decimals.trim_end_matches('0'))
        }
    }
}

/// Terms of a cohort, complete (DESIGN §4: the cohort id commits to them).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermsView {
    /// Name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<PeerText>,
    /// Network of the beacon and of its DIDs.
    pub network: Network,
    /// Type of the beacon.
    pub beacon: BeaconType,
    /// Fewest and most members.
    pub seats: Span<u16>,
    /// How many members can sign a round that has stalled; absent where all must sign every round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<u16>,
    /// What that means for whoever joins, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<String>,
    /// Fewest and most DIDs a seat registers.
    pub dids_per_seat: Span<u16>,
    /// Seconds between the openings of two rounds; absent when only pending updates open one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cadence_s: Option<u64>,
    /// Number of pending updates that opens a round early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_trigger: Option<u32>,
    /// Seconds members have for their responses.
    pub response_deadline_s: u64,
    /// Seconds members have to sign.
    pub sign_deadline_s: u64,
    /// Confirmations of a signal before the next is signed.
    pub depth: u32,
    /// The highest fee rate members may be asked to sign.
    pub max_fee_rate: FeeRate,
    /// Multiples of a round's fee rate that the signal is signed at.
    pub fee_ladder: Vec<u8>,
    /// Who pays for signals and is paid back by refunds.
    pub fund_by: FundBy,
    /// Blocks after which an unused beacon output can be paid back; `null` where there are no refunds.
    pub refund_blocks: Option<u16>,
    /// What a round without updates does.
    pub empty_rounds: EmptyRounds,
    /// Whether members may, or must, show the aggregator the updates they want announced.
    #[serde(default)]
    pub deposits: Deposits,
    /// What is asked of who is not invited.
    #[serde(default)]
    pub admission: Admission,
    /// Price of a seat, in sat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_enrolment_sat: Option<u64>,
    /// Price of an announcement, in sat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_announcement_sat: Option<u64>,
    /// Terms of service accepted by opting in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tos: Option<TosView>,
    /// When the last opt-in is taken.
    pub opt_in_until: UnixTime,
    /// Relays the aggregator names.
    pub relays: Vec<PeerText>,
}

/// Terms of service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TosView {
    /// SHA-256 of the text.
    pub sha256: TosHash,
    /// Where it can be read.
    pub link: PeerText,
}

/// Status of an advert (its `s` tag).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdvertStatus {
    /// Takes opt-ins.
    Open,
    /// All seats are taken.
    Full,
    /// The set is fixed and announces.
    Active,
    /// It has ended.
    Closed,
}

impl fmt::Display for AdvertStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Open => "open",
            Self::Full => "full",
            Self::Active => "active",
            Self::Closed => "closed",
        })
    }
}

/// An advert whose author, id, content and network agree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdvertView {
    /// The cohort: SHA-256 of the terms.
    pub cohort: CohortId,
    /// Who aggregates, and signed the advert.
    pub aggregator: NostrKey,
    /// The share link.
    pub naddr: String,
    /// The advertised status.
    pub status: AdvertStatus,
    /// Whether the opt-in deadline or the event's expiration has passed.
    pub expired: bool,
    /// Whether this agent follows the aggregator.
    pub followed: bool,
    /// Whether this agent has opted in already.
    pub joined: bool,
    /// Whether the terms came as an invitation, without a public advert.
    pub invitation: bool,
    /// The terms.
    pub terms: TermsView,
    /// Members seated, as the aggregator says; absent when it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seats_taken: Option<u16>,
    /// `created_at` of the event.
    pub published_at: UnixTime,
    /// Relays that served it.
    pub served_by: Vec<String>,
    /// Relays that were asked.
    pub relays_asked: u16,
    /// What keeps this agent's policy from joining by itself, if something.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policy_objections: Vec<String>,
}

/// An event of the advert kind that does not count, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlawedAdvertView {
    /// Event id, hex.
    pub event: String,
    /// Its author.
    pub author: NostrKey,
    /// What is wrong: one sentence.
    pub flaw: String,
    /// Relays that served it.
    pub served_by: Vec<String>,
}

/// Answer of `cohort discover`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoverView {
    /// When the relays were asked.
    pub at: UnixTime,
    /// Adverts that count, in the order of the pick numbers (from 1).
    pub adverts: Vec<AdvertView>,
    /// Adverts that do not.
    pub flawed: Vec<FlawedAdvertView>,
    /// What each relay answered.
    pub relays: Vec<RelayAnswerView>,
}

/// How one relay took part in a query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayAnswerView {
    /// The relay.
    pub url: String,
    /// Whether it served everything it has.
    pub complete: bool,
    /// Events it served.
    pub events: u32,
    /// Why it did not answer completely.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<PeerText>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fee_rates_are_exact() {
        for (text, sat_kvb, shown) in [
            ("2", 2000, "2"),
            ("1.5", 1500, "1.5"),
            ("0.125", 125, "0.125"),
            ("10.050", 10_050, "10.05"),
        ] {
            let rate: FeeRate = text.parse().unwrap();
            assert_eq!(rate, FeeRate(sat_kvb));
            assert_eq!(rate.to_string(), shown);
        }
        for text in [
            "", "0", "0.000", "-1", "1.2345", "1,5", "1e3", ".5", "1.", "10001", "+2",
        ] {
            assert!(text.parse::<FeeRate>().is_err(), "{text}");
        }
        // A signal with change is 154 vB; 1.5 sat/vB of it is 231 sat; 0.125 is 19.25, rounded up.
        assert_eq!(FeeRate(1500).fee_sat(154), 231);
        assert_eq!(FeeRate(125).fee_sat(154), 20);
    }

    #[test]
    fn spans_parse_and_refuse() {
        assert_eq!("3".parse::<Span<u16>>(), Ok(Span { min: 3, max: 3 }));
        assert_eq!("2-20".parse::<Span<u16>>(), Ok(Span { min: 2, max: 20 }));
        assert_eq!(Span { min: 2u16, max: 20 }.to_string(), "2-20");
        for text in ["20-2", "", "-", "2-", "a", "2-70000", "2-3-4"] {
            assert!(text.parse::<Span<u16>>().is_err(), "{text}");
        }
    }
}
