//! Reports as lines of a timeline: sentences for people, stable step codes and particulars for programs.

use bitcoin::Txid;
use serde_json::json;

use super::causes::{end_cause, refusal, round_cause, seats};
use super::clocks::Slip;
use super::control::TimelineEvent;
use super::events::{AgentEvent, What};
use crate::protocol::effect::Report;
use crate::protocol::funding::PaymentState;
use crate::store::{Role, SpendStanding, SpendState};

/// The line of an event; `None` for what is not worth one. `actor` names whose event it is.
#[must_use]
pub fn of_event(at_ms: u64, actor: Option<String>, event: &AgentEvent) -> Option<TimelineEvent> {
    let actor = actor.unwrap_or_else(|| self::actor(event).to_owned());
    let is_aggregator = event.role == Some(Role::Aggregator);
    let (step, text) = match &event.what {
        What::Report(report) => of_report(report, is_aggregator)?,
        What::DidReady { did } => (
            "did_ready",
            format!("{} may be used: its beacon is covered", short_did(did)),
        ),
        What::DidUpdated { did, version } => (
            "did_updated",
            format!("{} is at version {version} on the chain", short_did(did)),
        ),
        What::Announcement {
            did,
            version,
            txid,
            standing,
        } => (
            "announcement",
            announcement(&short_did(did), *version, txid, standing),
        ),
        What::AdvertFound { aggregator, status } => (
            "advert_found",
            format!("found an advert of {}: {status}", aggregator.short()),
        ),
        What::Relay {
            url,
            connected: true,
            ..
        } => ("relay_connected", format!("connected to {url}")),
        What::Relay { url, reason, .. } => (
            "relay_lost",
            format!("lost the connection to {url}: {reason}"),
        ),
        What::Chain {
            state: Ok(height),
            network,
        } => ("chain_reached", format!("{network} is at height {height}")),
        What::Chain {
            state: Err(error),
            network,
        } => ("chain_failed", format!("{network}: {error}")),
        What::AnotherCopy { sighting, stops } => (
            "another_copy",
            if *stops {
                format!("{sighting}; this one stops")
            } else {
                format!("{sighting}; the other one must be stopped")
            },
        ),
        What::ClockSlipped { slip, dropped } => ("clock_slipped", clock_slipped(*slip, *dropped)),
        What::Payment(moved) => (
            "payment",
            format!(
                "a payment of {} sat to the beacon {}",
                moved.value.to_sat(),
                match moved.to {
                    PaymentState::Seen => "was seen; it is not confirmed",
                    PaymentState::Confirmed => "is confirmed",
                    PaymentState::Short => "is confirmed, and too small to be used alone",
                    PaymentState::Spent => "is spent",
                    PaymentState::Lapsed => "is GONE: replaced, or forgotten by nodes",
                }
            ),
        ),
        What::MoneyStopped { reason } => (
            "money_stopped",
            match reason {
                Some(reason) => format!("MONEY IS STOPPED: {reason}"),
                None => "MONEY IS STOPPED: nothing is spent and nobody is asked to pay".to_owned(),
            },
        ),
        What::Ignored { reason } => ("ignored", format!("a message counts for nothing: {reason}")),
    };
    let line = TimelineEvent::new(at_ms, actor, step, text);
    let line = match event.cohort {
        Some(cohort) => line.of(cohort),
        None => line,
    };
    Some(match &event.what {
        What::Report(report) => line.with(serde_json::to_value(report).unwrap_or_default()),
        What::DidReady { did } => line.with(json!({ "did": did })),
        What::DidUpdated { did, version } => line.with(json!({ "did": did, "version": version })),
        What::Announcement {
            did,
            version,
            txid,
            standing,
        } => line.with(json!({
            "did": did,
            "version": version,
            "txid": txid,
            "state": standing.state.name(),
            "height": standing.height,
            "conflict": standing.conflict,
            "reason": standing.reason,
        })),
        What::AdvertFound { aggregator, status } => {
            line.with(json!({ "aggregator": aggregator, "status": status }))
        }
        What::Relay { url, .. } => line.with(json!({ "url": url })),
        What::Chain { network, state } => line.with(match state {
            Ok(height) => json!({ "network": network, "height": height }),
            Err(error) => json!({ "network": network, "error": error }),
        }),
        What::AnotherCopy { sighting, stops } => {
            line.with(json!({ "sighting": sighting, "stops": stops }))
        }
        What::ClockSlipped { slip, dropped } => line.with(match slip {
            Slip::Ahead(seconds) => json!({ "ahead_s": seconds, "dropped": dropped }),
            Slip::Back(seconds) => json!({ "back_s": seconds, "dropped": dropped }),
        }),
        What::Payment(moved) => line.with(json!({
            "outpoint": moved.outpoint,
            "value_sat": moved.value.to_sat(),
            "from": moved.from.map(PaymentState::name),
            "to": moved.to.name(),
        })),
        What::MoneyStopped { reason } => line.with(json!({ "reason": reason })),
        What::Ignored { .. } => line,
    })
}

#[allow(clippy::too_many_lines)] // one sentence per report: a table, not logic
fn of_report(report: &Report, is_aggregator: bool) -> Option<(&'static str, String)> {
    Some(match report {
        Report::SeatTaken { member, taken } => (
            "seat_taken",
            format!("seats {} ({taken} taken)", member.short()),
        ),
        Report::AwaitsDecision { member, waiting } => (
            "awaits_decision",
            format!(
                "{} asks for a seat ({waiting} wait for you)",
                member.short()
            ),
        ),
        Report::SeatRegained { indexes } => (
            "seat_regained",
            format!("the aggregator covers {indexes} further indexes for this seat"),
        ),
        Report::AskedAgain => ("asked_again", "asks for a seat once more".to_owned()),
        Report::DecisionPending { until } => (
            "decision_pending",
            format!("the aggregator's operator decides about the seat, until {until}"),
        ),
        Report::Rejected { reason } => (
            "rejected",
            format!("the aggregator's operator decided against the seat: {reason}"),
        ),
        Report::RequestRefused { member, code } => (
            "request_refused",
            format!("refuses {}: {}", member.short(), refusal(*code)),
        ),
        Report::Seated { seat } => ("seated", format!("has place {seat}")),
        Report::MyRequestRefused { of, code } => (
            "refused",
            format!("the aggregator refused {of}: {}", refusal(*code)),
        ),
        Report::SetFormed { members, address } => (
            "set_formed",
            format!("closes the seats: {members} members, beacon {address}"),
        ),
        Report::SetAcknowledged { seat, address } => (
            "set_acknowledged",
            format!("recomputed the beacon address {address} and acknowledges it (seat {seat})"),
        ),
        Report::AckReceived { acks, .. } => {
            ("ack_received", format!("has {acks} acknowledgements"))
        }
        Report::Frozen { .. } => (
            "frozen",
            "the set is frozen with all acknowledgements".to_owned(),
        ),
        Report::Registered {
            seat, from_round, ..
        } => (
            "registered",
            if is_aggregator {
                format!("covers an index of seat {seat} from round {from_round} on")
            } else {
                format!("registered a DID, covered from round {from_round} on")
            },
        ),
        Report::MayBind { proofs, .. } => (
            "history_complete",
            format!("has the whole history of the beacon ({proofs} proofs fetched)"),
        ),
        Report::HistoryFetched { proofs, .. } => (
            "history_fetched",
            format!("saved {proofs} proofs of earlier signals"),
        ),
        Report::TipChanged { value_sat, ready } => (
            "tip",
            match (value_sat, ready) {
                (0, _) => "the beacon has no spendable output".to_owned(),
                (sat, true) => format!("the beacon holds {sat} sat, confirmed"),
                (sat, false) => format!("the beacon holds {sat} sat, not confirmed enough"),
            },
        ),
        Report::DepositTaken {
            seat,
            version,
            anchored,
            ..
        } => (
            "deposit_taken",
            format!(
                "verified the update to version {version} that seat {seat} deposited{}",
                unanchored(*anchored)
            ),
        ),
        Report::DepositTurnedDown { seat, reason, .. } => (
            "deposit_turned_down",
            format!("refuses the update that seat {seat} deposited: {reason}"),
        ),
        Report::MyDepositAccepted { anchored, .. } => (
            "deposit_accepted",
            format!(
                "the aggregator verified the deposited update{}",
                unanchored(*anchored)
            ),
        ),
        Report::MyDepositRefused { reason, .. } => (
            "deposit_refused",
            format!("the aggregator refused the deposited update: {reason}"),
        ),
        Report::RoundOpened { round, indexes } => (
            "round_opened",
            if is_aggregator {
                format!("opens round {round} for {indexes} DIDs")
            } else {
                format!("sees round {round} open, for {indexes} of its DIDs")
            },
        ),
        Report::ResponseReceived {
            round, responses, ..
        } => (
            "response_received",
            format!("has {responses} responses to round {round}"),
        ),
        Report::Responded {
            round,
            updates,
            declined,
        } => (
            "responded",
            match (updates, declined) {
                (0, declined) => format!("declines in round {round} for {declined} DIDs"),
                (updates, 0) => format!("announces {updates} updates in round {round}"),
                (updates, declined) => format!(
                    "announces {updates} updates in round {round} and declines for {declined} DIDs"
                ),
            },
        ),
        Report::SignalFixed {
            round,
            signal,
            fee_sat,
            ..
        } => (
            "signal_fixed",
            if is_aggregator {
                format!("built the signal of round {round}: {signal}, fee {fee_sat} sat")
            } else {
                format!("checked tree, transaction and tip of round {round}; signs")
            },
        ),
        Report::SignRefused { reason, .. } => ("sign_refused", format!("does not sign: {reason}")),
        Report::PartialReceived { partials, .. } => (
            "partial_received",
            format!("verified {partials} partial signatures"),
        ),
        Report::SessionLost { round, attempt } => (
            "session_lost",
            format!("round {round} needs session {attempt}: nonces were lost"),
        ),
        Report::FallbackOpened {
            round,
            absent,
            threshold,
            why,
        } => (
            "fallback_opened",
            match (why, absent.as_slice()) {
                (Some(why), _) => format!(
                    "round {round} stalled ({}): {threshold} members may sign it without the others",
                    round_cause(why)
                ),
                (None, []) => format!(
                    "round {round} stalled while it was signed: {threshold} members may sign it without the others"
                ),
                (None, absent) => format!(
                    "round {round} stalled without {}: {threshold} members may sign it without the others",
                    seats(absent)
                ),
            },
        ),
        Report::FallbackSignatureReceived { signatures, .. } => (
            "fallback_signature_received",
            format!("verified {signatures} signatures through the k-of-n leaf"),
        ),
        Report::FallbackSigned { round, .. } => (
            "fallback_signed",
            format!("signed round {round} through the k-of-n leaf"),
        ),
        Report::SignalSigned { txid, vsize, .. } => (
            "signed",
            format!("the final signature verifies: {txid}, {vsize} vB"),
        ),
        Report::RefundOpened { outpoint, .. } => (
            "refund_opened",
            format!("asks for the refund of {outpoint}"),
        ),
        Report::RefundApproved {
            outpoint, fee_sat, ..
        } => (
            "refund_approved",
            format!("signs the refund of {outpoint}, fee {fee_sat} sat"),
        ),
        Report::RefundRefused { outpoint, reason } => (
            "refund_refused",
            format!("does not sign the refund of {outpoint}: {reason}"),
        ),
        Report::RefundComplete { outpoint, .. } => (
            "refund_complete",
            format!("the refund of {outpoint} is signed by all"),
        ),
        Report::RefundFailed { outpoint, absent } => (
            "refund_failed",
            if absent.is_empty() {
                format!("the refund of {outpoint} could not be signed")
            } else {
                format!(
                    "the refund of {outpoint} was not signed in time by {}",
                    seats(absent)
                )
            },
        ),
        Report::SignalBumped { txid, fee_sat, .. } => (
            "bumped",
            format!("replaced at a higher fee: {txid}, {fee_sat} sat"),
        ),
        Report::BumpHeld {
            round,
            fee_sat,
            max_sat,
        } => ("bump_held", bump_held(*round, *fee_sat, *max_sat)),
        Report::ReplacementOpened {
            round,
            attempt,
            fee_sat,
        } => (
            "replacement_opened",
            format!("signs round {round} again from {fee_sat} sat on, in session {attempt}"),
        ),
        Report::ReplacementFailed { round, why } => (
            "replacement_failed",
            format!(
                "the signal of round {round} was not signed at a higher fee ({}); it stays as it is",
                round_cause(why)
            ),
        ),
        Report::SignalBroadcast { txid, .. } => ("broadcast", format!("broadcast {txid}")),
        Report::BroadcastFailed { reason, .. } => {
            ("broadcast_failed", format!("broadcast failed: {reason}"))
        }
        Report::SignalConfirmed { txid, height, .. } => (
            "confirmed",
            format!("{txid} is confirmed in block {height}"),
        ),
        Report::SignalReorganised { txid, .. } => {
            ("reorganised", format!("{txid} is no longer in the chain"))
        }
        Report::RoundEmpty { round } => (
            "round_empty",
            format!("round {round} ends without a signal: nobody had anything to announce"),
        ),
        Report::RoundMissed { round } => ("round_missed", format!("was away from round {round}")),
        Report::RoundFailed { round, why } => (
            "round_failed",
            format!("round {round} failed: {}", round_cause(why)),
        ),
        Report::MemberBlamed { blame, proved } => (
            "member_blamed",
            format!(
                "{} sent {} ({})",
                blame.member.short(),
                blame.fault.told(),
                if *proved { "proved" } else { "a claim" }
            ),
        ),
        Report::UnknownSpend { txid } => (
            "unknown_spend",
            format!("ALARM: {txid} spends from the beacon and this agent did not sign it"),
        ),
        Report::SignalExplained { round, txid } => (
            "signal_explained",
            format!("got back from members what {txid} announced in round {round}"),
        ),
        Report::SignalUnexplained { txid, lacking } => {
            ("unexplained_signal", unexplained(txid, lacking))
        }
        Report::Alarm { text } => ("alarm", format!("ALARM: {text}")),
        Report::ReformOffered { cohort, without } => (
            "reform_offered",
            format!(
                "{} to go on as cohort {} without {}",
                if is_aggregator {
                    "offers"
                } else {
                    "is offered"
                },
                cohort.short(),
                seats(without)
            ),
        ),
        Report::Ended { why } => ("ended", format!("the cohort has ended: {}", end_cause(why))),
        Report::Released { reason } => ("released", format!("lost its seat: {reason}")),
    })
}

/// Who an event happened to, when the caller has no better name: the agent's part in the cohort, or what
/// it is about.
#[must_use]
pub const fn actor(event: &AgentEvent) -> &'static str {
    match (&event.what, event.role) {
        (What::Relay { .. }, _) => "relay",
        (What::Chain { .. }, _) => "chain",
        (_, Some(Role::Aggregator)) => "aggregator",
        (_, Some(Role::Participant)) => "member",
        (_, None) => "agent",
    }
}

const fn unanchored(anchored: bool) -> &'static str {
    if anchored {
        ""
    } else {
        ", against a source document that it can not check"
    }
}

/// A DID shortened for a line: enough to recognise it.
#[must_use]
pub fn short_did(did: &str) -> String {
    if did.len() <= 28 || !did.is_ascii() {
        return did.to_owned();
    }
    let (head, tail) = (did.get(..20), did.get(did.len().saturating_sub(6)..));
    format!("{}…{}", head.unwrap_or_default(), tail.unwrap_or_default())
}

/// Where a signal of a DID's own beacon stands.
fn announcement(did: &str, version: u64, txid: &Txid, standing: &SpendStanding) -> String {
    let what = format!("{txid}, which announces version {version} of {did},");
    match (
        standing.state,
        standing.conflict,
        standing.height,
        &standing.reason,
    ) {
        (SpendState::Signed, _, _, Some(reason)) => format!("{what} was not taken: {reason}"),
        (SpendState::Signed, ..) => format!("{what} is not on the chain"),
        (SpendState::Broadcast, ..) => format!("{what} waits for a block"),
        (SpendState::Confirmed, _, Some(height), _) => format!("{what} is in block {height}"),
        (SpendState::Confirmed, ..) => format!("{what} is in a block"),
        (SpendState::Final, ..) => format!("{what} is final"),
        (SpendState::Conflicted, Some(by), ..) => format!("{what} conflicts with {by}"),
        (SpendState::Conflicted, ..) => format!("{what} is in conflict"),
        (SpendState::Dead, Some(by), ..) => format!("{what} will never confirm: {by} did instead"),
        (SpendState::Dead, ..) => format!("{what} will never confirm"),
    }
}

/// A signal that waits, and may not pay more.
pub(super) fn bump_held(round: crate::protocol::Round, fee_sat: u64, max_sat: u64) -> String {
    format!(
        "the signal of round {round} is not confirmed, and its next fee, {fee_sat} sat, is over money.max_fee_sat, \
         {max_sat}: raise that and start the agent again, or wait"
    )
}

pub(super) fn unexplained(txid: &bitcoin::Txid, lacking: &[crate::protocol::ids::Seat]) -> String {
    format!(
        "{txid} was announced while this store was not in use, and can not be proved to anybody yet: {} not shown \
         what they keep of it",
        match lacking {
            [] => "members have".to_owned(),
            [one] => format!("{} has", super::causes::seats(&[*one])),
            several => format!("{} have", super::causes::seats(several)),
        }
    )
}

fn clock_slipped(slip: Slip, dropped: usize) -> String {
    let how = match slip {
        Slip::Ahead(seconds) => format!(
            "the clock went on by {seconds} s more than time passed (suspended, resumed from a snapshot, or set)"
        ),
        Slip::Back(seconds) => format!(
            "the clock was set back by {seconds} s: peers may take messages for late ones, and deadlines wait; set it \
             right"
        ),
    };
    match dropped {
        0 => how,
        1 => format!("{how}; one secret nonce was dropped"),
        some => format!("{how}; {some} secret nonces were dropped"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::CohortId;
    use crate::protocol::ids::{Round, Seat};
    use crate::protocol::message::RoundCause;
    use crate::time::UnixTime;

    #[test]
    fn a_report_is_a_sentence_and_keeps_its_particulars() {
        let cohort = CohortId::from_bytes([9; 32]);
        let report = Report::RoundFailed {
            round: Round(4),
            why: RoundCause::NoResponse {
                absent: vec![Seat(1), Seat(3)],
            },
        };
        let event = AgentEvent {
            at: UnixTime(1),
            cohort: Some(cohort),
            role: Some(Role::Aggregator),
            what: What::Report(report),
        };
        let line = of_event(7, None, &event).unwrap();
        assert_eq!((line.at_ms, line.actor.as_ref()), (7, "aggregator"));
        assert_eq!(line.step, "round_failed");
        assert_eq!(
            line.text.as_str(),
            "round 4 failed: no response in time from seats 1, 3"
        );
        assert_eq!(line.data["event"], "round_failed");
        assert_eq!(line.data["round"], 4);
        assert_eq!(line.cohort, Some(cohort));
        let named = of_event(0, Some("member 2".into()), &event).unwrap();
        assert_eq!(named.actor, "member 2");
    }
}
