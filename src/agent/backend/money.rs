//! `money status` and `money stop`.

use super::AgentBackend;
use crate::agent::control::views as v;
use crate::agent::control::{Failure, PeerText, request as r};
use crate::agent::launch::{fee_policy, home_failure, money_rules};
use crate::agent::money::StopFile;
use crate::agent::options::system_clock;
use crate::config::{Config, Home};
use crate::network::Network;
use crate::protocol::money::{KillSwitch as _, MoneyRules};
use crate::time::UnixTime;

impl AgentBackend {
    /// Pulls the kill switch of the home, then stops this process.
    pub(super) async fn stop_money(&self, args: r::StopMoney) -> Result<v::MoneyView, Failure> {
        let reason = args.reason;
        let switch = StopFile::in_home(self.home());
        // Also where the disk is full: this process stops in any case.
        let pulled = switch.pull(system_clock()(), reason.as_ref().map(r::StopReason::as_str));
        self.with(move |agent| {
            agent.stop_money(reason.as_ref().map(r::StopReason::as_str));
            Ok(())
        })
        .await?;
        pulled.map_err(home_failure)?;
        self.money().await
    }

    /// What may be done with money now.
    pub(super) async fn money(&self) -> Result<v::MoneyView, Failure> {
        let (rules, stopped, now) = self
            .with(|agent| Ok((*agent.gate.rules(), agent.gate.is_stopped(), agent.now())))
            .await?;
        let mut view = money_view(self.home(), self.config(), rules, now);
        view.running = true;
        if stopped && view.stopped.is_none() {
            view.stopped = Some(v::StoppedView {
                at: None,
                reason: None,
                file: false,
            });
        }
        Ok(view)
    }
}

/// The same for a home in which no agent runs.
#[must_use]
pub fn money_at_rest(home: &Home, config: &Config) -> v::MoneyView {
    money_view(home, config, money_rules(config, false), system_clock()())
}

fn money_view(home: &Home, config: &Config, rules: MoneyRules, now: UnixTime) -> v::MoneyView {
    let switch = StopFile::in_home(home);
    let whole = |rate: u32| v::FeeRate(u64::from(rate) * 1_000);
    v::MoneyView {
        now,
        running: false,
        stopped: switch.note().map(|note| v::StoppedView {
            at: note.at,
            reason: note.reason.map(PeerText::from),
            file: switch.is_pulled(),
        }),
        switch: switch.path().display().to_string(),
        mainnet: match (rules.mainnet, config.money.mainnet) {
            (true, _) => v::MainnetState::On,
            (false, true) => v::MainnetState::AllowedOnly,
            (false, false) => v::MainnetState::Off,
        },
        max_fee_sat: rules.max_fee.to_sat(),
        max_funding_sat: rules.max_funding.to_sat(),
        max_balance_sat: rules.max_balance.to_sat(),
        fees: Network::ALL
            .into_iter()
            .map(|network| {
                let fees = fee_policy(config, network);
                v::FeeBoundsView {
                    network,
                    floor: whole(fees.floor),
                    ceiling: whole(fees.ceiling),
                    fallback: whole(fees.fallback),
                }
            })
            .collect(),
    }
}
