//! The history of a DID, one update after the other: "Process Next Update" of the resolve loop (spec.md §3.4).

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::Address;

use super::finding::{Announcement, Stop};
use super::limits::MAX_APPLIED_BYTES;
use super::objects::Announced;
use super::options::{Strictness, VersionChoice};
use super::outcome::{DocumentMetadata, Failure, Resolved};
use super::walk::{SignalRef, Walk, WalkStep};
use crate::did::update::InvalidUpdate;
use crate::did::verify::{check_times, confirm_duplicate};
use crate::did::{Document, ErrorCode, Rule, SignedUpdate, UpdateFault, verify};
use crate::hash::DocumentHash;
use crate::time::UnixTime;

/// Where the order of the queue comes from: target version, then height; then the order in which signals were
/// found, which the specification leaves open and which is the same for the same chain.
type Place = (u64, u32, usize);

/// The current document, how it came about, and what is announced for it.
#[derive(Debug)]
pub(super) struct History {
    document: Document,
    addresses: BTreeSet<Address>,
    version: u64,
    /// Unsigned hashes of the applied updates, that of version 2 first.
    applied: Vec<DocumentHash>,
    confirmations: u32,
    updated: Option<UnixTime>,
    height: u32,
    queue: BTreeMap<Place, Announcement>,
    queued: usize,
    requested: Option<Resolved>,
    work: usize,
}

impl History {
    /// Starts at version 1.
    pub(super) fn new(document: Document) -> Self {
        Self {
            addresses: addresses(&document),
            document,
            version: 1,
            applied: Vec::new(),
            confirmations: 0,
            updated: None,
            height: 0,
            queue: BTreeMap::new(),
            queued: 0,
            requested: None,
            work: 0,
        }
    }

    pub(super) const fn document(&self) -> &Document {
        &self.document
    }

    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    /// Height of the last applied update, 0 before there was one.
    pub(super) const fn height(&self) -> u32 {
        self.height
    }

    /// Adds what was announced, in the order in which it was found.
    pub(super) fn announce(&mut self, announcements: Vec<Announcement>) {
        for announcement in announcements {
            let target = announcement.update.target_version();
            let place = (target, announcement.block.height, self.queued);
            self.queue.insert(place, announcement);
            self.queued += 1;
        }
    }

    /// Processes updates up to and including one that changes the document, whose new beacons have to be looked
    /// up before the next; `None` says so. Otherwise the result.
    pub(super) fn process_next(
        &mut self,
        choice: Option<VersionChoice>,
        strictness: Strictness,
        walk: &mut Walk,
    ) -> Result<Option<Resolved>, Stop> {
        loop {
            if choice == Some(VersionChoice::Id(self.version)) {
                self.reach(None, walk);
            }
            let next = if self.document.is_deactivated() {
                walk.push(WalkStep::Deactivated {
                    version: self.version,
                    ignored: self.queue.len(),
                });
                None
            } else {
                self.queue.pop_first()
            };
            let Some(((target, ..), next)) = next else {
                return self.result(choice).map(Some);
            };
            if !self.addresses.contains(&next.address) {
                walk.push(WalkStep::Dropped {
                    version: self.version,
                    target_version: target,
                    update: next.hash,
                    signal: next.signal,
                });
                continue;
            }
            if let Some(VersionChoice::Time(time)) = choice
                && target > self.version
                && next.block.median_time > time
            {
                self.reach(Some(next.block.median_time), walk);
            }
            if target > self.version {
                self.apply(next, strictness, walk)?;
                return Ok(None);
            }
            self.confirm_duplicate(next, walk)?;
        }
    }

    /// Keeps the current state as the one that was asked for, if that was not reached before.
    fn reach(&mut self, ended: Option<UnixTime>, walk: &mut Walk) {
        if self.requested.is_none() {
            self.requested = Some(self.current());
            walk.push(WalkStep::Requested {
                version: self.version,
                ended,
            });
        }
    }

    fn current(&self) -> Resolved {
        Resolved {
            document: self.document.clone(),
            metadata: DocumentMetadata {
                version_id: self.version,
                confirmations: self.confirmations,
                deactivated: self.document.is_deactivated(),
                updated: self.updated,
            },
        }
    }

    /// Nothing is left to process.
    fn result(&mut self, choice: Option<VersionChoice>) -> Result<Resolved, Stop> {
        match (self.requested.take(), choice) {
            (Some(requested), _) => Ok(requested),
            (None, Some(VersionChoice::Id(_))) => {
                let message = format!(
                    "the version that was asked for does not exist; the latest is {}",
                    self.version
                );
                Err(Failure::new(ErrorCode::NotFound, message).into())
            }
            (None, _) => Ok(self.current()),
        }
    }

    fn confirm_duplicate(&self, next: Announcement, walk: &mut Walk) -> Result<(), Stop> {
        let target = next.update.target_version();
        let confirmed = match &next.update {
            Announced::Update(update) => confirm_duplicate(update, &self.applied),
            Announced::Malformed { fault, .. } if target < 2 => {
                let failure = Failure::new(ErrorCode::InvalidDidUpdate, at(&next, fault));
                return Err(stop(failure, next.signal));
            }
            Announced::Malformed { unsigned_hash, .. } => {
                let index = usize::try_from(target - 2).ok();
                let applied = index.and_then(|index| self.applied.get(index));
                let same = applied == Some(unsigned_hash);
                same.then_some(()).ok_or(UpdateFault::Duplicate { target })
            }
        };
        if let Err(fault) = confirmed {
            return Err(broken(next, &fault));
        }
        walk.push(WalkStep::Duplicate {
            version: target,
            update: next.hash,
            signal: next.signal,
        });
        Ok(())
    }

    fn apply(
        &mut self,
        next: Announcement,
        strictness: Strictness,
        walk: &mut Walk,
    ) -> Result<(), Stop> {
        let update = match &next.update {
            Announced::Update(update) => update,
            Announced::Malformed { target_version, .. } if *target_version - self.version > 1 => {
                let fault = UpdateFault::VersionSkip {
                    current: self.version,
                    target: *target_version,
                };
                return Err(broken(next, &fault));
            }
            Announced::Malformed { fault, .. } => {
                let failure = Failure {
                    code: fault.code(),
                    rule: rule_of(fault),
                    message: at(&next, fault),
                };
                return Err(stop(failure, next.signal));
            }
        };
        let document = match self.verified(update, &next, strictness) {
            Ok(document) => document,
            Err(fault) => return Err(broken(next, &fault)),
        };
        self.work = self
            .work
            .saturating_add(document.canonical_bytes().len())
            .saturating_add(update.canonical_bytes().len());
        if self.work > MAX_APPLIED_BYTES {
            let message = format!(
                "the updates of this DID take more than {MAX_APPLIED_BYTES} bytes of documents to work through, more than this resolver does"
            );
            let failure = Failure::new(ErrorCode::InternalError, message);
            return Err(stop(failure, next.signal));
        }
        self.addresses = addresses(&document);
        self.document = document;
        self.version += 1;
        self.applied.push(update.unsigned_hash());
        self.confirmations = next.signal.confirmations;
        self.updated = Some(next.block.time);
        self.height = next.block.height;
        walk.push(WalkStep::Applied {
            version: self.version,
            update: next.hash,
            signal: next.signal,
        });
        Ok(())
    }

    fn verified(
        &self,
        update: &SignedUpdate,
        next: &Announcement,
        strictness: Strictness,
    ) -> Result<Document, UpdateFault> {
        let document = verify(update, &self.document, self.version, strictness.verify)?;
        check_times(update, next.block.time, next.block.median_time)?;
        Ok(document)
    }
}

fn addresses(document: &Document) -> BTreeSet<Address> {
    let beacons = document.beacons().iter();
    beacons.map(|beacon| beacon.address.clone()).collect()
}

fn broken(next: Announcement, fault: &UpdateFault) -> Stop {
    let failure = Failure::broken(fault.rule(), at(&next, fault));
    stop(failure, next.signal)
}

fn stop(failure: Failure, signal: SignalRef) -> Stop {
    Stop {
        failure,
        signal: Some(Box::new(signal)),
    }
}

fn at(next: &Announcement, fault: impl std::fmt::Display) -> String {
    format!(
        "the update {} to version {}, announced by transaction {} in block {}: {fault}",
        next.hash,
        next.update.target_version(),
        next.signal.txid,
        next.block.height,
    )
}

/// The rule behind a malformed member, where there is one.
const fn rule_of(fault: &InvalidUpdate) -> Option<Rule> {
    match fault {
        InvalidUpdate::Patch => Some(Rule::PatchApplyFailure),
        InvalidUpdate::Proof => Some(Rule::ProofNotVerified),
        InvalidUpdate::Hash { name, .. } => {
            if matches!(name.as_bytes(), b"sourceHash") {
                Some(Rule::SourceHashMismatch)
            } else {
                Some(Rule::TargetHashMismatch)
            }
        }
        _ => None,
    }
}
