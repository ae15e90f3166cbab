//! Finding beacon signals, and reading what each says about the DID (spec.md §3.3).

use bitcoin::Address;

use super::chain::{BlockRef, ChainSignal, SignalBlock};
use super::objects::{Announced, Lookup, Objects, request};
use super::outcome::Failure;
use super::walk::{DataSource, Foreseen, Said, SignalRef, Walk, WalkStep};
use super::{CasKind, Request};
use crate::did::{BeaconKind, BeaconService, ErrorCode};
use crate::hash::{SignalBytes, UpdateHash};

/// A signal that counts, on its way to an update.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) signal: SignalRef,
    pub(super) address: Address,
    pub(super) block: SignalBlock,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The CAS announcement behind it is looked for.
    Announcement,
    /// It announces this update, which is looked for.
    Update(UpdateHash),
    /// It announces this update.
    Found(UpdateHash, Announced, DataSource),
    /// It announces nothing for the DID.
    NoUpdate,
    /// What is behind it is missing or wrong.
    Failed(Failure, Said),
}

/// An update that a signal announced: one tuple of the specification's `updates`.
#[derive(Debug)]
pub(super) struct Announcement {
    pub(super) signal: SignalRef,
    pub(super) address: Address,
    pub(super) block: SignalBlock,
    pub(super) hash: UpdateHash,
    pub(super) update: Announced,
}

/// A failure, and the signal at which it happened.
#[derive(Debug)]
pub(super) struct Stop {
    pub(super) failure: Failure,
    pub(super) signal: Option<Box<SignalRef>>,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            signal: None,
        }
    }
}

/// What decides whether a signal counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Horizon {
    pub(super) tip: BlockRef,
    pub(super) min_conf: u32,
    /// Height of the last applied update: signals below it do not count.
    pub(super) from_height: u32,
}

/// Sorts the signals of one beacon into those that count and the rest, of which only the walk hears.
pub(super) fn find(
    beacon: &BeaconService,
    signals: &[ChainSignal],
    horizon: Horizon,
    objects: &Objects,
    walk: &mut Walk,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for found in signals {
        let confirmations = found.confirmations(horizon.tip);
        let signal = SignalRef {
            service: beacon.id.clone(),
            kind: beacon.kind,
            txid: found.txid,
            height: found.block.map(|block| block.height),
            confirmations,
            signal: found.signal,
        };
        match found.block {
            Some(block) if confirmations >= horizon.min_conf => {
                if block.height < horizon.from_height {
                    let from_height = horizon.from_height;
                    let said = Said::BelowHeight { from_height };
                    walk.push(WalkStep::Signal { signal, said });
                } else {
                    findings.push(Finding {
                        state: first_state(&signal, objects),
                        signal,
                        address: beacon.address.clone(),
                        block,
                    });
                }
            }
            _ => {
                let said = Said::Pending {
                    min_conf: horizon.min_conf,
                    announces: foresee(&signal, objects),
                };
                walk.push(WalkStep::Signal { signal, said });
            }
        }
    }
    findings
}

fn first_state(signal: &SignalRef, objects: &Objects) -> State {
    match signal.kind {
        BeaconKind::Singleton => State::Update(UpdateHash::from_bytes(signal.signal.to_bytes())),
        BeaconKind::Cas => State::Announcement,
        BeaconKind::Smt => match objects.proved(signal.signal) {
            Ok(update) => update.map_or(State::NoUpdate, State::Update),
            Err(failure) => State::failed(failure, None, signal.signal),
        },
    }
}

/// What a signal that does not count yet will say, as far as the sidecar can tell.
fn foresee(signal: &SignalRef, objects: &Objects) -> Foreseen {
    let update = match signal.kind {
        BeaconKind::Singleton => Some(Some(UpdateHash::from_bytes(signal.signal.to_bytes()))),
        BeaconKind::Cas => objects.foreseen(signal.signal),
        BeaconKind::Smt => objects.proved(signal.signal).ok(),
    };
    match update {
        None => Foreseen::Unknown,
        Some(None) => Foreseen::NoUpdate,
        Some(Some(update)) => Foreseen::Update {
            update,
            target_version: objects.foreseen_version(&update),
        },
    }
}

impl State {
    fn failed(failure: Failure, kind: Option<CasKind>, hash: SignalBytes) -> Self {
        let said = match failure.code {
            ErrorCode::MissingUpdateData => Said::Missing { kind, hash },
            _ => Said::Invalid,
        };
        Self::Failed(failure, said)
    }
}

/// Reads findings as far as the data goes. Returns what has to be asked for, or nothing when everything is read.
///
/// Data is only asked for on behalf of signals before the first one that fails: that one decides, whatever
/// order the answers come in.
pub(super) fn read(findings: &mut [Finding], objects: &mut Objects) -> Vec<Request> {
    let mut needs = Vec::new();
    for finding in findings {
        if let Some((hash, kind)) = finding.read(objects) {
            let need = request(hash, kind);
            needs.push(need);
        }
        if matches!(finding.state, State::Failed(..)) {
            break;
        }
    }
    needs.sort_unstable_by_key(|need| match need {
        Request::Cas { hash, kind } => Some((*hash, *kind)),
        Request::Signals { .. } => None,
    });
    needs.dedup();
    needs
}

/// Turns findings that were read into announcements; the first that failed is fatal.
pub(super) fn conclude(findings: Vec<Finding>, walk: &mut Walk) -> Result<Vec<Announcement>, Stop> {
    let mut announcements = Vec::new();
    for finding in findings {
        let Finding {
            signal,
            address,
            block,
            state,
        } = finding;
        let said = match &state {
            State::Found(update, announced, source) => Said::Update {
                update: *update,
                target_version: announced.target_version(),
                source: *source,
            },
            State::NoUpdate => Said::NoUpdate,
            State::Failed(_, said) => said.clone(),
            // Everything was read before.
            State::Announcement | State::Update(_) => continue,
        };
        walk.push(WalkStep::Signal {
            signal: signal.clone(),
            said,
        });
        match state {
            State::Found(hash, update, _) => announcements.push(Announcement {
                signal,
                address,
                block,
                hash,
                update,
            }),
            State::Failed(failure, _) => {
                return Err(Stop {
                    failure,
                    signal: Some(Box::new(signal)),
                });
            }
            _ => (),
        }
    }
    Ok(announcements)
}

impl Finding {
    /// Goes on as far as the data goes; returns what is looked for.
    fn read(&mut self, objects: &mut Objects) -> Option<([u8; 32], CasKind)> {
        let signal = self.signal.signal;
        if matches!(self.state, State::Announcement) {
            self.state = match objects.announced(signal) {
                Lookup::Found(Some(update), _) => State::Update(update),
                Lookup::Found(None, _) => State::NoUpdate,
                Lookup::Failed(failure) => {
                    State::failed(failure, Some(CasKind::Announcement), signal)
                }
                Lookup::Wanted => return Some((signal.to_bytes(), CasKind::Announcement)),
            };
        }
        if let State::Update(hash) = self.state {
            self.state = match objects.update(hash) {
                Lookup::Found(update, source) => State::Found(hash, update, source),
                Lookup::Failed(failure) => {
                    let hash = SignalBytes::from_bytes(hash.to_bytes());
                    State::failed(failure, Some(CasKind::Update), hash)
                }
                Lookup::Wanted => return Some((hash.to_bytes(), CasKind::Update)),
            };
        }
        None
    }
}
