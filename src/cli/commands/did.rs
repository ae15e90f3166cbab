//! `did …`

use std::io::Read;
use std::path::Path;

use super::Context;
use crate::agent::control::request::{
    CreateDid, DidChange, NoArgs, OneDid, RegisterDid, UpdateDid,
};
use crate::agent::control::{Backend as _, ErrorCode, Failure, MAX_REQUEST_BYTES};
use crate::cli::args::{DidCommand, RegisterVia, UpdateArgs};
use crate::cli::ask::confirm;
use crate::cli::backend::daemon;
use crate::cli::error::CliError;

impl Context {
    pub(super) async fn did(&self, command: DidCommand) -> Result<(), CliError> {
        match command {
            DidCommand::Create(args) => {
                let daemon = daemon(&self.home).await?;
                let create = CreateDid {
                    cohort: args.cohort,
                    network: args.network,
                };
                self.out.view(&daemon.did_create(create).await?)
            }
            DidCommand::Announce(args) => self.announce(args).await,
            DidCommand::Register(args) => {
                if let (Some(RegisterVia::Singleton), Some(did)) = (args.via, &args.did) {
                    let binding = super::announce::Binding {
                        did: did.clone(),
                        cohort: args.cohort,
                        service: args.service,
                        fee_rate: args.fee_rate,
                        yes: args.yes,
                    };
                    return self.bind(binding).await;
                }
                let daemon = daemon(&self.home).await?;
                let register = RegisterDid {
                    did: args.did,
                    cohort: args.cohort,
                };
                self.out.view(&daemon.did_register(register).await?)
            }
            DidCommand::Update(args) => self.update(args).await,
            DidCommand::List => {
                let daemon = daemon(&self.home).await?;
                self.out.view(&daemon.did_list(NoArgs {}).await?)
            }
            DidCommand::Resolve(args) => self.resolve(args).await,
            DidCommand::Conform(args) => self.conform(&args).await,
            DidCommand::Show(args) => {
                let daemon = daemon(&self.home).await?;
                self.out
                    .view(&daemon.did_show(OneDid { did: args.did }).await?)
            }
        }
    }

    async fn update(&self, args: UpdateArgs) -> Result<(), CliError> {
        // Before the daemon is reached: a wrong file is wrong whether it runs or not.
        let changes = changes(&args)?;
        let daemon = daemon(&self.home).await?;
        if args.deactivate && !args.yes {
            confirm(
                &format!("{} can never be updated again. Deactivate it?", args.did),
                "--yes",
                "not deactivated",
            )?;
        }
        let update = UpdateDid {
            did: args.did,
            changes,
            cohort: args.cohort,
        };
        self.out.view(&daemon.did_update(update).await?)
    }
}

/// The changes in the order `--help` promises.
fn changes(args: &UpdateArgs) -> Result<Vec<DidChange>, Failure> {
    let mut changes = Vec::new();
    if let Some(path) = &args.patch {
        changes.push(DidChange::Patch(read_patch(path)?));
    }
    changes.extend(
        args.remove_service
            .iter()
            .map(|id| DidChange::RemoveService { id: id.clone() }),
    );
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
    let operations: Vec<serde_json::Value> =
        serde_json::from_slice(&bytes).map_err(|error| not_a_patch(&error.to_string()))?;
    if operations.is_empty() {
        return Err(not_a_patch("it has no operations"));
    }
    serde_json::from_value::<json_patch::Patch>(serde_json::Value::Array(operations.clone()))
        .map_err(|error| not_a_patch(&error.to_string()))?;
    Ok(operations)
}
