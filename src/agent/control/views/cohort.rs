//! Cohorts, their members and their money.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    AdvertServedView, AlarmView, BeaconType, DeliveryView, EndView, FeeRate, OutputView, RoundView,
    Tally, TermsView,
};
use crate::agent::control::PeerText;
use crate::hash::CohortId;
use crate::keys::NostrKey;
use crate::network::Network;
use crate::protocol::{Round, Seat};
use crate::time::UnixTime;

/// This agent's part in a cohort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It aggregates.
    Aggregator,
    /// It is, or wants to be, a member.
    Participant,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Aggregator => "aggregator",
            Self::Participant => "participant",
        })
    }
}

/// Where a cohort stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CohortPhase {
    /// The advert is out (aggregator), or the opt-in is (participant).
    Forming,
    /// This agent has a seat; the set is not complete.
    Seated,
    /// The set is out; members acknowledge key list and address.
    Acknowledging,
    /// Frozen; the beacon address waits for funds.
    Funding,
    /// Between rounds.
    Idle,
    /// A round is running.
    Round,
    /// Over; `end` says why.
    Ended,
}

impl CohortPhase {
    /// Whether the set is frozen: from here on leaving ends the beacon for all.
    #[must_use]
    pub const fn is_frozen(self) -> bool {
        matches!(self, Self::Funding | Self::Idle | Self::Round)
    }
}

impl fmt::Display for CohortPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Forming => "forming",
            Self::Seated => "seated",
            Self::Acknowledging => "acknowledging",
            Self::Funding => "funding",
            Self::Idle => "idle",
            Self::Round => "round",
            Self::Ended => "ended",
        })
    }
}

/// One line of `cohort list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CohortSummaryView {
    /// The cohort.
    pub cohort: CohortId,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<PeerText>,
    /// This agent's part.
    pub role: Role,
    /// The network.
    pub network: Network,
    /// The beacon type.
    pub beacon: BeaconType,
    /// Where it stands.
    pub phase: CohortPhase,
    /// Members seated, of the most there can be (or of the set once it is fixed).
    pub members: Tally,
    /// The current or last round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<Round>,
    /// When the current step ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<UnixTime>,
    /// Seats the current step waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<Seat>,
    /// What the user has to do, if something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_step: Option<String>,
}

/// Answer of `cohort list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CohortListView {
    /// When this was so.
    pub now: UnixTime,
    /// The cohorts, newest first.
    pub cohorts: Vec<CohortSummaryView>,
}

/// One cohort.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CohortView {
    /// When this was so.
    pub now: UnixTime,
    /// The line of `cohort list`.
    pub summary: CohortSummaryView,
    /// What needs a person, until it is acknowledged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<AlarmView>,
    /// Who aggregates.
    pub aggregator: NostrKey,
    /// The share link; absent for an invite-only cohort.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub naddr: Option<String>,
    /// Who serves its advert to strangers; absent where this agent advertises nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advert: Option<AdvertServedView>,
    /// The terms.
    pub terms: TermsView,
    /// This agent's seat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_seat: Option<Seat>,
    /// The key that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_key: Option<NostrKey>,
    /// The members, by seat.
    pub members: Vec<MemberView>,
    /// The beacon, once the key list is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beacon: Option<BeaconView>,
    /// The running round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<RoundView>,
    /// When the next round opens by the terms' cadence: set by the aggregator's timer, to a member what it expects. Absent
    /// while a round runs, and where rounds open by hand or by the number of updates that wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_round_at: Option<UnixTime>,
    /// Past rounds, newest first.
    pub past_rounds: Vec<RoundView>,
    /// Every message of the current round (or of formation) that this agent sent.
    pub delivery: Vec<DeliveryView>,
    /// The cohort that was offered in the place of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reform: Option<ReformView>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<EndView>,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    /// The seat.
    pub seat: Seat,
    /// The key that holds it.
    pub key: NostrKey,
    /// DIDs (indexes) registered.
    pub dids: u16,
    /// Whether the member acknowledged the set.
    pub acknowledged_set: bool,
    /// When something was last heard from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heard_at: Option<UnixTime>,
    /// What the current step has from it.
    pub state: MemberState,
    /// What the current step waits for, if for something of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// Rounds in a row that it did not answer: seen by the aggregator, to a member its claim.
    #[serde(default)]
    pub missed_rounds: u16,
    /// What it sent that is evidence against it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<FaultView>,
}

/// Something that a member sent and that is evidence against it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultView {
    /// The name of the fault, as in the protocol.
    pub fault: String,
    /// The round, unless it is about a refund.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<Round>,
    /// Evidence, if it verified here, or a claim.
    pub known_by: super::Knowledge,
    /// The signed bodies, as on the wire.
    pub evidence: serde_json::Value,
}

/// A cohort that was offered in the place of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReformView {
    /// The new cohort.
    pub cohort: CohortId,
    /// Until when it can be joined.
    pub join_by: UnixTime,
    /// Who is left out, and why.
    pub without: Vec<LeftOutView>,
    /// The operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<PeerText>,
    /// Whether this agent's own seat is left out.
    pub leaves_me_out: bool,
    /// Whether this agent has a part in the new one.
    pub joined: bool,
}

/// A seat that is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutView {
    /// The seat.
    pub seat: Seat,
    /// The key that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<NostrKey>,
    /// Rounds in a row that it did not answer, as the aggregator says.
    pub missed_rounds: u16,
    /// What it sent that is evidence against it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<FaultView>,
}

/// Answer of `cohort migrate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationView {
    /// The cohort whose beacon is given up.
    pub from: CohortId,
    /// The cohort whose beacon takes its place.
    pub to: CohortId,
    /// Whether this only says what would be done.
    pub plan: bool,
    /// The DIDs that list either.
    pub dids: Vec<MigratingView>,
}

/// A DID on its way from one cohort to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigratingView {
    /// The DID.
    pub did: String,
    /// Services of its document that list the old beacon: removed by the update.
    pub removes: Vec<String>,
    /// How far it is, and what announcing the update costs or lacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joining: Option<super::JoiningView>,
    /// What stands in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<PeerText>,
}

/// What the current step has from a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// Nothing is asked of it now.
    Ready,
    /// The step waits for it.
    Awaited,
    /// It has responded.
    Responded,
    /// It has signed.
    Signed,
    /// It sent something that is evidence against it.
    Blamed,
    /// It has left.
    Left,
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ready => "ready",
            Self::Awaited => "awaited",
            Self::Responded => "responded",
            Self::Signed => "signed",
            Self::Blamed => "blamed",
            Self::Left => "left",
        })
    }
}

/// The beacon of a cohort and its funds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeaconView {
    /// The taproot address, derived by this agent itself.
    pub address: String,
    /// Confirmed funds there, in sat.
    pub balance_sat: u64,
    /// Unconfirmed funds there, in sat.
    pub unconfirmed_sat: u64,
    /// The output the next signal must spend, `txid:vout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tip: Option<String>,
    /// What lies there, and whether it comes back should a member vanish.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<OutputView>,
    /// Where the funding stands; absent before the chain was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub funding: Option<FundState>,
    /// How many rounds what is there pays for at the current fee rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounds_left: Option<u32>,
    /// Outputs too small to be worth their input, in sat: they stay where they are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dust_sat: u64,
}

/// Where the funding of a beacon stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FundState {
    /// Nothing was ever paid.
    Awaiting,
    /// What pays for the next signal waits for confirmations.
    Seen,
    /// What is there does not pay for a signal.
    Short,
    /// The next signal can be paid.
    Confirmed,
    /// All that was paid is spent.
    Spent,
    /// What was seen is gone, and nothing else is there.
    Lapsed,
}

impl fmt::Display for FundState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Awaiting => "awaiting",
            Self::Seen => "seen, not confirmed",
            Self::Short => "too small for a signal",
            Self::Confirmed => "funded",
            Self::Spent => "spent",
            Self::Lapsed => "gone: what was seen was replaced, or forgotten by nodes",
        })
    }
}

/// What to pay, where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FundView {
    /// The cohort.
    pub cohort: CohortId,
    /// The network the address is on.
    pub network: Network,
    /// The beacon address.
    pub address: String,
    /// Where the funding stands.
    pub state: FundState,
    /// Confirmed funds there, in sat.
    pub balance_sat: u64,
    /// Unconfirmed funds there, in sat.
    pub unconfirmed_sat: u64,
    /// For how many rounds this is computed.
    pub rounds: u32,
    /// At which fee rate.
    pub fee_rate: FeeRate,
    /// Size of one signal transaction, in virtual bytes.
    pub signal_vsize: u64,
    /// Fee of one signal, in sat.
    pub fee_per_round_sat: u64,
    /// What these rounds need in all, the smallest spendable change included, in sat.
    pub needed_sat: u64,
    /// How many rounds what is there pays for at this rate, once it is confirmed.
    pub runway: u32,
    /// Who pays, by the terms.
    pub payer: Payer,
    /// What each member pays of these rounds, if members do, in sat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_sat: Option<u64>,
    /// What this agent is asked to send, in one payment, in sat; 0 when what is there is enough, or somebody else pays.
    pub send_sat: u64,
    /// The BIP 21 URI of the address and `send_sat`.
    pub uri: String,
    /// What to know before paying: one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Who pays for signals, by the terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payer {
    /// The aggregator.
    Aggregator,
    /// The members, in equal shares.
    Members,
}

impl fmt::Display for Payer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Aggregator => "the aggregator",
            Self::Members => "the members, in equal shares",
        })
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl FundView {
    /// The BIP 21 URI: the amount is in bitcoin with up to eight decimals, left out when zero.
    #[must_use]
    pub fn bip21(address: &str, amount_sat: u64, label: &str) -> String {
        let mut uri = format!("bitcoin:{address}");
        let mut separator = '?';
        if amount_sat > 0 {
            let (whole, rest) = (amount_sat / 100_000_000, amount_sat % 100_000_000);
            uri.push_str(&format!("{separator}amount={whole}"));
            if rest > 0 {
                let decimals = format!(".{rest:08}");
                uri.push_str(decimals.trim_end_matches('0'));
            }
            separator = '&';
        }
        if !label.is_empty() {
            uri.push_str(&format!("{separator}label="));
            for byte in label.bytes() {
                // RFC 3986 unreserved characters stand for themselves.
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    uri.push(char::from(byte));
                } else {
                    uri.push_str(&format!("%{byte:02X}"));
                }
            }
        }
        uri
    }
}

/// Answer of `cohort invite`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteView {
    /// The cohort.
    pub cohort: CohortId,
    /// To whom the terms went.
    pub invited: Vec<NostrKey>,
    /// Where these messages stand.
    pub delivery: Vec<DeliveryView>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bip21_amounts_are_in_bitcoin_without_trailing_zeros() {
        let uri = |sat, label| FundView::bip21("bcrt1pxyz", sat, label);
        assert_eq!(uri(0, ""), "bitcoin:bcrt1pxyz");
        assert_eq!(uri(1, ""), "bitcoin:bcrt1pxyz?amount=0.00000001");
        assert_eq!(uri(12_340, ""), "bitcoin:bcrt1pxyz?amount=0.0001234");
        assert_eq!(
            uri(300_000_000, "round 1&2 ü"),
            "bitcoin:bcrt1pxyz?amount=3&label=round%201%262%20%C3%BC"
        );
        assert_eq!(uri(0, "a"), "bitcoin:bcrt1pxyz?label=a");
    }
}
