//! What the former copy of this agent did after the backup that a home was restored from, as far as relays still have
//! it.
//!
//! A restored store does not know what was announced since its copy was made. If a signal that the former copy signed
//! has not reached the chain, no resolution shows it, and another update for the same version could be announced beside
//! it: the end of the DID (DESIGN §6, rule 10). Relays keep what our own keys have written, and a conversation's key
//! opens it from either side. So that is read first, back to the time of the copy: an update that the former copy
//! announced and this store does not have holds further updates of its DID back until the chain has decided.

use std::collections::BTreeSet;

use bitcoin::OutPoint;
use serde::{Deserialize, Serialize};

use super::error::AgentError;
use super::fresh::FreshResolution;
use super::node::{Node, NodeId};
use super::runtime::Agent;
use crate::beacon::smt::leaf_value;
use crate::hash::{CohortId, LeafValue, SmtIndex, UpdateHash};
use crate::nostr::chunks::Assembler;
use crate::nostr::envelope::Envelope;
use crate::nostr::lanes::LaneId;
use crate::nostr::link::{INBOX, OWN};
use crate::protocol::Round;
use crate::protocol::chain_view::TipView;
use crate::protocol::message::{Entries, Message, Response};
use crate::store::{MetaKey, Role, StoreError, Tx, View};
use crate::time::UnixTime;

/// Since when relays have to be read before a restored store is used for new updates; empty: they were.
const UNREAD: MetaKey = MetaKey::new("former_unread_since");

/// What the former copy announced and this store does not have, as JSON.
const ANNOUNCED: MetaKey = MetaKey::new("former_announced");

/// Stands for the search for seats, beside the subscriptions that are awaited.
const SEATS: &str = "seats";

/// Announcements kept, one per index and cohort: more than anybody has DIDs.
const MAX_ANNOUNCED: usize = 16_384;

/// What is being caught up with after a start.
#[derive(Debug, Default)]
pub(super) struct Former {
    /// When this agent last handled anything, until relays were read from there on.
    since: Option<UnixTime>,
    /// Whether a store was restored, so that what its former copy wrote has to be read as well.
    restored: bool,
    /// Subscriptions of which no relay has sent all it stores.
    awaited: BTreeSet<&'static str>,
    /// Pieces of long messages of ours.
    chunks: Assembler,
}

/// An announcement by the former copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Announcement {
    cohort: CohortId,
    round: Round,
    index: SmtIndex,
    said: Said,
    /// The beacon's tip when this store first looked at the chain. The signal spends it, or an earlier one.
    tip: Option<OutPoint>,
    /// Whether it holds nothing back any more. It is kept, for relays serve the message again.
    #[serde(default)]
    settled: bool,
}

/// What a signal that is not in a block spends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spends {
    /// It is not known.
    Unknown,
    /// There is nothing that it could.
    Nothing,
    Output(OutPoint),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    Leaf(LeafValue),
    Update(UpdateHash),
}

impl Agent {
    /// Notes how far back relays have to be read. To be called before anything is handled after a start.
    pub(super) fn begin_catching_up(&mut self, restored: bool) -> Result<(), AgentError> {
        // The last sign of life: until then it heard what came.
        let mut since = self.nodes.values().map(|node| node.last).max();
        if let Some(unread) = unread_since(&self.store.view())? {
            since = Some(since.map_or(unread, |since| since.min(unread)));
            self.former.restored = true;
        } else if let (true, Some(since)) = (restored, since) {
            self.store
                .transaction::<_, AgentError>(|tx| Ok(tx.set_meta(UNREAD, &since.to_string())?))?;
            self.former.restored = true;
        }
        self.former.since = since;
        self.former.awaited = BTreeSet::from([INBOX, OWN]);
        if self.seeks_seats() {
            self.former.awaited.insert(SEATS);
        }
        Ok(())
    }

    /// Relays said which seats there are. What these wrote is to be read as well, if any was found.
    pub(super) fn seats_read(&mut self, any: bool) -> Result<(), AgentError> {
        if any && self.former.since.is_some() {
            self.former.awaited.extend([INBOX, OWN]);
        }
        self.caught_up(SEATS)
    }

    /// Since when there may be messages that this agent has not seen, while that is longer ago than usual.
    pub(super) const fn behind_since(&self) -> Option<UnixTime> {
        self.former.since
    }

    /// Whether this home was restored, and no relay has sent yet all that its former copy wrote.
    #[must_use]
    pub fn reads_former_copy(&self) -> bool {
        self.former.restored
    }

    /// A relay has sent all it stores for a subscription.
    pub(super) fn caught_up(&mut self, subscription: &str) -> Result<(), AgentError> {
        self.former.awaited.remove(subscription);
        if !self.former.awaited.is_empty() || self.former.since.is_none() {
            return Ok(());
        }
        self.former.since = None;
        if std::mem::take(&mut self.former.restored) {
            tracing::info!("what the former copy of this agent wrote was read");
            self.store
                .transaction::<_, AgentError>(|tx| Ok(tx.set_meta(UNREAD, "")?))?;
        }
        Ok(())
    }

    /// Takes note of a message that was sent by the copy this store was restored from.
    pub(super) fn recollect(&mut self, lane: LaneId, envelope: Envelope) -> Result<(), AgentError> {
        let id = (lane.cohort, Role::Participant);
        if self
            .nodes
            .get(&id)
            .is_none_or(|node| node.own.public() != lane.author)
        {
            return Ok(());
        }
        let whole = self.former.chunks.accept(lane, envelope.into_message());
        let Ok(Some(message)) = whole else {
            return Ok(());
        };
        match Message::parse(&message.kind, &message.body) {
            Ok(Message::Response(response)) => self.responded(id, &response.content),
            _ => Ok(()),
        }
    }

    /// The former copy's answer to a round: what it announced that is not stored here holds updates back.
    fn responded(&mut self, id: NodeId, response: &Response) -> Result<(), AgentError> {
        let round = response.round;
        let said: Vec<(SmtIndex, Said)> = match &response.entries {
            Entries::Smt(entries) => entries
                .iter()
                .filter_map(|entry| {
                    let nonce = self.root.smt_nonce(&id.0, round, &entry.index);
                    let nothing = leaf_value(Some(nonce.as_bytes()), None);
                    let leaf = entry.leaf.filter(|leaf| *leaf != nothing)?;
                    Some((entry.index, Said::Leaf(leaf)))
                })
                .collect(),
            Entries::Cas(entries) => entries
                .iter()
                .filter_map(|entry| Some((entry.did.smt_index(), Said::Update(entry.update?))))
                .collect(),
        };
        let mut announced = announced(&self.store.view())?;
        let before = announced.clone();
        for (index, said) in said {
            let new = Announcement {
                cohort: id.0,
                round,
                index,
                said,
                tip: None,
                settled: false,
            };
            if self.has_update(&new)? {
                continue;
            }
            let full = announced.len() >= MAX_ANNOUNCED;
            let known = announced
                .iter_mut()
                .find(|known| known.cohort == new.cohort && known.index == index);
            match known {
                Some(known) if known.round < round => *known = new,
                Some(_) => {}
                None if !full => {
                    tracing::warn!(cohort = %id.0, %round, %index, "the former copy announced an update that is not here");
                    announced.push(new);
                }
                None => self.count("former_announcement_not_kept"),
            }
        }
        if announced == before {
            return Ok(());
        }
        self.keep_announced(&announced)
    }

    /// Refuses a further update of a DID while the former copy may have announced one that this store does not have.
    pub(super) fn require_no_former(&mut self, fresh: &FreshResolution) -> Result<(), AgentError> {
        let reads = self.link.configs().iter().any(|relay| relay.read);
        if self.former.restored && reads {
            return Err(AgentError::Refused(
                "this home was restored, and no relay has sent yet all that its former copy wrote, which may be an \
                 update of this DID: wait until a relay is connected (`btcr2-agent relay list`)"
                    .into(),
            ));
        }
        let mut announced = announced(&self.store.view())?;
        let before = announced.clone();
        let index = fresh.did().smt_index();
        for known in announced.iter_mut().filter(|known| !known.settled) {
            let applied =
                known.index == index && fresh.applied().any(|hash| self.explains(known, hash));
            known.settled = self.is_decided(known) || applied || self.has_update(known)?;
        }
        if announced != before {
            self.keep_announced(&announced)?;
        }
        let mut open = announced.iter().filter(|known| !known.settled);
        match open.find(|known| known.index == index) {
            None => Ok(()),
            Some(known) => Err(AgentError::Refused(format!(
                "this home was restored, and its former copy announced an update of this DID in round {} of cohort \
                 {}, which this home does not have. Another one for the same version could end the DID: \
                 recover from a newer bundle that has it, or wait until a signal of that cohort's beacon is in a \
                 block, which carries it or makes it void",
                known.round,
                known.cohort.short()
            ))),
        }
    }

    fn keep_announced(&mut self, announced: &[Announcement]) -> Result<(), AgentError> {
        let json = serde_json::to_string(announced)
            .map_err(|_| AgentError::Defect("announcements have no JSON"))?;
        self.store
            .transaction::<_, AgentError>(|tx| Ok(tx.set_meta(ANNOUNCED, &json)?))
    }

    /// Whether the store has the update that was announced.
    fn has_update(&self, known: &Announcement) -> Result<bool, AgentError> {
        let Some(did) = self.did_of_index(&known.index)? else {
            return Ok(false);
        };
        let updates = self.store.view().updates_of(&did)?;
        Ok(updates.iter().any(|row| self.explains(known, &row.hash)))
    }

    /// Whether an update is what was announced.
    fn explains(&self, known: &Announcement, hash: &UpdateHash) -> bool {
        match known.said {
            Said::Update(said) => said == *hash,
            Said::Leaf(leaf) => {
                let nonce = self
                    .root
                    .smt_nonce(&known.cohort, known.round, &known.index);
                leaf_value(Some(nonce.as_bytes()), Some(hash)) == leaf
            }
        }
    }

    /// What a signal that was signed by now and is not in a block spends, by what the chain shows today. A view out of
    /// the log of a restored store is as old as its copy.
    fn spent_by_the_next(&self, cohort: CohortId) -> Spends {
        let node = self.nodes.get(&(cohort, Role::Participant));
        let read = |node: &&Node| {
            let address = node.address().map(|address| address.to_string());
            address.is_some_and(|address| self.histories.contains_key(&address))
        };
        let Some(chain) = node.filter(read).map(Node::chain) else {
            return Spends::Unknown;
        };
        match chain.tip {
            TipView::Ready { outpoint, .. } => Spends::Output(outpoint),
            TipView::InFlight { by } => {
                let mut spent = chain.spends.iter().filter(|(_, spend)| spend.by == by);
                spent
                    .next()
                    .map_or(Spends::Unknown, |(outpoint, _)| Spends::Output(*outpoint))
            }
            TipView::NoFunds => Spends::Nothing,
            TipView::Unconfirmed { .. } => Spends::Unknown,
        }
    }

    /// Whether the chain has decided what becomes of the signal with an announcement: all signals of a beacon spend its
    /// tip (rule 4), so that it is in a block or void when a block spends that.
    fn is_decided(&self, known: &mut Announcement) -> bool {
        let spends = self.spent_by_the_next(known.cohort);
        if spends == Spends::Nothing {
            return true;
        }
        if let (None, Spends::Output(outpoint)) = (known.tip, spends) {
            known.tip = Some(outpoint);
        }
        let node = self.nodes.get(&(known.cohort, Role::Participant));
        let (Some(tip), Some(node)) = (known.tip, node) else {
            return false;
        };
        let spend = node.chain().spends.get(&tip);
        spend.is_some_and(|spend| spend.height.is_some())
    }
}

/// Notes since when relays have to be read before a restored store is used for new updates.
pub(super) fn read_since(tx: &Tx<'_>, since: UnixTime) -> Result<(), StoreError> {
    tx.set_meta(UNREAD, &since.to_string())
}

/// Since when relays have to be read before a restored store is used for new updates, if they were not.
///
/// # Errors
/// [`StoreError`] if reading fails.
pub fn unread_since(view: &View<'_>) -> Result<Option<UnixTime>, StoreError> {
    let text = view.meta(UNREAD)?;
    Ok(text.and_then(|text| text.parse().ok()).map(UnixTime))
}

/// How many updates the former copy announced that the store did not have when it was looked at last.
///
/// # Errors
/// [`StoreError`] if reading fails.
pub fn held_back(view: &View<'_>) -> Result<usize, StoreError> {
    let announced = announced(view)?;
    Ok(announced.iter().filter(|known| !known.settled).count())
}

/// What the former copy announced and this store does not have.
fn announced(view: &View<'_>) -> Result<Vec<Announcement>, StoreError> {
    let text = view.meta(ANNOUNCED)?.filter(|text| !text.is_empty());
    text.map_or(Ok(Vec::new()), |text| {
        serde_json::from_str(&text).map_err(|error| StoreError::Damaged {
            detail: format!("what the former copy announced: {error}"),
        })
    })
}
