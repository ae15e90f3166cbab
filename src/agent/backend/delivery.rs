//! Where messages stand: to whom, which relays took them, who acknowledged.

use std::collections::BTreeMap;

use crate::agent::control::views::{
    DeliveryView, OutboxView, Recipient, RelayReceipt, RelayReceiptView, Tally,
};
use crate::agent::control::{Failure, PeerText};
use crate::agent::delivery::channel_of;
use crate::agent::launch::store_failure;
use crate::agent::node::{Machine, Node};
use crate::agent::outbound;
use crate::agent::runtime::Agent;
use crate::keys::NostrKey;
use crate::nostr::event::KIND_ADVERT;
use crate::nostr::outbox::{DeliveryState, Row};
use crate::protocol::ids::{Seat, Subject};
use crate::store::OutboxRow;
use crate::time::UnixTime;

/// Messages shown of one cohort at most, the newest: formation with a thousand members and every channel
/// post of a round fit.
const MAX_SHOWN: usize = 4_000;

impl Agent {
    /// Every message of the current or last round that this node sent; of formation before the first one.
    pub(super) fn delivery_views(&self, node: &Node) -> Result<Vec<DeliveryView>, Failure> {
        let round = node.journal.rounds.last_key_value();
        let since = round.map_or(UnixTime(0), |(_, record)| record.opened);
        let mut views: Vec<DeliveryView> = self
            .sent_by(node)?
            .iter()
            .filter(|row| row.queued >= since)
            .map(|row| {
                let mut view = delivery_view(node, row);
                match subject_of(row) {
                    Some(Subject::Round(round)) => view.round = Some(round),
                    Some(Subject::Deposit(deposit)) => view.deposit = Some(deposit),
                    None if row.kind.starts_with("refund_") => {}
                    None => view.round = round.map(|(round, _)| *round),
                }
                view
            })
            .collect();
        views.drain(..views.len().saturating_sub(MAX_SHOWN));
        Ok(views)
    }

    /// Every message of a node, in the order of sending; one that was signed again counts once.
    pub(super) fn sent_by(&self, node: &Node) -> Result<Vec<Row>, Failure> {
        let stored = self.store.view().outbox_of(node.id.0);
        let mut rows: Vec<Row> = Vec::new();
        let mut places: BTreeMap<(NostrKey, u64), usize> = BTreeMap::new();
        for row in stored.map_err(store_failure)? {
            let Some(row) = self.row_of(&row) else {
                continue;
            };
            let mine = match row.lane {
                Some(lane) => lane.author == node.own.public(),
                None => {
                    row.event.kind == KIND_ADVERT && matches!(node.machine, Machine::Aggregator(_))
                }
            };
            if !mine {
                continue;
            }
            let number = row
                .lane
                .filter(|_| row.seq > 0)
                .map(|lane| (lane.recipient, row.seq));
            match number.and_then(|number| places.get(&number)) {
                Some(place) => {
                    if let Some(former) = rows.get_mut(*place) {
                        *former = row;
                    }
                }
                None => {
                    if let Some(number) = number {
                        places.insert(number, rows.len());
                    }
                    rows.push(row);
                }
            }
        }
        Ok(rows)
    }

    /// A row as it is now: in memory while it is on its way, as it was stored at the end.
    pub(super) fn row_of(&self, stored: &OutboxRow) -> Option<Row> {
        let live = self.post.outbox.row(&stored.event_id).cloned();
        live.or_else(|| outbound::read_row(stored).ok())
    }

    /// What waits to be sent or acknowledged.
    pub(super) fn outbox_view(&self) -> OutboxView {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let rows = || self.post.outbox.rows();
        let unpublished = rows().filter(|row| !row.published).count();
        let unacknowledged = rows().filter(|row| !row.awaiting.is_empty()).count();
        OutboxView {
            unpublished: count(unpublished),
            unacknowledged: count(unacknowledged),
            oldest_at: rows()
                .filter(|row| !row.published || !row.awaiting.is_empty())
                .map(|row| row.queued)
                .min(),
        }
    }
}

/// What a message is about, as it was noted when it was sent.
fn subject_of(row: &Row) -> Option<Subject> {
    serde_json::from_str(row.about.as_deref()?).ok()
}

/// Where one message of a node stands.
pub(super) fn delivery_view(node: &Node, row: &Row) -> DeliveryView {
    let to = recipient(node, row);
    let of = match to {
        _ if !row.wants_ack() => 0,
        Recipient::Channel => members(node).len(),
        _ => 1,
    };
    let seats = members(node);
    let waiting_for = (0..)
        .map(Seat)
        .zip(&seats)
        .filter(|(_, key)| {
            matches!(node.machine, Machine::Aggregator(_)) && row.awaiting.contains(*key)
        })
        .map(|(seat, _)| seat)
        .collect();
    let attempts = row.relays.values().map(|relay| relay.attempts).max();
    DeliveryView {
        message: row.kind.clone(),
        round: None,
        deposit: None,
        to,
        sent_at: row.queued,
        relays: row
            .relays
            .iter()
            .map(|(url, delivery)| RelayReceiptView {
                relay: url.to_string(),
                receipt: match delivery.state {
                    DeliveryState::Pending => RelayReceipt::Pending,
                    DeliveryState::Ok => RelayReceipt::Ok,
                    DeliveryState::Refused(_) => RelayReceipt::Refused,
                    DeliveryState::Silent => RelayReceipt::Silent,
                },
                reason: delivery.words.as_deref().map(PeerText::new),
            })
            .collect(),
        acknowledged: Tally {
            have: number(of.saturating_sub(row.awaiting.len())),
            of: number(of),
        },
        waiting_for,
        attempts: attempts.unwrap_or(0).saturating_add(row.resigned),
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

fn recipient(node: &Node, row: &Row) -> Recipient {
    let Some(lane) = row.lane else {
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
