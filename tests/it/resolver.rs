//! Resolution, from chain data, sidecar and storage to document, metadata and walk.

mod beacons;
mod corpus;
mod hostile;
mod options;
mod properties;
mod rules;
mod storage;
mod upstream;
mod versions;

use bitcoin::Address;
use btcr2_agent::did::{BeaconKind, ErrorCode, KeyAddress};
use btcr2_agent::hash::{SmtNonce, UpdateHash};
use btcr2_agent::network::Network;
use btcr2_agent::resolver::{
    DataSource, Failure, Foreseen, Resolution, ResolutionOptions, Resolved, Said, VersionChoice,
    WalkStep,
};

use crate::synthetic::keypair;

/// An address that is nobody's initial one.
fn address(network: Network, number: u8) -> Address {
    KeyAddress::P2tr.of(network, &keypair(number).public_key())
}

fn version(id: u64) -> ResolutionOptions {
    ResolutionOptions {
        version: Some(VersionChoice::Id(id)),
        ..ResolutionOptions::default()
    }
}

fn resolved(resolution: &Resolution) -> &Resolved {
    match &resolution.outcome {
        Ok(resolved) => resolved,
        Err(failure) => panic!("{failure}\n{}", resolution.walk),
    }
}

fn failure(resolution: &Resolution) -> &Failure {
    resolution.outcome.as_ref().unwrap_err()
}

/// Version, confirmations, whether deactivated, time of the last update.
fn metadata(resolution: &Resolution) -> (u64, u32, bool, Option<u64>) {
    let metadata = resolved(resolution).metadata;
    (
        metadata.version_id,
        metadata.confirmations,
        metadata.deactivated,
        metadata.updated.map(|time| time.0),
    )
}

/// The walk in short: a word or two for each step.
fn outline(resolution: &Resolution) -> Vec<String> {
    let name = |said: &Said| match said {
        Said::Update { target_version, .. } => format!("says {target_version}"),
        Said::NoUpdate => "says nothing".to_owned(),
        Said::Pending { announces, .. } => match announces {
            Foreseen::Unknown => "pending".to_owned(),
            Foreseen::NoUpdate => "pending nothing".to_owned(),
            Foreseen::Update { target_version, .. } => {
                format!(
                    "pending {}",
                    target_version.map_or("?".into(), |v| v.to_string())
                )
            }
        },
        Said::BelowHeight { from_height } => format!("below {from_height}"),
        Said::Missing { .. } => "missing".to_owned(),
        _ => "invalid".to_owned(),
    };
    let steps = resolution.walk.steps.iter();
    steps
        .map(|step| match step {
            WalkStep::Initial { source, .. } => match source {
                DataSource::Identifier => "initial".to_owned(),
                DataSource::Sidecar => "initial from sidecar".to_owned(),
                _ => "initial from storage".to_owned(),
            },
            WalkStep::Scanned {
                service, signals, ..
            } => format!("{} {signals}", service.split('#').nth(1).unwrap()),
            WalkStep::Signal { said, .. } => name(said),
            WalkStep::Applied { version, .. } => format!("applied {version}"),
            WalkStep::Duplicate { version, .. } => format!("duplicate {version}"),
            WalkStep::Dropped { target_version, .. } => format!("dropped {target_version}"),
            WalkStep::Requested { version, .. } => format!("requested {version}"),
            WalkStep::Deactivated { version, ignored } => {
                format!("deactivated {version}, {ignored} ignored")
            }
            WalkStep::Failed { version, .. } => format!("failed after {version}"),
            _ => "unknown".to_owned(),
        })
        .collect()
}

/// Outline without the lines of beacons that sent nothing.
fn short_outline(resolution: &Resolution) -> Vec<String> {
    let outline = outline(resolution).into_iter();
    outline.filter(|line| !line.ends_with(" 0")).collect()
}
