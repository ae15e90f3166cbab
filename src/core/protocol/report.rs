//! What a user wants to know of a cohort, as both machines say it.

use bitcoin::{OutPoint, Txid};
use serde::{Deserialize, Serialize};

use super::deposit::DepositCode;
use super::evidence::Blame;
use super::ids::{Round, Seat};
use super::message::{EndCause, RefusalCode, RoundCause};
use crate::hash::{CohortId, SignalBytes, SmtIndex, UpdateHash};
use crate::keys::NostrKey;
use crate::time::UnixTime;

/// Something a user wants to know. Reports follow from state; they never decide anything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Report {
    /// Aggregator: a seat was taken.
    SeatTaken {
        /// The member.
        member: NostrKey,
        /// How many are taken now.
        taken: u16,
    },
    /// Aggregator: an opt-in waits for the operator.
    AwaitsDecision {
        /// Whose.
        member: NostrKey,
        /// How many wait.
        waiting: u16,
    },
    /// Member: the aggregator covers indexes for this seat that this store does not know.
    SeatRegained {
        /// How many.
        indexes: u16,
    },
    /// Member: asked for a seat once more, after a refusal.
    AskedAgain,
    /// Member: the operator decides about the seat.
    DecisionPending {
        /// Until when.
        until: UnixTime,
    },
    /// Member: the operator decided against the seat.
    Rejected {
        /// Its words.
        reason: String,
    },
    /// Aggregator: an opt-in or another request was refused.
    RequestRefused {
        /// Whose.
        member: NostrKey,
        /// Why.
        code: RefusalCode,
    },
    /// Member: seated.
    Seated {
        /// The place in the order of acceptance.
        seat: Seat,
    },
    /// Member: my opt-in or another request was refused.
    MyRequestRefused {
        /// What.
        of: String,
        /// Why.
        code: RefusalCode,
    },
    /// The seats are closed; the set is known.
    SetFormed {
        /// Members.
        members: u16,
        /// The beacon address.
        address: String,
    },
    /// Member: the set was checked and acknowledged.
    SetAcknowledged {
        /// My final seat.
        seat: Seat,
        /// The beacon address, recomputed.
        address: String,
    },
    /// Aggregator: a member acknowledged.
    AckReceived {
        /// The seat.
        seat: Seat,
        /// How many have.
        acks: u16,
    },
    /// All members acknowledged; the set is frozen. Only now may anybody fund or bind.
    Frozen {
        /// The beacon address.
        address: String,
    },
    /// Registrations were taken.
    Registered {
        /// The seat.
        seat: Seat,
        /// The index.
        index: SmtIndex,
        /// First round that covers it.
        from_round: Round,
    },
    /// Member: a DID may now be bound to the beacon: the history is complete.
    MayBind {
        /// Its index.
        index: SmtIndex,
        /// Proofs of past signals that were fetched for it.
        proofs: u32,
    },
    /// Member: proofs of past signals came and are saved.
    HistoryFetched {
        /// The index.
        index: SmtIndex,
        /// How many.
        proofs: u32,
    },
    /// The tip of the beacon changed.
    TipChanged {
        /// Its value in sat, 0 if there is none.
        value_sat: u64,
        /// Whether the next signal may spend it.
        ready: bool,
    },
    /// Aggregator: a deposited update was verified and is kept.
    DepositTaken {
        /// The seat.
        seat: Seat,
        /// The index of its DID.
        index: SmtIndex,
        /// The update.
        update: UpdateHash,
        /// The version it leads to.
        version: u64,
        /// Whether the source document is known to be the current one.
        anchored: bool,
    },
    /// Aggregator: a deposit was refused, and its sender told.
    DepositTurnedDown {
        /// The seat.
        seat: Seat,
        /// The index of the DID.
        index: SmtIndex,
        /// The update it named.
        update: UpdateHash,
        /// Why.
        code: DepositCode,
        /// Why, for people.
        reason: String,
    },
    /// Member: the aggregator verified my deposit.
    MyDepositAccepted {
        /// The index of the DID.
        index: SmtIndex,
        /// The update.
        update: UpdateHash,
        /// Whether the aggregator knows the source document to be the current one.
        anchored: bool,
    },
    /// Member: the aggregator refused my deposit. The update is not announced unless it is queued again.
    MyDepositRefused {
        /// The index of the DID.
        index: SmtIndex,
        /// The update.
        update: UpdateHash,
        /// Why.
        code: DepositCode,
        /// The aggregator's words.
        reason: String,
    },
    /// Aggregator: the refund of an output is being signed.
    RefundOpened {
        /// The output.
        outpoint: OutPoint,
        /// Its value in sat.
        value_sat: u64,
    },
    /// Member: a refund was checked and approved.
    RefundApproved {
        /// The output it spends.
        outpoint: OutPoint,
        /// Value of that output in sat.
        value_sat: u64,
        /// The refund.
        txid: Txid,
        /// Its fee in sat.
        fee_sat: u64,
    },
    /// Member: what was to be signed as a refund is none, or not for these payees, or too dear.
    RefundRefused {
        /// The output.
        outpoint: OutPoint,
        /// Why.
        reason: String,
    },
    /// The refund of an output is signed by all and kept.
    RefundComplete {
        /// The output it spends.
        outpoint: OutPoint,
        /// Value of that output in sat.
        value_sat: u64,
        /// The refund.
        txid: Txid,
    },
    /// Aggregator: the refund of an output was not signed in time. Absence is a statement, never evidence.
    RefundFailed {
        /// The output.
        outpoint: OutPoint,
        /// Seats that did not answer.
        absent: Vec<Seat>,
    },
    /// A round opened.
    RoundOpened {
        /// The round.
        round: Round,
        /// Indexes it covers (as member: mine).
        indexes: u32,
    },
    /// Aggregator: a response came.
    ResponseReceived {
        /// The round.
        round: Round,
        /// The seat.
        seat: Seat,
        /// How many are in.
        responses: u16,
    },
    /// Member: the response was made.
    Responded {
        /// The round.
        round: Round,
        /// Updates in it.
        updates: u16,
        /// Explicit "no update" or idle entries in it.
        declined: u16,
    },
    /// The signal was built (aggregator) or checked and approved (member).
    SignalFixed {
        /// The round.
        round: Round,
        /// The attempt.
        attempt: u32,
        /// The 32 bytes.
        signal: SignalBytes,
        /// The unsigned transaction's id.
        txid: Txid,
        /// Its fee in sat.
        fee_sat: u64,
    },
    /// Member: a request to sign is not approved, yet or ever.
    SignRefused {
        /// The round.
        round: Round,
        /// Why.
        reason: String,
        /// Whether more facts could change that.
        waiting: bool,
    },
    /// Aggregator: a partial signature came and verified.
    PartialReceived {
        /// The round.
        round: Round,
        /// The seat.
        seat: Seat,
        /// How many are in.
        partials: u16,
    },
    /// A further session is needed.
    SessionLost {
        /// The round.
        round: Round,
        /// The attempt that follows.
        attempt: u32,
    },
    /// A round stalled; its signal is to be signed through the k-of-n leaf.
    FallbackOpened {
        /// The round.
        round: Round,
        /// Seats that did not respond, whose indexes are left empty.
        absent: Vec<Seat>,
        /// How many members have to sign.
        threshold: u16,
        /// Why it stalled: whom it names did not do its part, whether it responded or not.
        #[serde(default)]
        why: Option<RoundCause>,
    },
    /// Aggregator: a member's signature through the leaf came and verified.
    FallbackSignatureReceived {
        /// The round.
        round: Round,
        /// The seat.
        seat: Seat,
        /// How many are in.
        signatures: u16,
    },
    /// Member: signed through the leaf.
    FallbackSigned {
        /// The round.
        round: Round,
        /// The transaction.
        txid: Txid,
    },
    /// The signal is signed by all, or by enough through the leaf.
    SignalSigned {
        /// The round.
        round: Round,
        /// The transaction.
        txid: Txid,
        /// Virtual size in vbytes.
        vsize: u64,
        /// Seconds since the round opened.
        seconds: u64,
    },
    /// The signal goes out at a higher fee: it did not confirm, or paid too little.
    SignalBumped {
        /// The round.
        round: Round,
        /// The transaction that replaces the one before.
        txid: Txid,
        /// Virtual size in vbytes.
        vsize: u64,
        /// Its fee in sat.
        fee_sat: u64,
    },
    /// The signal waits, and its next fee is over what the money gate permits: it stays as it is.
    BumpHeld {
        /// The round.
        round: Round,
        /// The next fee in sat.
        fee_sat: u64,
        /// The highest that is permitted, in sat.
        max_sat: u64,
    },
    /// All are asked to sign the signal again, at fees above every one it was signed at.
    ReplacementOpened {
        /// The round.
        round: Round,
        /// The session.
        attempt: u32,
        /// The lowest fee of the replacement in sat.
        fee_sat: u64,
    },
    /// The signal was not signed again; it stays what it was.
    ReplacementFailed {
        /// The round.
        round: Round,
        /// Why.
        why: RoundCause,
    },
    /// The chain took the transaction.
    SignalBroadcast {
        /// The round.
        round: Round,
        /// The transaction.
        txid: Txid,
    },
    /// The chain did not take it.
    BroadcastFailed {
        /// The round.
        round: Round,
        /// The node's reason.
        reason: String,
    },
    /// The signal has confirmations.
    SignalConfirmed {
        /// The round.
        round: Round,
        /// The transaction.
        txid: Txid,
        /// The block.
        height: u32,
    },
    /// A confirmed signal is no longer in the chain.
    SignalReorganised {
        /// The round.
        round: Round,
        /// The transaction.
        txid: Txid,
    },
    /// Nobody had anything to announce.
    RoundEmpty {
        /// The round.
        round: Round,
    },
    /// The round ended without a signature.
    RoundFailed {
        /// The round.
        round: Round,
        /// Why.
        why: RoundCause,
    },
    /// Member: the round could not be answered any more when its opening came.
    RoundMissed {
        /// The round.
        round: Round,
    },
    /// A member was shown to have sent something invalid.
    MemberBlamed {
        /// The evidence.
        blame: Blame,
        /// Whether it re-verified from the signed bodies here.
        proved: bool,
    },
    /// The chain shows a spend of the beacon that this agent did not sign.
    UnknownSpend {
        /// The transaction.
        txid: Txid,
    },
    /// Aggregator: members have shown what a signal was made of that this store knew nothing of.
    SignalExplained {
        /// The round, as members name it.
        round: Round,
        /// The transaction.
        txid: Txid,
    },
    /// Aggregator: a signal that this store knows nothing of can not be proved by what members have shown so far.
    SignalUnexplained {
        /// The transaction.
        txid: Txid,
        /// Seats that have not answered, or keep nothing of it.
        lacking: Vec<Seat>,
    },
    /// The aggregator said something that contradicts what it said or what the chain says.
    Alarm {
        /// What, for people.
        text: String,
    },
    /// A new cohort is offered in the place of this one, without some seats.
    ReformOffered {
        /// The new cohort.
        cohort: CohortId,
        /// The seats that are left out.
        without: Vec<Seat>,
    },
    /// The cohort ended.
    Ended {
        /// Why.
        why: EndCause,
    },
    /// Member: the seat was released.
    Released {
        /// The aggregator's words.
        reason: String,
    },
}
