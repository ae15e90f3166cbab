//! `did update`

use std::io::Read;
use std::path::Path;

use super::Context;
use crate::agent::control::request::{AnnounceBy, AnnounceDid, DidChange, Disclose, UpdateDid};
use crate::agent::control::{Backend as _, ErrorCode, Failure, MAX_REQUEST_BYTES};
use crate::cli::args::{UpdateArgs, ViaArg};
use crate::cli::ask::confirm;
use crate::cli::backend::daemon;
use crate::cli::error::CliError;
use crate::did::DocumentPatch;

impl Context {
    pub(super) async fn update(&self, args: UpdateArgs) -> Result<(), CliError> {
        // Before the daemon is reached: a wrong file is wrong whether it runs or not.
        let changes = changes(&args)?;
        let via = announced_by(&args)?;
        let daemon = daemon(&self.home).await?;
        if args.deactivate && !args.yes && !args.dry_run {
            confirm(
                &format!("{} can never be updated again. Deactivate it?", args.did),
                "--yes",
                "not deactivated",
            )?;
        }
        let update = UpdateDid {
            did: args.did,
            changes,
            via,
            disclose: match (args.deposit, args.hash_only) {
                (true, _) => Some(Disclose::Update),
                (false, true) => Some(Disclose::Hash),
                (false, false) => None,
            },
            dry_run: args.dry_run,
            hand_over: args.hand_over,
        };
        if let AnnounceBy::Singleton { service } = &update.via {
            let announce = AnnounceDid {
                did: update.did.clone(),
                service: service.clone(),
                fee_rate: args.fee_rate,
                dry_run: true,
            };
            return self
                .update_singly(&daemon, update, announce, args.yes)
                .await;
        }
        self.out.view(&daemon.did_update(update).await?)
    }
}

/// The changes in the order `--help` promises.
fn changes(args: &UpdateArgs) -> Result<Vec<DidChange>, Failure> {
    let mut changes = Vec::new();
    if let Some(path) = &args.patch {
        changes.push(DidChange::Patch(read_patch(path)?));
    }
    let ids = |ids: &[String], change: fn(String) -> DidChange| -> Vec<DidChange> {
        ids.iter().cloned().map(change).collect()
    };
    changes.extend(ids(&args.remove_service, |id| DidChange::RemoveService {
        id,
    }));
    changes.extend(ids(&args.remove_beacon, |beacon| DidChange::RemoveBeacon {
        beacon,
    }));
    changes.extend(ids(&args.remove_key, |id| DidChange::RemoveKey { id }));
    changes.extend(ids(&args.rotate_key, |id| DidChange::RotateKey { id }));
    changes.extend(ids(&args.add_key, |id| DidChange::AddKey {
        id: Some(id).filter(|id| !id.is_empty()),
    }));
    changes.extend(args.add_beacon.iter().map(|new| DidChange::AddBeacon {
        id: new.id.clone(),
        beacon: new.beacon.clone(),
    }));
    changes.extend(
        args.add_service
            .iter()
            .map(|service| DidChange::AddService {
                id: service.id.clone(),
                service_type: service.service_type.clone(),
                endpoint: service.endpoint.clone(),
            }),
    );
    if args.deactivate {
        changes.push(DidChange::Deactivate);
    }
    Ok(changes)
}

fn announced_by(args: &UpdateArgs) -> Result<AnnounceBy, Failure> {
    Ok(match (args.via, &args.cohort, &args.service) {
        (ViaArg::Singleton, Some(_), _) => {
            return Err(Failure::new(
                ErrorCode::Usage,
                "--via singleton announces without a cohort",
            )
            .remedy("leave --cohort out"));
        }
        (ViaArg::Singleton, None, service) | (_, None, service @ Some(_)) => {
            AnnounceBy::Singleton {
                service: service.clone(),
            }
        }
        (ViaArg::Cohort, Some(cohort), _) => AnnounceBy::Cohort(cohort.clone()),
        (ViaArg::Cohort, None, None) => AnnounceBy::AnyCohort,
    })
}

/// Reads a patch and checks its form; whether it applies is the agent's to say.
fn read_patch(path: &Path) -> Result<Vec<serde_json::Value>, Failure> {
    let name = if path == Path::new("-") {
        "stdin".to_owned()
    } else {
        path.display().to_string()
    };
    let unreadable = |error| {
        Failure::new(
            ErrorCode::Io,
            format!("the patch {name} can not be read: {error}"),
        )
    };
    let limit = MAX_REQUEST_BYTES as u64;
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    }
    .map_err(unreadable)?;
    if bytes.len() as u64 == limit {
        return Err(Failure::new(
            ErrorCode::TooLarge,
            format!("the patch {name} has {limit} bytes or more"),
        ));
    }
    let not_a_patch = |why: &str| {
        Failure::new(
            ErrorCode::InvalidValue,
            format!("{name} is not an RFC 6902 patch: {why}"),
        )
        .remedy(
            "write an array of operations, such as \
             [{\"op\": \"remove\", \"path\": \"/service/0\"}]",
        )
    };
    // Strictly, and here: once it is a value, a name that was written twice is there once.
    let patch = DocumentPatch::parse(&bytes).map_err(|error| not_a_patch(&error.to_string()))?;
    match patch.value().as_array() {
        Some(operations) if !operations.is_empty() => Ok(operations.clone()),
        _ => Err(not_a_patch("it has no operations")),
    }
}
