//! Making a store again on a new machine: out of the words and the bundle, or out of the words alone.
//!
//! With the bundle the store is what it was when that was last written, but for three things. Its incarnation is
//! raised above any that was used, so that peers take its numbers for new ones. Its cohorts go on, in either role, but
//! leave an open round: what the former copy did last is not known. And what was on its way is not in a bundle: it is
//! said again where somebody may wait for it.
//!
//! Secret nonces are never part of any of this: they live in memory, and a new process begins without.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::bundle::{BundleEnd, BundleError, BundleReader, inspect_bundle, read_bundle};
use super::error::AgentError;
use super::node::{NodeId, NodeInput};
use super::outbound::Post;
use super::runtime::Agent;
use crate::did::initial::INITIAL_KEY;
use crate::did::{Did, GenesisDocument, initial_key_document};
use crate::hash::CohortId;
use crate::keys::RootSecret;
use crate::keys::root::CounterTooLarge;
use crate::network::Network;
use crate::nostr::RelayUrl;
use crate::nostr::lanes::LaneState;
use crate::protocol::aggregator::AggregatorInput;
use crate::protocol::participant::{IndexState, ParticipantInput};
use crate::store::{
    CohortRow, DidKeyRow, DidRow, MetaKey, NewLogEntry, Restoring, Role, Store, StoreError, Tx,
    View,
};
use crate::time::UnixTime;

/// When a store was copied by [`back_up`](super::backup::back_up); only the copy has it, and it is empty once the copy
/// is in use. So a copy is known as one however it came into its place.
const COPIED: MetaKey = MetaKey::new("copied_at");

/// Set while a store that was restored has not been used.
const RECOVERED: MetaKey = MetaKey::new("recovered");

/// Numbers of DID keys that are tried to find the one of a DID.
pub const KEYS_TRIED: u32 = 1_000;

/// How far back relays are read when nothing but the words is there: longer than they keep what formed a cohort.
const WORDS_REACH_SECONDS: u64 = 400 * 86_400;

/// How a DID came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredDid {
    /// The DID.
    pub did: String,
    /// Its version, as far as it is known.
    pub version: u64,
    /// What the words alone could not restore.
    pub lacks: Vec<Lack>,
}

/// What the words do not restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Lack {
    /// The genesis document: without it the DID does not resolve, and its key is not known.
    GenesisDocument,
    /// Updates that its beacons announced.
    Updates,
    /// No key of these words is the DID's.
    Key,
}

/// A cohort in a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredCohort {
    /// The cohort.
    pub cohort: CohortId,
    /// The part this agent plays, or played, in it.
    pub role: Role,
    /// Its state when the bundle was written.
    pub state: String,
    /// Whether it goes on.
    pub resumes: bool,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// How the bundle ended.
    pub end: BundleEnd,
    /// The new incarnation.
    pub inc: u64,
    /// The DIDs.
    pub dids: Vec<RecoveredDid>,
    /// The cohorts.
    pub cohorts: Vec<RecoveredCohort>,
    /// Rows restored.
    pub rows: u64,
}

/// Makes the store at `path`, which must not exist, out of a bundle. It is there whole or not at all.
///
/// # Errors
/// [`BundleError`]: see there; nothing was written then.
pub fn restore_bundle(
    path: &Path,
    bundle: &Path,
    root: &RootSecret,
    accept_truncated: bool,
    now: UnixTime,
) -> Result<Recovered, BundleError> {
    let key = root.bundle_key();
    let end = inspect_bundle(bundle, &key)?;
    if end.lost > 0 && !accept_truncated {
        return Err(BundleError::Truncated { lost: end.lost });
    }
    if path.exists() {
        return Err(BundleError::Store(StoreError::CannotOpen {
            path: path.to_owned(),
            reason: "a store is already there".to_owned(),
        }));
    }
    let beside = beside(path);
    clear(&beside);
    let restored = restore_into(&beside, bundle, root, end, now);
    let restored = restored.and_then(|restored| {
        std::fs::rename(&beside, path).map_err(|source| BundleError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        })?;
        Ok(restored)
    });
    if restored.is_err() {
        clear(&beside);
    }
    restored
}

fn restore_into(
    path: &Path,
    bundle: &Path,
    root: &RootSecret,
    end: BundleEnd,
    now: UnixTime,
) -> Result<Recovered, BundleError> {
    let restoring = Restoring::begin(path, end.mark.schema)?;
    let mut rows = Rows(restoring);
    read_bundle(bundle, &root.bundle_key(), &end, &mut rows)?;
    let Rows(mut restoring) = rows;
    for row in restoring.rows_of("lanes") {
        let state = row.get("state").and_then(Value::as_str);
        let state: Option<LaneState> = state.and_then(|json| serde_json::from_str(json).ok());
        let resumed = state.unwrap_or_default().resumed();
        let json = serde_json::to_string(&resumed)
            .map_err(|_| BundleError::Content("a lane has no JSON".to_owned()))?;
        row.insert("state".to_owned(), Value::String(json));
    }
    let count = restoring.finish()?;
    let mut store = Store::open(path)?;
    let cohorts = store.view().cohorts()?;
    let cancel = serde_json::to_string(&AggregatorInput::Cancel)
        .map_err(|_| BundleError::Content("an input has no JSON".to_owned()))?;
    let seen = end.mark.inc.max(now.0.saturating_sub(1));
    // The log of an aggregator is not in bundles of earlier releases: such a cohort can not go on.
    let mut logless: BTreeSet<CohortId> = BTreeSet::new();
    for row in cohorts.iter().filter(|row| row.role == Role::Aggregator) {
        if store.view().log_tail(row.cohort, row.role, 1)?.is_empty() {
            logless.insert(row.cohort);
        }
    }
    let without_log = |row: &&CohortRow| {
        row.role == Role::Aggregator && row.ended.is_none() && logless.contains(&row.cohort)
    };
    let inc = store.transaction::<_, StoreError>(|tx| {
        for row in cohorts.iter().filter(without_log) {
            tx.append(&NewLogEntry {
                cohort: row.cohort,
                role: row.role,
                at: now,
                kind: "cancel",
                input: &cancel,
                outcome: "\"accepted\"",
            })?;
            let why = "\"restored from a bundle without an aggregator's log\"";
            tx.end_cohort(row.cohort, row.role, "ended", now, why)?;
        }
        tx.set_meta(RECOVERED, "1")?;
        tx.raise_incarnation(seen)
    })?;
    let dids = store
        .view()
        .dids()?
        .iter()
        .map(check_did)
        .collect::<Result<_, _>>()?;
    let cohorts = cohorts
        .iter()
        .map(|row| RecoveredCohort {
            cohort: row.cohort,
            role: row.role,
            resumes: row.ended.is_none() && !without_log(&row),
            state: row.state.clone(),
        })
        .collect();
    Ok(Recovered {
        end,
        inc,
        dids,
        cohorts,
        rows: count,
    })
}

/// A DID of a bundle is what its identifier says, or the bundle is not one to go on with.
fn check_did(row: &DidRow) -> Result<RecoveredDid, BundleError> {
    let wrong = |what: &str| BundleError::Content(format!("{what} of {}", row.did));
    let did: Did = row.did.parse().map_err(|_| wrong("the identifier"))?;
    let known = match &row.genesis {
        Some(genesis) => GenesisDocument::parse(genesis).is_ok_and(|genesis| genesis.matches(&did)),
        None => initial_key_document(&did).is_some(),
    };
    if !known {
        return Err(wrong("the genesis document"));
    }
    Ok(RecoveredDid {
        did: row.did.clone(),
        version: row.version,
        lacks: Vec::new(),
    })
}

struct Rows(Restoring);

impl BundleReader for Rows {
    fn row(&mut self, table: &str, key: &str, row: Option<&str>) -> Result<(), BundleError> {
        Ok(self.0.row(table, key, row)?)
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".recovering");
    PathBuf::from(beside)
}

/// Removes what an attempt left, SQLite's companions included.
fn clear(path: &Path) {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        let _ = std::fs::remove_file(PathBuf::from(file));
    }
}

/// The number of the key of a k1 DID, if it is one of these words.
#[must_use]
pub fn key_number(root: &RootSecret, did: &Did) -> Option<u32> {
    (0..KEYS_TRIED).find(|number| key_did(root, did.network(), *number).as_ref() == Ok(did))
}

/// The k1 DID of a key.
///
/// # Errors
/// [`CounterTooLarge`] above 2³¹.
pub fn key_did(root: &RootSecret, network: Network, number: u32) -> Result<Did, CounterTooLarge> {
    let key = root.did_key(network, number)?;
    Ok(Did::from_key(network, &key.public().even_point()))
}

/// Makes the store at `path`, which must not exist, out of the words alone: with these k1 DIDs, by the numbers of
/// their keys.
///
/// # Errors
/// [`StoreError`]; nothing was written then.
pub fn restore_words(
    path: &Path,
    root: &RootSecret,
    dids: &[(Network, u32)],
    now: UnixTime,
) -> Result<u64, BundleError> {
    let beside = beside(path);
    clear(&beside);
    let made = (|| {
        let mut store = Store::open(&beside)?;
        store.transaction::<_, BundleError>(|tx| {
            for (network, number) in dids {
                let unknown = |_| BundleError::Content(format!("there is no key number {number}"));
                let did = key_did(root, *network, *number).map_err(unknown)?;
                let document = initial_key_document(&did).ok_or_else(|| {
                    BundleError::Content("a k1 DID without a document".to_owned())
                })?;
                let document = String::from_utf8(document.canonical_bytes())
                    .map_err(|_| BundleError::Content("a document that is no text".to_owned()))?;
                let name = format!("{did}#{INITIAL_KEY}");
                tx.put_did(&DidRow {
                    did: did.to_string(),
                    network: *network,
                    kind: "k1".into(),
                    key_index: Some(*number),
                    genesis: None,
                    document,
                    version: 1,
                    state: super::dids::did_state::ACTIVE.into(),
                    created: now,
                })?;
                tx.put_did_key(&DidKeyRow {
                    did: did.to_string(),
                    key_index: *number,
                    name,
                    created: now,
                })?;
            }
            // Seats may be found, and with them what was announced: that is read before anything is.
            super::seats::mark_words_alone(tx, now)?;
            super::former::read_since(tx, now.minus(WORDS_REACH_SECONDS))?;
            Ok(tx.raise_incarnation(now.0.saturating_sub(1))?)
        })
    })();
    let made = made.and_then(|inc| {
        std::fs::rename(&beside, path).map_err(|source| BundleError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        })?;
        Ok(inc)
    });
    if made.is_err() {
        clear(&beside);
    }
    made
}

/// Notes in a copy of a store that it is one.
pub(super) fn mark_copy(tx: &Tx<'_>, at: UnixTime) -> Result<(), StoreError> {
    tx.set_meta(COPIED, &at.to_string())
}

/// When the copy was made, if the store is one that was not used yet.
///
/// # Errors
/// [`StoreError`] if reading fails.
pub fn copied_at(view: &View<'_>) -> Result<Option<UnixTime>, StoreError> {
    let text = view.meta(COPIED)?;
    Ok(text.and_then(|text| text.parse().ok()).map(UnixTime))
}

/// Makes a copy of a store one to go on with, before anything is sent from it. Gives its new incarnation if it was a
/// copy.
///
/// # Errors
/// [`StoreError`]; the store is as it was then.
pub fn settle_copy(store: &mut Store, now: UnixTime) -> Result<Option<u64>, StoreError> {
    match copied_at(&store.view())? {
        Some(_) => begin_anew(store, now).map(Some),
        None => Ok(None),
    }
}

/// Begins a new incarnation of a store whose agent did something, here or in another copy, that the store does not
/// know: after a restore, or when another copy was seen. All numbers begin again; memberships leave an open round, and
/// so does what this agent is the aggregator of.
///
/// # Errors
/// [`StoreError`]; the store is as it was then.
pub fn begin_anew(store: &mut Store, now: UnixTime) -> Result<u64, StoreError> {
    let unreadable = |detail: serde_json::Error| StoreError::Damaged {
        detail: format!("a lane: {detail}"),
    };
    store.transaction(|tx| {
        let cohorts: BTreeSet<CohortId> = tx.cohorts()?.iter().map(|row| row.cohort).collect();
        for cohort in cohorts {
            for row in tx.lanes_of(cohort)? {
                let state: LaneState = serde_json::from_str(&row.state).map_err(unreadable)?;
                let json = serde_json::to_string(&state.resumed()).map_err(unreadable)?;
                tx.set_lane(row.lane, &json)?;
            }
        }
        let seen = super::copies::seen(tx)?.map_or(0, |sighting| sighting.inc);
        super::copies::forget(tx)?;
        tx.set_meta(COPIED, "")?;
        tx.set_meta(RECOVERED, "1")?;
        // Above what any copy restored earlier took.
        tx.raise_incarnation(seen.max(now.0.saturating_sub(1)))
    })
}

/// Whether the store was restored and its agent did not start since.
pub(super) fn is_restored(view: &View<'_>) -> Result<bool, StoreError> {
    Ok(view.meta(RECOVERED)?.as_deref() == Some("1"))
}

impl Agent {
    /// What an earlier incarnation had not delivered is said again under this one, for peers ignore the numbers of
    /// that. Before anything else is sent.
    pub(super) fn reissue_stale(&mut self) -> Result<(), AgentError> {
        let stale = std::mem::take(&mut self.post.stale);
        if stale.is_empty() {
            return Ok(());
        }
        let now = self.now();
        let cohorts: BTreeSet<CohortId> = self.nodes.values().map(|node| node.id.0).collect();
        let relays: BTreeMap<CohortId, BTreeSet<RelayUrl>> = cohorts
            .into_iter()
            .map(|cohort| (cohort, self.write_relays(Some(cohort))))
            .collect();
        let Self {
            nodes,
            store,
            post,
            conversations,
            ..
        } = self;
        store.transaction::<_, AgentError>(|tx| {
            // All of them first: a number may be free again only then.
            for row in &stale {
                Post::close_stale(tx, row)?;
            }
            for row in &stale {
                let node = nodes.values().find(|node| {
                    row.lane.is_some_and(|lane| {
                        lane.cohort == node.id.0 && lane.author == node.own.public()
                    })
                });
                if let Some(node) = node
                    .filter(|_| !crate::protocol::message::OF_A_ROUND.contains(&row.kind.as_str()))
                    && let Some(relays) = relays.get(&node.id.0)
                {
                    post.reissue(tx, conversations, node, row, relays, now)?;
                }
            }
            Ok(())
        })
    }

    /// After the first start of a restored store: memberships are told, and what may not have arrived is said again.
    /// Whether this was one.
    pub(super) fn resume_recovered(&mut self) -> Result<bool, AgentError> {
        if !is_restored(&self.store.view())? {
            return Ok(false);
        }
        let aggregated: Vec<NodeId> = self
            .nodes
            .values()
            .filter(|node| node.id.1 == Role::Aggregator && !node.is_over())
            .map(|node| node.id)
            .collect();
        for id in aggregated {
            self.feed(id, NodeInput::Aggregator(AggregatorInput::Restored))?;
        }
        let members: Vec<CohortId> = self
            .nodes
            .values()
            .filter(|node| node.id.1 == Role::Participant)
            .map(|node| node.id.0)
            .collect();
        for cohort in members {
            let recovered = NodeInput::Participant(ParticipantInput::Recovered);
            self.feed((cohort, Role::Participant), recovered)?;
            for did in self.unregistered(cohort)? {
                self.register_did(&did, cohort)?;
            }
        }
        self.store
            .transaction::<_, AgentError>(|tx| Ok(tx.set_meta(RECOVERED, "0")?))?;
        Ok(true)
    }

    /// DIDs whose registration with a cohort was not answered.
    fn unregistered(&self, cohort: CohortId) -> Result<Vec<Did>, AgentError> {
        let Some(machine) = self.member(cohort) else {
            return Ok(Vec::new());
        };
        let bindings = self
            .store
            .view()
            .bindings_of_cohort(cohort, Role::Participant)?;
        Ok(bindings
            .into_iter()
            .filter(|binding| machine.index_state(&binding.index) == Some(IndexState::Requested))
            .filter_map(|binding| binding.did?.parse().ok())
            .collect())
    }
}
