//! Events of the runtime as lines of a timeline, in words a person can follow.
//!
//! Step codes are stable; `data` carries the particulars as the core reports them.

use serde_json::{Value, json};

use super::control::TimelineEvent;
use super::runtime::{AgentEvent, What};
use crate::hash::CohortId;
use crate::protocol::effect::Report;
use crate::protocol::ids::Seat;
use crate::protocol::message::{EndCause, RefusalCode, RoundCause};
use crate::store::Role;

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

/// The line of an event that happened `at_ms` milliseconds after the timeline began, to `actor`.
#[must_use]
pub fn line(event: &AgentEvent, at_ms: u64, actor: impl Into<String>) -> TimelineEvent {
    let (step, text, data) = words(event);
    let line = TimelineEvent::new(at_ms, actor.into(), step, text).with(data);
    match event.cohort {
        Some(cohort) => line.of(cohort),
        None => line,
    }
}

fn words(event: &AgentEvent) -> (&'static str, String, Value) {
    match &event.what {
        What::Report(report) => {
            let (step, text) = report_words(report, event.role, event.cohort);
            (step, text, serde_json::to_value(report).unwrap_or_default())
        }
        What::AdvertFound { aggregator, status } => (
            "advert_found",
            format!(
                "found cohort {} ({status}) of aggregator {}",
                short(event.cohort),
                aggregator.short()
            ),
            json!({ "aggregator": aggregator, "status": status }),
        ),
        What::DidReady { did } => (
            "did_ready",
            format!("{did} is ready: registered, and covered for every signal of the beacon"),
            json!({ "did": did }),
        ),
        What::DidUpdated { did, version } => (
            "did_updated",
            format!("{did} is at version {version} on the chain"),
            json!({ "did": did, "version": version }),
        ),
        What::Relay {
            url,
            connected: true,
            ..
        } => (
            "relay_connected",
            format!("connected to {url}"),
            json!({ "url": url }),
        ),
        What::Relay { url, reason, .. } => (
            "relay_lost",
            format!("no connection to {url}: {reason}; it is tried again"),
            json!({ "url": url, "reason": reason }),
        ),
        What::Chain {
            network,
            state: Ok(height),
        } => (
            "chain_reached",
            format!("{network} is at block {height}"),
            json!({ "network": network, "height": height }),
        ),
        What::Chain {
            network,
            state: Err(error),
        } => (
            "chain_unusable",
            format!("{network} can not be used: {error}"),
            json!({ "network": network, "error": error }),
        ),
        What::Ignored { reason } => (
            "message_ignored",
            format!("a message counts for nothing: {reason}"),
            json!({ "reason": reason }),
        ),
    }
}

fn short(cohort: Option<CohortId>) -> String {
    cohort.map_or_else(|| "?".to_owned(), |cohort| cohort.short())
}

#[allow(clippy::too_many_lines)] // one sentence per report
fn report_words(
    report: &Report,
    role: Option<Role>,
    cohort: Option<CohortId>,
) -> (&'static str, String) {
    let aggregates = role == Some(Role::Aggregator);
    match report {
        Report::SeatTaken { member, taken } => (
            "seat_taken",
            format!("{} takes a seat, the {}", member.short(), nth(*taken)),
        ),
        Report::RequestRefused { member, code } => (
            "request_refused",
            format!(
                "refused a request of {}: {}",
                member.short(),
                refusal(*code)
            ),
        ),
        Report::Seated { seat } => (
            "seated",
            format!("has seat {seat} in cohort {}", short(cohort)),
        ),
        Report::MyRequestRefused { of, code } => (
            "my_request_refused",
            format!("the aggregator refused {of}: {}", refusal(*code)),
        ),
        Report::SetFormed { members, address } => (
            "set_formed",
            format!("the set has {members} members; beacon address {address}"),
        ),
        Report::SetAcknowledged { seat, address } => (
            "set_acknowledged",
            format!("checked the key list, derived {address}, acknowledges it as seat {seat}"),
        ),
        Report::AckReceived { seat, acks } => (
            "ack_received",
            format!("seat {seat} acknowledged the set ({acks} in)"),
        ),
        Report::Frozen { address } => (
            "frozen",
            format!("the set is frozen with all acknowledgements; {address} may be funded"),
        ),
        Report::Registered {
            seat,
            index,
            from_round,
        } => {
            let whose = if aggregates {
                format!("seat {seat}")
            } else {
                "this agent".to_owned()
            };
            let index: String = index.to_string().chars().take(8).collect();
            (
                "registered",
                format!("index {index}… of {whose} is covered from round {from_round} on"),
            )
        }
        Report::MayBind { proofs: 0, .. } => (
            "may_bind",
            "a DID may list the beacon: no earlier signal needs a proof".to_owned(),
        ),
        Report::MayBind { proofs, .. } => (
            "may_bind",
            format!(
                "a DID may list the beacon: proofs for {proofs} earlier signals are verified and kept"
            ),
        ),
        Report::TipChanged { value_sat: 0, .. } => (
            "tip_changed",
            "the beacon has nothing to spend now".to_owned(),
        ),
        Report::TipChanged { value_sat, ready } => (
            "tip_changed",
            if *ready {
                format!("the beacon holds {value_sat} sat, confirmed")
            } else {
                format!("the beacon holds {value_sat} sat, not confirmed deep enough yet")
            },
        ),
        Report::RoundOpened { round, indexes } => (
            "round_opened",
            if aggregates {
                format!("opens round {round} for {indexes} indexes")
            } else {
                format!("round {round} is open; it covers {indexes} of this agent's DIDs")
            },
        ),
        Report::ResponseReceived {
            round,
            seat,
            responses,
        } => (
            "response_received",
            format!("seat {seat} responded in round {round} ({responses} in)"),
        ),
        Report::Responded {
            round,
            updates,
            declined,
        } => (
            "responded",
            format!("responds in round {round}: {updates} to update, {declined} without an update"),
        ),
        Report::SignalFixed {
            round,
            attempt,
            signal,
            txid,
            fee_sat,
        } => (
            "signal_fixed",
            if aggregates {
                format!(
                    "round {round}: signal {signal} in unsigned transaction {txid}, fee {fee_sat} sat"
                )
            } else {
                format!(
                    "round {round}, session {attempt}: checked transaction {txid} and its 32 bytes, signs"
                )
            },
        ),
        Report::SignRefused {
            round,
            reason,
            waiting,
        } => (
            "sign_refused",
            if *waiting {
                format!("does not sign round {round} yet: {reason}")
            } else {
                format!("refuses to sign round {round}: {reason}")
            },
        ),
        Report::PartialReceived {
            round,
            seat,
            partials,
        } => (
            "partial_received",
            format!("partial signature of seat {seat} in round {round} verifies ({partials} in)"),
        ),
        Report::SessionLost { round, attempt } => (
            "session_lost",
            format!("round {round} needs another signing session, number {attempt}"),
        ),
        Report::SignalSigned {
            round,
            txid,
            vsize,
            seconds,
        } => (
            "signal_signed",
            format!("round {round} is signed by all after {seconds} s: {txid}, {vsize} vB"),
        ),
        Report::SignalBroadcast { round, txid } => (
            "signal_broadcast",
            format!("the chain backend took the signal of round {round}: {txid}"),
        ),
        Report::BroadcastFailed { round, reason } => (
            "broadcast_failed",
            format!("the chain backend did not take the signal of round {round}: {reason}"),
        ),
        Report::SignalConfirmed {
            round,
            txid,
            height,
        } => (
            "signal_confirmed",
            format!("the signal of round {round} is in block {height}: {txid}"),
        ),
        Report::SignalReorganised { round, txid } => (
            "signal_reorganised",
            format!("the signal of round {round} is no longer in the chain: {txid}"),
        ),
        Report::RoundEmpty { round } => (
            "round_empty",
            format!("round {round} ends without a transaction: nobody had an update"),
        ),
        Report::RoundFailed { round, why } => (
            "round_failed",
            format!("round {round} failed: {}", round_cause(why)),
        ),
        Report::MemberBlamed { blame, proved } => (
            "member_blamed",
            format!(
                "{} sent an invalid partial signature: {}",
                blame.member.short(),
                if *proved {
                    "proved from its signed messages"
                } else {
                    "claimed, not proved"
                }
            ),
        ),
        Report::UnknownSpend { txid } => (
            "unknown_spend",
            format!("ALARM: {txid} spends the beacon and this agent did not sign it"),
        ),
        Report::Alarm { text } => ("alarm", format!("ALARM: {text}")),
        Report::Ended { why } => ("ended", format!("the cohort has ended: {}", end_cause(why))),
        Report::Released { reason } => ("released", format!("the seat was released: {reason}")),
    }
}

fn nth(number: u16) -> String {
    let end = match (number % 100, number % 10) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    };
    format!("{number}{end}")
}

fn seats(seats: &[Seat]) -> String {
    let list: Vec<String> = seats.iter().take(10).map(ToString::to_string).collect();
    let more = seats.len().saturating_sub(list.len());
    let noun = if seats.len() == 1 { "seat" } else { "seats" };
    match more {
        0 => format!("{noun} {}", list.join(", ")),
        more => format!("{noun} {} and {more} more", list.join(", ")),
    }
}

/// Why a request was refused, in words.
#[must_use]
pub const fn refusal(code: RefusalCode) -> &'static str {
    match code {
        RefusalCode::WrongTerms => "it names other terms",
        RefusalCode::TosNotAccepted => "the terms of service were not accepted",
        RefusalCode::Full => "all seats are taken",
        RefusalCode::Closed => "no opt-ins are taken any more",
        RefusalCode::NotInvited => "only invited keys are seated",
        RefusalCode::AlreadyAsked => "this key asked before; the first opt-in counts",
        RefusalCode::BadPayee => "the payee is not a segwit address",
        RefusalCode::Malformed => "the message does not fit",
        RefusalCode::IndexTaken => "the DID belongs to another seat",
        RefusalCode::TooManyDids => "more DIDs than the terms allow",
        RefusalCode::BadRegistration => "the registration proof is missing or wrong",
        RefusalCode::WrongEntries => "the response does not cover exactly the seat's DIDs",
        RefusalCode::EmptyLeaf => "a leaf equals the empty leaf",
        RefusalCode::NonceReused => "a public nonce was offered before",
        RefusalCode::NoSuchRound => "no such round is open",
        RefusalCode::TooMany => "asked too often",
        RefusalCode::WillNotSign => "what it asks to sign is not what was agreed",
    }
}

/// Why a round failed, in words.
#[must_use]
pub fn round_cause(why: &RoundCause) -> String {
    match why {
        RoundCause::NoResponse { absent } => format!("no response in time from {}", seats(absent)),
        RoundCause::NoSignature { absent } => {
            format!("no signature in time from {}", seats(absent))
        }
        RoundCause::SessionsUsedUp => {
            "the signing sessions that the terms allow are used up".into()
        }
        RoundCause::NoFunds => "the beacon can not pay for the signal".into(),
        RoundCause::TipMoved => "the chain moved under it".into(),
        RoundCause::Operator => "the aggregator ended it".into(),
    }
}

/// Why a cohort ended, in words.
#[must_use]
pub fn end_cause(why: &EndCause) -> String {
    match why {
        EndCause::NotEnoughMembers { seated } => {
            format!("only {seated} members by the deadline")
        }
        EndCause::NotAcknowledged { absent } => {
            format!("the set was not acknowledged in time by {}", seats(absent))
        }
        EndCause::MemberLeft { seat } => {
            format!("seat {seat} left, and without it nothing can be signed")
        }
        EndCause::Cancelled => "the aggregator cancelled it".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ids::Round;
    use crate::time::UnixTime;

    #[test]
    fn a_report_keeps_its_name_and_its_particulars() {
        let cohort = CohortId::from_bytes([9; 32]);
        let report = Report::RoundFailed {
            round: Round(4),
            why: RoundCause::NoResponse {
                absent: vec![Seat(1)],
            },
        };
        let event = AgentEvent {
            at: UnixTime(1),
            cohort: Some(cohort),
            role: Some(Role::Aggregator),
            what: What::Report(report),
        };
        assert_eq!(actor(&event), "aggregator");
        let line = line(&event, 7, "aggregator");
        assert_eq!(line.step, "round_failed");
        assert_eq!(
            line.text.as_str(),
            "round 4 failed: no response in time from seat 1"
        );
        // The step is the name the core gives the report.
        assert_eq!(line.data["event"], line.step.as_ref());
        assert_eq!(line.data["round"], 4);
        assert_eq!(line.cohort, Some(cohort));
    }

    #[test]
    fn ordinals_read_right() {
        let texts: Vec<String> = [1, 2, 3, 4, 11, 12, 13, 21, 102, 111].map(nth).into();
        assert_eq!(
            texts,
            [
                "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th"
            ]
        );
    }
}
