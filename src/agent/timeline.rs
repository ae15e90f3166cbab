//! Reports as lines of a timeline: sentences for people, stable step codes and particulars for programs.

use super::control::TimelineEvent;
use super::runtime::{AgentEvent, What};
use crate::protocol::effect::Report;
use crate::store::Role;

/// The line of an event; `None` for what is not worth one. `actor` names whose event it is.
#[must_use]
pub fn of_event(at_ms: u64, actor: Option<String>, event: &AgentEvent) -> Option<TimelineEvent> {
    let actor = actor.unwrap_or_else(|| "agent".to_owned());
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
        What::AdvertFound { status, .. } => ("advert_found", format!("found an advert: {status}")),
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
        What::Ignored { reason } => ("ignored", format!("a message counts for nothing: {reason}")),
    };
    let line = TimelineEvent::new(at_ms, actor, step, text);
    let line = match event.cohort {
        Some(cohort) => line.of(cohort),
        None => line,
    };
    Some(match &event.what {
        What::Report(report) => line.with(serde_json::to_value(report).unwrap_or_default()),
        _ => line,
    })
}

#[allow(clippy::too_many_lines)] // one sentence per report: a table, not logic
fn of_report(report: &Report, is_aggregator: bool) -> Option<(&'static str, String)> {
    Some(match report {
        Report::SeatTaken { member, taken } => (
            "seat_taken",
            format!("seats {} ({taken} taken)", member.short()),
        ),
        Report::RequestRefused { member, code } => (
            "request_refused",
            format!("refuses {}: {code:?}", member.short()),
        ),
        Report::Seated { seat } => ("seated", format!("has place {seat}")),
        Report::MyRequestRefused { of, code } => {
            ("refused", format!("was refused: {of}, {code:?}"))
        }
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
        Report::TipChanged { value_sat, ready } => (
            "tip",
            match (value_sat, ready) {
                (0, _) => "the beacon has no spendable output".to_owned(),
                (sat, true) => format!("the beacon holds {sat} sat, confirmed"),
                (sat, false) => format!("the beacon holds {sat} sat, not confirmed enough"),
            },
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
        Report::SignalSigned { txid, vsize, .. } => (
            "signed",
            format!("the final signature verifies: {txid}, {vsize} vB"),
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
        Report::RoundFailed { round, why } => {
            ("round_failed", format!("round {round} failed: {why:?}"))
        }
        Report::MemberBlamed { blame, proved } => (
            "member_blamed",
            format!(
                "{} sent something invalid ({})",
                blame.member.short(),
                if *proved { "proved" } else { "a claim" }
            ),
        ),
        Report::UnknownSpend { txid } => (
            "unknown_spend",
            format!("ALARM: {txid} spends from the beacon and this agent did not sign it"),
        ),
        Report::Alarm { text } => ("alarm", format!("ALARM: {text}")),
        Report::Ended { why } => ("ended", format!("the cohort has ended: {why:?}")),
        Report::Released { reason } => ("released", format!("lost its seat: {reason}")),
    })
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
