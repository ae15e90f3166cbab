//! The explanation of a resolution: what was found, and what became of it.

use std::fmt;

use bitcoin::Txid;
use serde::Serialize;

use super::CasKind;
use super::outcome::Failure;
use crate::did::BeaconKind;
use crate::did::datetime::DateTime;
use crate::hash::{DocumentHash, SignalBytes, UpdateHash};
use crate::time::UnixTime;

/// Every step of a resolution, in its order. As text: a line for each.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(transparent)]
pub struct Walk {
    /// The steps.
    pub steps: Vec<WalkStep>,
}

/// Where data came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum DataSource {
    /// The identifier itself.
    Identifier,
    /// The sidecar.
    Sidecar,
    /// Content-addressed storage.
    Cas,
}

/// A signal on chain, and the beacon it was sent from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SignalRef {
    /// The absolute id of the beacon's service.
    pub service: String,
    /// The beacon's type.
    pub kind: BeaconKind,
    /// The transaction.
    pub txid: Txid,
    /// The height of its block; `None` while it is unconfirmed.
    pub height: Option<u32>,
    /// Its confirmations, as seen from the tip.
    pub confirmations: u32,
    /// The 32 bytes.
    pub signal: SignalBytes,
}

/// One step of a resolution. As JSON: an object with `step`, the name of the variant.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(
    tag = "step",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
#[non_exhaustive]
pub enum WalkStep {
    /// The initial document, version 1.
    Initial {
        /// Where it came from.
        source: DataSource,
        /// Its hash.
        hash: DocumentHash,
    },
    /// The address of a beacon was looked up, once for all time.
    Scanned {
        /// The version whose document lists the beacon.
        version: u64,
        /// The absolute id of the service.
        service: String,
        /// The beacon's type.
        kind: BeaconKind,
        /// Its address.
        address: String,
        /// Signals below this height do not count.
        from_height: u32,
        /// How many signals its address ever sent, the unconfirmed included.
        signals: usize,
    },
    /// A signal, and what it says about the DID.
    Signal {
        /// The signal.
        #[serde(flatten)]
        signal: SignalRef,
        /// What it says.
        #[serde(flatten)]
        said: Said,
    },
    /// An update led to the next version.
    Applied {
        /// The version it led to.
        version: u64,
        /// The update.
        update: UpdateHash,
        /// The signal.
        #[serde(flatten)]
        signal: SignalRef,
    },
    /// An update that was applied already was announced again.
    Duplicate {
        /// The version it led to.
        version: u64,
        /// The update as it was announced the second time.
        update: UpdateHash,
        /// The second signal.
        #[serde(flatten)]
        signal: SignalRef,
    },
    /// An update was not looked at, because the current document does not list its beacon any more.
    Dropped {
        /// The current version.
        version: u64,
        /// The version it would have led to.
        target_version: u64,
        /// The update.
        update: UpdateHash,
        /// The signal.
        #[serde(flatten)]
        signal: SignalRef,
    },
    /// The version that was asked for is reached; what follows is only checked.
    Requested {
        /// The version.
        version: u64,
        /// Median time of the block that ended it, where a time was asked for.
        ended: Option<UnixTime>,
    },
    /// The current document is deactivated: nothing follows.
    Deactivated {
        /// Its version.
        version: u64,
        /// How many announced updates were not looked at any more.
        ignored: usize,
    },
    /// The resolution failed.
    Failed {
        /// The version it had reached, 0 before there was an initial document.
        version: u64,
        /// The signal at which it failed, if it was one.
        at: Option<SignalRef>,
        /// Why.
        failure: Failure,
    },
}

/// What a signal says about the DID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(
    tag = "said",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
#[non_exhaustive]
pub enum Said {
    /// There is an update.
    Update {
        /// Its hash.
        update: UpdateHash,
        /// The version it leads to, as it says.
        target_version: u64,
        /// Where the update came from.
        source: DataSource,
    },
    /// There is no update for this DID.
    NoUpdate,
    /// It is unconfirmed, or not deep enough. Nothing was asked for on its behalf.
    Pending {
        /// The confirmations it needs.
        min_conf: u32,
        /// What it will say then, as far as the sidecar can tell.
        announces: Foreseen,
    },
    /// It lies below the last applied update at the time when its beacon was looked up, and does not count.
    BelowHeight {
        /// From this height on signals count.
        from_height: u32,
    },
    /// What it stands for was not available.
    Missing {
        /// What is missing; `None` for an SMT proof, which only a sidecar has.
        kind: Option<CasKind>,
        /// The hash by which it was looked for.
        hash: SignalBytes,
    },
    /// What it stands for contradicts it, or is malformed.
    Invalid,
}

/// What a signal will say when it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Foreseen {
    /// The sidecar does not hold what is behind it.
    Unknown,
    /// No update for this DID.
    NoUpdate,
    /// An update.
    Update {
        /// Its hash.
        update: UpdateHash,
        /// The version it will lead to, when the sidecar holds the update.
        target_version: Option<u64>,
    },
}

impl Walk {
    pub(super) fn push(&mut self, step: WalkStep) {
        self.steps.push(step);
    }
}

impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl fmt::Display for WalkStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Initial { source, hash } => {
                write!(f, "version 1 from {source}, document hash {hash}")
            }
            Self::Scanned {
                version,
                service,
                kind,
                address,
                from_height,
                signals,
            } => {
                let plural = if *signals == 1 { "" } else { "s" };
                write!(
                    f,
                    "version {version} lists {kind} {} at {address}: {signals} signal{plural}, counted from block {from_height} on",
                    fragment(service)
                )
            }
            Self::Signal { signal, said } => write!(f, "{signal} says: {said}"),
            Self::Applied {
                version,
                update,
                signal,
            } => write!(f, "version {version} by update {update}, {signal}"),
            Self::Duplicate {
                version,
                update,
                signal,
            } => write!(
                f,
                "update {update} to version {version} was announced again, {signal}"
            ),
            Self::Dropped {
                version,
                target_version,
                update,
                signal,
            } => write!(
                f,
                "update {update} to version {target_version} is dropped: version {version} does not list its beacon any more, {signal}"
            ),
            Self::Requested {
                version,
                ended: None,
            } => write!(f, "version {version} is the one that was asked for"),
            Self::Requested {
                version,
                ended: Some(time),
            } => {
                let time = DateTime::from(*time);
                write!(
                    f,
                    "version {version} is the one of the time that was asked for: the next is in a block of {time} (median)"
                )
            }
            Self::Deactivated { version, ignored } => {
                let plural = if *ignored == 1 { "" } else { "s" };
                write!(
                    f,
                    "version {version} is deactivated: nothing follows; {ignored} announced update{plural} not looked at"
                )
            }
            Self::Failed {
                version,
                at: _,
                failure,
            } => write!(f, "failed after version {version}: {failure}"),
        }
    }
}

impl fmt::Display for SignalRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let beacon = fragment(&self.service);
        write!(
            f,
            "signal {} of {beacon} in transaction {} ",
            self.signal, self.txid
        )?;
        match self.height {
            Some(height) => write!(f, "(block {height}, {} confirmations)", self.confirmations),
            None => f.write_str("(unconfirmed)"),
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Update {
                update,
                target_version,
                source,
            } => write!(
                f,
                "update {update} to version {target_version}, from {source}"
            ),
            Self::NoUpdate => f.write_str("no update for this DID"),
            Self::Pending {
                min_conf,
                announces,
            } => write!(
                f,
                "pending until it has {min_conf} confirmations; {announces}"
            ),
            Self::BelowHeight { from_height } => {
                write!(f, "before block {from_height}, so it does not count")
            }
            Self::Missing { kind, hash } => {
                let what = match kind {
                    Some(CasKind::GenesisDocument) => "genesis document",
                    Some(CasKind::Announcement) => "CAS announcement",
                    Some(CasKind::Update) => "update",
                    None => "SMT proof",
                };
                write!(f, "what it stands for is missing ({what} {hash})")
            }
            Self::Invalid => f.write_str("what it stands for is wrong"),
        }
    }
}

impl fmt::Display for Foreseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("what it will say is not in the sidecar"),
            Self::NoUpdate => f.write_str("it has no update for this DID"),
            Self::Update {
                update,
                target_version: None,
            } => write!(f, "it announces update {update}"),
            Self::Update {
                update,
                target_version: Some(version),
            } => write!(f, "it announces update {update} to version {version}"),
        }
    }
}

impl fmt::Display for DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Identifier => "the identifier",
            Self::Sidecar => "the sidecar",
            Self::Cas => "content-addressed storage",
        })
    }
}

/// The part of a DID URL after the DID, for people who know which DID they look at.
fn fragment(url: &str) -> &str {
    url.find('#').and_then(|at| url.get(at..)).unwrap_or(url)
}
