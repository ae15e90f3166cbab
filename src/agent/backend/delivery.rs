//! Where messages stand: to whom, which relays took them, who acknowledged.

use super::super::adverts::ADVERT_KIND;
use super::super::delivery::channel_of;
use super::super::launch::store_failure;
use super::super::node::{Machine, Node};
use super::super::outbound::{DeliveryState, RelayAnswer};
use super::super::runtime::Agent;
use crate::agent::control::views::{
    DeliveryView, OutboxView, Recipient, RelayReceipt, RelayReceiptView, Tally,
};
use crate::agent::control::{Failure, PeerText};
use crate::keys::NostrKey;
use crate::nostr::lanes::LaneId;
use crate::protocol::ids::Seat;
use crate::store::OutboxRow;
use crate::time::UnixTime;

/// Messages shown of one cohort at most, the newest: formation with a thousand members and every channel
/// post of a round fit.
const MAX_SHOWN: usize = 4_000;

impl Agent {
    /// Every message of the current or last round that this node sent; of formation before the first one.
    pub(super) fn deliveries(&self, node: &Node) -> Result<Vec<DeliveryView>, Failure> {
        let round = node.journal.rounds.last_key_value();
        let since = round.map_or(UnixTime(0), |(_, record)| record.opened);
        let rows = self
            .store
            .view()
            .outbox_of(node.id.0)
            .map_err(store_failure)?;
        let mine = |row: &&OutboxRow| {
            let is_mine = match &row.lane {
                Some((lane, _)) => lane.author == node.own.public(),
                None => row.kind == ADVERT_KIND && matches!(node.machine, Machine::Aggregator(_)),
            };
            is_mine && row.created >= since
        };
        let rows: Vec<&OutboxRow> = rows.iter().filter(mine).collect();
        let skipped = rows.len().saturating_sub(MAX_SHOWN);
        Ok(rows
            .into_iter()
            .skip(skipped)
            .map(|row| {
                let mut view = self.delivery_of(node, row);
                view.round = round.map(|(round, _)| *round);
                view
            })
            .collect())
    }

    /// Where one message of a node stands.
    pub(super) fn delivery_of(&self, node: &Node, row: &OutboxRow) -> DeliveryView {
        let state: DeliveryState = serde_json::from_str(&row.state).unwrap_or_default();
        let to = recipient(node, row);
        let (acknowledged, waiting_for) = self.acknowledged(node, row, to);
        DeliveryView {
            message: row.kind.clone(),
            round: None,
            to,
            sent_at: row.created,
            relays: self.receipts(&state),
            acknowledged,
            waiting_for,
            attempts: state.resent.saturating_add(1),
        }
    }

    fn receipts(&self, state: &DeliveryState) -> Vec<RelayReceiptView> {
        let mut receipts: Vec<RelayReceiptView> = state
            .relays
            .iter()
            .map(|(relay, answer)| RelayReceiptView {
                relay: relay.to_string(),
                receipt: match answer {
                    RelayAnswer::Ok => RelayReceipt::Ok,
                    RelayAnswer::Refused(_) => RelayReceipt::Refused,
                    RelayAnswer::Silent => RelayReceipt::Silent,
                },
                reason: match answer {
                    RelayAnswer::Refused(reason) => Some(PeerText::new(reason)),
                    RelayAnswer::Ok | RelayAnswer::Silent => None,
                },
            })
            .collect();
        let pending = self
            .link
            .relays()
            .into_iter()
            .filter(|relay| relay.write && !state.relays.contains_key(&relay.url));
        receipts.extend(pending.map(|relay| RelayReceiptView {
            relay: relay.url.to_string(),
            receipt: RelayReceipt::Pending,
            reason: None,
        }));
        receipts
    }

    fn acknowledged(&self, node: &Node, row: &OutboxRow, to: Recipient) -> (Tally, Vec<Seat>) {
        let Some((lane, seq)) = &row.lane else {
            return (Tally::default(), Vec::new());
        };
        let lane = LaneId {
            author: lane.author,
            recipient: lane.recipient,
            cohort: lane.cohort,
        };
        if to == Recipient::Channel {
            let members = members(node);
            let count = members.len();
            let waiting: Vec<Seat> = (0..)
                .map(Seat)
                .zip(members)
                .filter(|(_, key)| self.lanes.channel_acked(&lane, key) < *seq)
                .map(|(seat, _)| seat)
                .collect();
            let tally = Tally {
                have: number(count.saturating_sub(waiting.len())),
                of: number(count),
            };
            return (tally, waiting);
        }
        let has = self.lanes.acked_upto(&lane) >= *seq;
        let waiting = match to {
            Recipient::Member { seat, .. } if !has => vec![seat],
            _ => Vec::new(),
        };
        let tally = Tally {
            have: u16::from(has),
            of: 1,
        };
        (tally, waiting)
    }

    /// What waits to be sent or acknowledged.
    pub(super) fn outbox_view(&self) -> Result<OutboxView, Failure> {
        let view = self.store.view();
        let now = self.now();
        let relays = self.link.relays().iter().filter(|r| r.write).count();
        let mut unpublished = 0_u32;
        let mut unacknowledged = 0_u32;
        let mut oldest: Option<UnixTime> = None;
        let mut note = |counter: &mut u32, row: &OutboxRow| {
            *counter = counter.saturating_add(1);
            oldest = Some(oldest.map_or(row.created, |at| at.min(row.created)));
        };
        for row in view.outbox_pending().map_err(store_failure)? {
            let state: DeliveryState = serde_json::from_str(&row.state).unwrap_or_default();
            if row.expires > now && !state.is_published(relays) {
                note(&mut unpublished, &row);
            }
        }
        for node in self.nodes.values().filter(|node| !node.is_over()) {
            for row in view.outbox_of(node.id.0).map_err(store_failure)? {
                let mine = row
                    .lane
                    .as_ref()
                    .is_some_and(|(lane, _)| lane.author == node.own.public());
                if !mine || row.expires <= now {
                    continue;
                }
                let (tally, _) = self.acknowledged(node, &row, recipient(node, &row));
                if tally.have < tally.of {
                    note(&mut unacknowledged, &row);
                }
            }
        }
        Ok(OutboxView {
            unpublished,
            unacknowledged,
            oldest_at: oldest,
        })
    }
}

/// The members of a cohort in seat order, as far as this node knows them.
pub(super) fn members(node: &Node) -> Vec<NostrKey> {
    match &node.machine {
        Machine::Aggregator(machine) => machine.members(),
        Machine::Participant(machine) => machine
            .set()
            .map(|(set, _)| set.keys.clone())
            .unwrap_or_default(),
    }
}

fn recipient(node: &Node, row: &OutboxRow) -> Recipient {
    let Some((lane, _)) = &row.lane else {
        return Recipient::Public;
    };
    let key = lane.recipient;
    if channel_of(node) == Some(key) {
        return Recipient::Channel;
    }
    match &node.machine {
        Machine::Participant(_) => Recipient::Aggregator(key),
        Machine::Aggregator(machine) => {
            let seat = machine.members().iter().position(|member| *member == key);
            match seat.and_then(|seat| u16::try_from(seat).ok()) {
                Some(seat) => Recipient::Member {
                    seat: Seat(seat),
                    key,
                },
                None => Recipient::Key(key),
            }
        }
    }
}

/// A count for people; no set has more than 1 000 members.
pub(super) fn number(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}
