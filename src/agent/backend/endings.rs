//! How cohorts and rounds ended, as people see it.

use crate::agent::causes::{end_cause, refusal, round_cause};
use crate::agent::control::PeerText;
use crate::agent::control::views as v;
use crate::agent::journal::End;
use crate::agent::node::{Machine, Node};
use crate::protocol::message::{EndCause, RoundCause};
use crate::time::UnixTime;

pub(super) fn end_view(node: &Node) -> Option<v::EndView> {
    let (at, end) = node.journal.end.as_ref()?;
    let member = matches!(node.machine, Machine::Participant(_));
    let (cause, text, by) = match end {
        End::Ended(why) => {
            let by = match why {
                EndCause::NotAcknowledged { absent } => absent.clone(),
                EndCause::MemberLeft { seat } => vec![*seat],
                EndCause::NotEnoughMembers { .. } | EndCause::Cancelled => Vec::new(),
            };
            (tag(why), end_cause(why), by)
        }
        End::Refused(code) => (
            "refused".to_owned(),
            format!("the opt-in was refused: {}", refusal(*code)),
            Vec::new(),
        ),
        End::Rejected(reason) => (
            "rejected".to_owned(),
            format!("the operator decided against a seat: {reason}"),
            Vec::new(),
        ),
        End::Released(reason) => (
            "released".to_owned(),
            format!("the seat was released: {reason}"),
            Vec::new(),
        ),
    };
    Some(v::EndView {
        at: *at,
        cause,
        text: PeerText::new(&text),
        by,
        known_by: known(member),
        culprits: Vec::new(),
    })
}

pub(super) fn round_end(at: UnixTime, why: &RoundCause, member: bool) -> v::EndView {
    // What is left of it here was verified here.
    let shown = matches!(why, RoundCause::SessionsUsedUp { lost }
        if lost.iter().all(|lost| lost.shown.is_some()));
    v::EndView {
        at,
        cause: tag(why),
        text: PeerText::new(&round_cause(why)),
        by: why.named(),
        known_by: known(member && !shown),
        culprits: Vec::new(),
    }
}

/// Absence is a statement, never evidence: a member has it from the aggregator.
const fn known(member: bool) -> v::Knowledge {
    if member {
        v::Knowledge::Claim
    } else {
        v::Knowledge::Own
    }
}

/// The code of a cause, as in the protocol.
fn tag<T: serde::Serialize>(cause: &T) -> String {
    serde_json::to_value(cause)
        .ok()
        .and_then(|value| value.get("cause")?.as_str().map(str::to_owned))
        .unwrap_or_default()
}
