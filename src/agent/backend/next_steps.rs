//! What the user of a cohort can do now.

use crate::agent::control::views as v;
use crate::agent::node::{Machine, Node};
use crate::keys::NostrKey;
use crate::protocol::chain_view::TipView;
use crate::protocol::message::RefusalCode;
use crate::protocol::participant::MemberPhase;
use crate::protocol::terms;
use crate::store::Role;

/// What its user can do now, where money may move.
pub(super) fn next_step(node: &Node, phase: v::CohortPhase) -> Option<String> {
    let cohort = node.id.0.short();
    let text = match (&node.machine, phase) {
        (Machine::Aggregator(machine), v::CohortPhase::Forming)
            if machine.waiting_opt_ins().next().is_some() =>
        {
            let waiting = machine.waiting_opt_ins().count();
            format!("{waiting} wait for you: `cohort applicants {cohort}`")
        }
        (Machine::Participant(machine), v::CohortPhase::Forming)
            if machine.awaits_decision().is_some() =>
        {
            format!(
                "waiting for the operator's decision about {}",
                crate::keys::names::npub(&machine.me())
            )
        }
        (Machine::Participant(machine), v::CohortPhase::Ended) => {
            let MemberPhase::Refused(code) = machine.phase() else {
                return None;
            };
            refusal_remedy(*code, &machine.me())?
        }
        (Machine::Aggregator(machine), v::CohortPhase::Forming) => {
            let (taken, min) = (machine.members().len(), machine.terms().seats_min);
            if taken >= usize::from(min) {
                format!("`cohort close {cohort}` fixes the set with the {taken} seated")
            } else {
                format!("waiting for members: {taken} of at least {min}")
            }
        }
        (Machine::Participant(_), v::CohortPhase::Forming) => {
            "waiting for the aggregator's answer".to_owned()
        }
        (Machine::Participant(_), v::CohortPhase::Seated) => {
            "waiting for the set to be fixed".to_owned()
        }
        (_, v::CohortPhase::Funding) => match node.chain().tip {
            TipView::Unconfirmed { value_sat } => {
                format!("{value_sat} sat seen, waiting for a block")
            }
            _ => match (node.terms().funding, node.id.1) {
                (terms::Funding::Aggregator, Role::Participant) => {
                    "waiting for the aggregator to fund the beacon".to_owned()
                }
                (terms::Funding::Members, Role::Aggregator) => {
                    "waiting for the members to fund the beacon".to_owned()
                }
                (terms::Funding::Members, Role::Participant) => {
                    format!("pay your share to the beacon: `cohort fund {cohort}`")
                }
                (terms::Funding::Aggregator, Role::Aggregator) => {
                    format!("fund the beacon: `cohort fund {cohort}`")
                }
            },
        },
        (Machine::Aggregator(machine), v::CohortPhase::Idle) => match machine.open_refusal() {
            None => format!("`cohort announce {cohort}` opens a round"),
            Some(why) => why.to_string(),
        },
        (Machine::Participant(machine), v::CohortPhase::Idle) => {
            if machine.indexes().next().is_some() {
                return None;
            }
            format!("create a DID: `did create --cohort {cohort}`")
        }
        _ => return None,
    };
    Some(text)
}

/// What whoever was refused a seat can do.
fn refusal_remedy(code: RefusalCode, seat: &NostrKey) -> Option<String> {
    let npub = crate::keys::names::npub(seat);
    Some(match code {
        RefusalCode::WorkRequired => {
            "ask again: `cohort join` does the work that the terms ask for".to_owned()
        }
        RefusalCode::BadCode | RefusalCode::CodeUsedUp => {
            "get another code from the aggregator, and ask again with `cohort join … --code`"
                .to_owned()
        }
        RefusalCode::TooMany => format!(
            "too many wait for a decision, or gave their seats back: ask again with more work (`cohort join … --work 22`), or have the operator \
             approve {npub} and then ask again"
        ),
        RefusalCode::Rejected => format!("only the operator can change that: your key is {npub}"),
        RefusalCode::NotInvited => format!(
            "have the operator invite your identity (`btcr2-agent key show`), or this key: {npub}"
        ),
        RefusalCode::PayeeRequired | RefusalCode::BadPayee => {
            "ask again with `cohort join … --refund-to`".to_owned()
        }
        RefusalCode::Full | RefusalCode::Closed => {
            "look for another cohort: `cohort discover`".to_owned()
        }
        _ => return None,
    })
}
