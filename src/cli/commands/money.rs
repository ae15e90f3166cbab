//! `money …` and `tx …`

use bitcoin::consensus::encode::deserialize_hex;

use super::Context;
use crate::agent::backend::{explain_alone, money_at_rest};
use crate::agent::control::request::{DecodeTx, NoArgs, StopMoney, StopReason, TxRef};
use crate::agent::control::views::TxView;
use crate::agent::control::{Backend as _, ErrorCode, Failure};
use crate::agent::launch;
use crate::agent::money::StopFile;
use crate::cli::args::{MoneyCommand, StopMoneyArgs, TxCommand};
use crate::cli::backend::daemon_if_running;
use crate::cli::error::CliError;
use crate::config::{Home, HomeError};

impl Context {
    pub(super) async fn money(&self, command: MoneyCommand) -> Result<(), CliError> {
        match command {
            MoneyCommand::Stop(args) => self.stop_money(args).await,
            MoneyCommand::Status => {
                if let Some(daemon) = daemon_if_running(&self.home).await? {
                    return self.out.view(&daemon.money_status(NoArgs {}).await?);
                }
                self.money_at_rest()
            }
        }
    }

    /// The file comes first, and by this process: whatever the agent is busy with, it looks for the file before it
    /// spends.
    async fn stop_money(&self, args: StopMoneyArgs) -> Result<(), CliError> {
        let home = launch::home(&self.home)?;
        there_is_a_home(&home)?;
        let reason = args.reason.as_ref().map(StopReason::as_str);
        StopFile::in_home(&home)
            .pull(crate::cli::output::now(), reason)
            .map_err(launch::home_failure)?;
        match daemon_if_running(&self.home).await? {
            Some(daemon) => {
                let stop = StopMoney {
                    reason: args.reason,
                };
                self.out.view(&daemon.money_stop(stop).await?)
            }
            None => self.money_at_rest(),
        }
    }

    fn money_at_rest(&self) -> Result<(), CliError> {
        let home = launch::home(&self.home)?;
        there_is_a_home(&home)?;
        let config = launch::load_config(&home)?;
        self.out.view(&money_at_rest(&home, &config))
    }

    pub(super) async fn tx(&self, command: TxCommand) -> Result<(), CliError> {
        let TxCommand::Decode(args) = command;
        let Some(daemon) = daemon_if_running(&self.home).await? else {
            return self.out.view(&decode_alone(&args.tx)?);
        };
        self.out
            .view(&daemon.tx_decode(DecodeTx { tx: args.tx }).await?)
    }
}

/// What a transaction says by itself.
fn decode_alone(tx: &TxRef) -> Result<TxView, Failure> {
    if tx.txid().is_some() {
        return Err(Failure::new(
            ErrorCode::NotRunning,
            "only a running agent can look for a transaction by its id",
        )
        .remedy("give the whole transaction in hex, or start the agent with `btcr2-agent run`"));
    }
    let tx = deserialize_hex(tx.as_str()).map_err(|error| {
        let message = format!("this is not a transaction: {error}");
        Failure::new(ErrorCode::InvalidValue, message)
    })?;
    Ok(explain_alone(&tx, &[]))
}

/// Refuses a home that is not there. Whatever else is wrong with one, money can be stopped in it.
fn there_is_a_home(home: &Home) -> Result<(), Failure> {
    match home.check() {
        Err(missing @ HomeError::Missing { .. }) => Err(launch::home_failure(missing)),
        Ok(()) | Err(_) => Ok(()),
    }
}
