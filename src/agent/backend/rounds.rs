//! Rounds and the beacon of a cohort, as they are shown.

use bitcoin::Amount;

use super::confirmations::on_chain;
use super::delivery::{members, number};
use super::endings::round_end;
use super::funding::state_view;
use super::reforming::culprits;
use crate::agent::control::views as v;
use crate::agent::journal::RoundRecord;
use crate::agent::node::{Machine, Node};
use crate::agent::runtime::Agent;
use crate::protocol::chain_view::TipView;
use crate::protocol::funding::Funding;
use crate::protocol::ids::Round;
use crate::time::UnixTime;

impl Agent {
    /// When the next round opens by the terms' cadence.
    pub(super) fn next_round_at(&self, node: &Node) -> Option<UnixTime> {
        let active = node.phase_name() == "active" && running_round(node).is_none();
        let cadence = u64::from(node.terms().cadence_seconds);
        let at = match &node.machine {
            Machine::Aggregator(machine) => machine.next_opening(),
            // A member knows when the last one was opened, and what the terms say.
            Machine::Participant(_) => {
                let (_, last) = node.journal.rounds.last_key_value()?;
                (cadence > 0).then(|| last.opened.plus(cadence))
            }
        };
        at.filter(|at| active && *at >= self.now())
    }

    pub(super) fn beacon_view(&self, node: &Node) -> Option<v::BeaconView> {
        let address = node.address()?;
        let funding = self.funding_of(node);
        let tip = match node.chain().tip {
            TipView::Ready { outpoint, .. } => Some(outpoint.to_string()),
            _ => None,
        };
        let sat = |of: fn(&Funding) -> Amount| funding.as_ref().map_or(0, |held| of(held).to_sat());
        Some(v::BeaconView {
            address: address.to_string(),
            balance_sat: sat(|held| held.confirmed),
            unconfirmed_sat: sat(|held| held.unconfirmed),
            outputs: self.output_views(node),
            tip,
            funding: funding.as_ref().map(|held| state_view(held.state)),
            rounds_left: funding.as_ref().map(|held| held.runway),
            dust_sat: sat(|held| held.dust),
        })
    }

    pub(super) fn round_view(
        &self,
        node: &Node,
        round: Round,
        record: &RoundRecord,
        running: bool,
    ) -> v::RoundView {
        let of = number(members(node).len());
        let chain = node.chain();
        let on_chain = on_chain(node, round, record);
        let state = match record {
            // Rule 9: where the chain says it is, and nowhere else. A signal may come out of a round that was given up.
            _ if on_chain
                .state
                .is_some_and(|state| state != v::RoundState::Conflicted) =>
            {
                on_chain.state.unwrap_or(v::RoundState::Signed)
            }
            RoundRecord {
                failed: Some(_), ..
            } => v::RoundState::Failed,
            RoundRecord { empty: true, .. } => v::RoundState::Empty,
            _ if on_chain.state.is_some() => v::RoundState::Conflicted,
            RoundRecord { signed: true, .. } => v::RoundState::Signed,
            RoundRecord {
                signal: Some(_), ..
            } => v::RoundState::Signing,
            _ => v::RoundState::Responding,
        };
        let (mut responses, mut partials) = (record.responses, record.partials);
        let (mut attempt, mut deadline, mut waiting_for, mut own) =
            (record.attempt, None, Vec::new(), Vec::new());
        if running {
            match &node.machine {
                Machine::Aggregator(machine) => {
                    if let Some(now) = machine.open_round_now() {
                        responses = number(now.responded.len());
                        partials = number(now.signed.len());
                        attempt = now.attempt;
                        deadline = Some(now.until);
                        waiting_for = machine.waiting_for();
                    }
                }
                Machine::Participant(machine) => {
                    if let Some(now) = machine.open_round_now() {
                        responses = u16::from(now.responded);
                        partials = u16::from(now.signed);
                        attempt = now.attempt;
                        deadline = Some(now.until);
                        own = now
                            .said
                            .iter()
                            .map(|(index, update, idle)| v::OwnResponseView {
                                did: self.name_of(index),
                                said: match (update, idle) {
                                    (Some(_), _) => v::OwnResponse::Update,
                                    (None, true) => v::OwnResponse::Idle,
                                    (None, false) => v::OwnResponse::NoUpdate,
                                },
                                proved: now.signed,
                            })
                            .collect();
                    }
                }
            }
        }
        let own_only = matches!(node.machine, Machine::Participant(_));
        // A member knows of its own answers only.
        let of = if own_only { 1 } else { of };
        let took = record
            .broadcast
            .map(|at| at.since(record.opened).saturating_mul(1_000));
        v::RoundView {
            round,
            state,
            opened_at: record.opened,
            deadline,
            attempt: attempt.max(1),
            responses: v::Tally {
                have: responses,
                of,
            },
            partials: v::Tally { have: partials, of },
            waiting_for,
            updates: record.updates,
            own,
            signal: record.signal,
            txid: on_chain.txid,
            vsize: record.vsize,
            fee_sat: record.fee_sat,
            confirmations: on_chain
                .height
                .map_or(0, |height| chain.confirmations(height)),
            signed: on_chain.signed,
            took_ms: took,
            end: record.failed.as_ref().map(|(at, why)| {
                let mut end = round_end(*at, why, own_only);
                end.culprits = culprits(node, record, &end.by, end.known_by);
                end
            }),
        }
    }
}

pub(super) fn running_round(node: &Node) -> Option<Round> {
    match &node.machine {
        Machine::Aggregator(machine) => machine.open_round_now().map(|round| round.round),
        Machine::Participant(machine) => machine.open_round_now().map(|round| round.round),
    }
}
