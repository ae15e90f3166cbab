//! Snapshots of cohorts: what a start loads in place of the log that led there.
//!
//! A snapshot is taken between two inputs, of the machine as it is, and goes through four steps, each of which may be
//! the last before the process ends: it is read back from its text and compared with the machine; stored; read back
//! from the store and compared; and only then is deleted what the *former* snapshot makes up for. So there are always
//! two, and the log since the older one: if the newer one is damaged, the next start takes longer, and that is all.

use serde::{Deserialize, Serialize};

use super::error::AgentError;
use super::inbound;
use super::journal::Journal;
use super::node::{Machine, Node, NodeId};
use super::runtime::Agent;
use crate::fail_point;
use crate::nostr::seal::ConversationKeys;
use crate::protocol::snapshot::FORMAT;
use crate::store::{NewSnapshot, View};
use crate::time::UnixTime;

/// The log of a cohort since its last snapshot.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tail {
    rows: u64,
    bytes: u64,
    /// Bytes of that snapshot.
    snapshot: u64,
}

impl Tail {
    /// An entry was appended, or replayed, whose input has this many bytes.
    pub(super) const fn add(&mut self, bytes: usize) {
        self.rows = self.rows.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// Whether it is long enough. What is large is written more seldom: of all that is written, snapshots are a part
    /// that does not grow with the age of a cohort.
    const fn is_long(&self, rows: u64) -> bool {
        self.rows >= rows && self.bytes >= self.snapshot / 4
    }
}

/// What is written of a cohort.
#[derive(Serialize)]
struct Written<'a> {
    machine: &'a Machine,
    journal: &'a Journal,
    relays: &'a [String],
    sealed: Option<&'a str>,
    last: UnixTime,
}

#[derive(Deserialize)]
struct Read {
    machine: Machine,
    journal: Journal,
    relays: Vec<String>,
    sealed: Option<String>,
    last: UnixTime,
}

impl Read {
    /// Whether it is a state of this cohort in this role, for this seat.
    fn belongs_to(&self, node: &Node) -> bool {
        match (&self.machine, &node.machine) {
            (Machine::Aggregator(read), Machine::Aggregator(new)) => read.terms() == new.terms(),
            (Machine::Participant(read), Machine::Participant(new)) => {
                read.terms() == new.terms() && read.me() == new.me()
            }
            _ => false,
        }
    }

    fn is_of(&self, node: &Node) -> bool {
        self.machine == node.machine
            && self.journal == node.journal
            && self.relays == node.relays
            && self.sealed == node.sealed
            && self.last == node.last
    }
}

/// Takes over the newest snapshot of a new node that can be read, and says after which entry the log goes on: 0 where
/// there is no snapshot.
pub(super) fn restore(
    view: &View<'_>,
    conversations: &ConversationKeys,
    node: &mut Node,
) -> Result<u64, AgentError> {
    let (cohort, role) = node.id;
    let cut = view.log_cut(cohort, role)?;
    let mut before = None;
    while let Some(snapshot) = view.snapshot_before(cohort, role, before)? {
        before = Some(snapshot.seq);
        if snapshot.seq < cut {
            break;
        }
        if snapshot.format > FORMAT && snapshot.body.is_some() {
            return Err(AgentError::NewerSnapshot {
                cohort,
                found: snapshot.format,
            });
        }
        let body = snapshot.body.unwrap_or_default();
        match serde_json::from_str::<Read>(&body) {
            Ok(read) if read.belongs_to(node) => {
                node.machine = read.machine;
                node.journal = read.journal;
                node.relays = read.relays;
                node.last = read.last;
                node.tail.snapshot = body.len() as u64;
                if let Some(json) = read.sealed {
                    node.channel = inbound::reopen_channel(conversations, node, &json);
                    node.sealed = Some(json);
                }
                return Ok(snapshot.seq);
            }
            other => {
                let why = other.err().map(|error| error.to_string());
                tracing::warn!(
                    cohort = %cohort.short(), entry = snapshot.seq, why,
                    "a snapshot is damaged: the one before it is used, which takes longer"
                );
            }
        }
    }
    if cut > 0 {
        return Err(AgentError::NoSnapshot(cohort));
    }
    Ok(0)
}

impl Agent {
    /// Takes a snapshot of every cohort whose log has grown enough since the last one.
    pub(super) fn take_snapshots(&mut self, now: UnixTime) -> Result<(), AgentError> {
        let rows = self.snapshot_after;
        let long = self.nodes.values().filter(|node| node.tail.is_long(rows));
        let long: Vec<NodeId> = long.map(|node| node.id).collect();
        for id in long {
            self.take_snapshot(id, now)?;
        }
        Ok(())
    }

    fn take_snapshot(&mut self, id: NodeId, now: UnixTime) -> Result<(), AgentError> {
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(());
        };
        // Whatever comes of it, the next try is as far away.
        node.tail.rows = 0;
        node.tail.bytes = 0;
        let written = Written {
            machine: &node.machine,
            journal: &node.journal,
            relays: &node.relays,
            sealed: node.sealed.as_deref(),
            last: node.last,
        };
        let body = serde_json::to_string(&written)
            .map_err(|_| AgentError::Defect("a cohort's state has no JSON"))?;
        // What would not come back as it is must not take the place of the log.
        if !serde_json::from_str::<Read>(&body).is_ok_and(|read| read.is_of(node)) {
            debug_assert!(false, "a snapshot is not what was written");
            tracing::error!(cohort = %id.0.short(), "no snapshot: the state does not come back from its text as it was");
            self.count("snapshot_differs");
            return Ok(());
        }
        node.tail.snapshot = body.len() as u64;
        let seq = self.store.view().last_seq(id.0, id.1)?;
        fail_point!("before", "snapshot");
        self.store.transaction::<_, AgentError>(|tx| {
            tx.insert_snapshot(&NewSnapshot {
                cohort: id.0,
                role: id.1,
                seq,
                format: FORMAT,
                body: &body,
                created: now,
            })?;
            fail_point!("written", "snapshot");
            Ok(())
        })?;
        fail_point!("stored", "snapshot");
        let kept = self.store.view().snapshot_before(id.0, id.1, None)?;
        let kept = kept.filter(|kept| kept.seq == seq && kept.format == FORMAT);
        if kept.and_then(|kept| kept.body).as_ref() != Some(&body) {
            tracing::error!(cohort = %id.0.short(), "a snapshot can not be read back: the log stays as it is");
            return Ok(());
        }
        let gone = self.store.transaction::<_, AgentError>(|tx| {
            let gone = tx.shorten_log(id.0, id.1)?;
            fail_point!("written", "shorter_log");
            Ok(gone)
        })?;
        fail_point!("stored", "shorter_log");
        tracing::debug!(cohort = %id.0.short(), entry = seq, bytes = body.len(), gone, "snapshot");
        Ok(())
    }
}
