//! Why something was refused, failed or ended, in words.

use std::collections::BTreeMap;

use crate::protocol::ids::Seat;
use crate::protocol::message::{EndCause, LostSession, RefusalCode, RoundCause};

/// Seats by their numbers; the first ten.
pub(super) fn seats(seats: &[Seat]) -> String {
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
        RefusalCode::WorkRequired => "it shows less proof of work than the terms ask",
        RefusalCode::BadCode => "it shows no invite code of this cohort",
        RefusalCode::CodeUsedUp => "the invite code is used up",
        RefusalCode::Rejected => "the operator decided against it",
        RefusalCode::AlreadyAsked => "this key asked before; the first opt-in counts",
        RefusalCode::BadPayee => "the payee is not a segwit address",
        RefusalCode::PayeeRequired => "members fund, and no address for refunds was given",
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
        RefusalCode::DepositRequired => "it announces an update that is not deposited",
        RefusalCode::WrongLeaf => "a leaf is not what it was opened as",
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
        RoundCause::SessionsUsedUp { lost } => sessions_lost(lost),
        RoundCause::NoFunds => "the beacon can not pay for the signal".into(),
        RoundCause::TipMoved => "the chain moved under it".into(),
        RoundCause::Operator => "the aggregator ended it".into(),
    }
}

/// Who lost which sessions of a round, seat by seat.
fn sessions_lost(lost: &[LostSession]) -> String {
    let mut by_seat: BTreeMap<Seat, Vec<&LostSession>> = BTreeMap::new();
    for lost in lost {
        by_seat.entry(lost.seat).or_default().push(lost);
    }
    let told = by_seat.iter().map(|(seat, lost)| {
        let sessions: Vec<String> = lost.iter().map(|lost| lost.attempt.to_string()).collect();
        let noun = if sessions.len() == 1 {
            "session"
        } else {
            "sessions"
        };
        let shown = lost.iter().all(|lost| lost.shown.is_some());
        let shown = if shown {
            "its own signed word"
        } else {
            "not shown"
        };
        format!("seat {seat} lost {noun} {} ({shown})", sessions.join(", "))
    });
    let told: Vec<String> = told.collect();
    let all = "the signing sessions that the terms allow are used up";
    match told.join("; ") {
        nobody if nobody.is_empty() => all.to_owned(),
        told => format!("{all}: {told}"),
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

    #[test]
    fn lost_sessions_are_told_seat_by_seat() {
        let lost = |attempt, seat| LostSession {
            attempt,
            seat: Seat(seat),
            shown: None,
        };
        let told = round_cause(&RoundCause::SessionsUsedUp {
            lost: vec![lost(1, 2), lost(2, 0), lost(3, 2)],
        });
        let start = "the signing sessions that the terms allow are used up";
        assert_eq!(
            told,
            format!(
                "{start}: seat 0 lost session 2 (not shown); seat 2 lost sessions 1, 3 (not shown)"
            )
        );
        let nobody = RoundCause::SessionsUsedUp { lost: Vec::new() };
        assert_eq!(round_cause(&nobody), start);
    }
}
