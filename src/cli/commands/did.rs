//! `did …`

use super::Context;
use crate::agent::control::Backend as _;
use crate::agent::control::request::{CreateDid, NoArgs, OneDid, RegisterDid, WithdrawUpdate};
use crate::cli::args::{DidCommand, RegisterVia};
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
                    external: args.x1,
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
            DidCommand::Update(args) => self.update(*args).await,
            DidCommand::Updates(args) => {
                let daemon = daemon(&self.home).await?;
                self.out
                    .view(&daemon.did_updates(OneDid { did: args.did }).await?)
            }
            DidCommand::Withdraw(args) => {
                let daemon = daemon(&self.home).await?;
                let withdraw = WithdrawUpdate {
                    did: args.did,
                    version: args.version_id,
                };
                self.out.view(&daemon.did_withdraw(withdraw).await?)
            }
            DidCommand::List => {
                let daemon = daemon(&self.home).await?;
                self.out.view(&daemon.did_list(NoArgs {}).await?)
            }
            DidCommand::Sidecar(args) => self.sidecar(args).await,
            DidCommand::Verify(args) => self.verify(args).await,
            DidCommand::Publish(args) => self.publish(&args).await,
            DidCommand::Resolve(args) => self.resolve(args).await,
            DidCommand::Conform(args) => self.conform(&args).await,
            DidCommand::Show(args) => {
                let daemon = daemon(&self.home).await?;
                self.out
                    .view(&daemon.did_show(OneDid { did: args.did }).await?)
            }
        }
    }
}
