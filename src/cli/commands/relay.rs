//! `relay …`, `follow` and `unfollow`

use super::Context;
use crate::agent::control::Backend as _;
use crate::agent::control::request::{AddRelay, Follow, NoArgs, ProbeRelays, RemoveRelay};
use crate::cli::args::{FollowArgs, RelayCommand, UnfollowArgs};
use crate::cli::backend::{daemon, daemon_if_running};
use crate::cli::error::CliError;
use crate::cli::local;

impl Context {
    /// A running daemon knows the connections and applies changes at once; without one the files
    /// are read and changed.
    pub(super) async fn relay(&self, command: RelayCommand) -> Result<(), CliError> {
        let daemon = daemon_if_running(&self.home).await?;
        match command {
            RelayCommand::List => self.out.view(&match daemon {
                Some(daemon) => daemon.relay_list(NoArgs {}).await?,
                None => local::relay_list(&self.home)?,
            }),
            RelayCommand::Add(args) => {
                let add = AddRelay {
                    url: args.url,
                    read: !args.write_only,
                    write: !args.read_only,
                    networks: args.networks,
                };
                self.out.view(&match daemon {
                    Some(daemon) => daemon.relay_add(add).await?,
                    None => local::relay_add(&self.home, add)?,
                })
            }
            RelayCommand::Remove(args) => {
                let remove = RemoveRelay { url: args.url };
                self.out.view(&match daemon {
                    Some(daemon) => daemon.relay_remove(remove).await?,
                    None => local::relay_remove(&self.home, remove)?,
                })
            }
            RelayCommand::Probe(args) => {
                let probe = ProbeRelays {
                    urls: args.urls,
                    timeout_s: args.timeout,
                };
                self.out.view(&match daemon {
                    Some(daemon) => daemon.relay_probe(probe).await?,
                    None => local::relay_probe(&self.home, probe).await?,
                })
            }
        }
    }

    pub(super) async fn follow(&self, args: FollowArgs) -> Result<(), CliError> {
        let daemon = daemon(&self.home).await?;
        let follow = Follow {
            aggregator: args.aggregator,
            tell: args.tell,
        };
        self.out.view(&daemon.follow(follow).await?)
    }

    pub(super) async fn unfollow(&self, args: UnfollowArgs) -> Result<(), CliError> {
        let daemon = daemon(&self.home).await?;
        let unfollow = Follow {
            aggregator: args.aggregator,
            tell: false,
        };
        self.out.view(&daemon.unfollow(unfollow).await?)
    }
}
