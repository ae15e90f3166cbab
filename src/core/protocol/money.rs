//! The money gate (rule 11): one object decides on every path that can spend or asks somebody to fund.
//!
//! A path asks for a [`MoneyPermit`] of its network, and where an amount is known, holds that against the caps with
//! [`MoneyPermit::to_spend`] or [`MoneyPermit::to_ask`]. `docs/money.md` lists the paths.
//!
//! Mainnet needs two switches that different hands set: a line of the configuration and a flag of the command that
//! starts the agent. The kill switch is asked before every permit, so that it works at once; what it stopped stays
//! stopped until the agent is started again without it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use bitcoin::Amount;

use crate::network::Network;

/// What the operator allows to be done with money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoneyRules {
    /// Whether networks whose coins have a price are switched on: by the configuration *and* by the command.
    pub mainnet: bool,
    /// The highest fee of one transaction.
    pub max_fee: Amount,
    /// The most that is asked for at once.
    pub max_funding: Amount,
    /// The most an address may hold together with what is asked for.
    pub max_balance: Amount,
}

impl Default for MoneyRules {
    fn default() -> Self {
        Self {
            mainnet: false,
            max_fee: Amount::from_sat(50_000),
            max_funding: Amount::from_sat(1_000_000),
            max_balance: Amount::from_sat(2_000_000),
        }
    }
}

/// The kill switch, as the gate asks it. Whoever implements it knows where it is: the core does not.
pub trait KillSwitch: Send + Sync {
    /// Whether money is stopped. Where that can not be told, it is.
    fn is_pulled(&self) -> bool;
}

/// A switch nobody can pull.
#[derive(Debug, Clone, Copy)]
struct NoSwitch;

impl KillSwitch for NoSwitch {
    fn is_pulled(&self) -> bool {
        false
    }
}

/// Decides whether money may move. There is one per agent; what it permits it permits by a value that
/// the spending and funding functions take, so that no path can forget to ask.
pub struct MoneyGate {
    rules: MoneyRules,
    switch: Box<dyn KillSwitch>,
    /// Set once the switch was seen pulled: taking it away does not start money again at run time.
    stopped: AtomicBool,
}

/// Permission to spend on, or ask for funds on, one network. It is for what is done now, and is not kept: the switch
/// may be pulled meanwhile.
#[derive(Debug, PartialEq, Eq)]
pub struct MoneyPermit {
    network: Network,
    rules: MoneyRules,
}

/// Why money may not move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MoneyRefused {
    /// Mainnet is not switched on.
    #[error(
        "mainnet is refused: it is off unless config.toml says `mainnet = true` under [money] and the agent is started \
         with `run --mainnet`; use a test network such as signet"
    )]
    Mainnet,
    /// The kill switch was pulled.
    #[error(
        "money is stopped: nothing is spent and nobody is asked to pay; use `btcr2-agent money status` to see since \
         when, and how it is undone"
    )]
    Stopped,
    /// A transaction costs more than any may.
    #[error("a fee of {} sat is over money.max_fee_sat, {}", fee.to_sat(), limit.to_sat())]
    Fee {
        /// The fee.
        fee: Amount,
        /// The cap.
        limit: Amount,
    },
    /// More would be asked for than at once may be.
    #[error("{} sat are over money.max_funding_sat, {}", amount.to_sat(), limit.to_sat())]
    Funding {
        /// What would be asked for.
        amount: Amount,
        /// The cap.
        limit: Amount,
    },
    /// The address would hold more than one may.
    #[error("the address would hold {} sat, over money.max_balance_sat, {}", balance.to_sat(), limit.to_sat())]
    Balance {
        /// What it would hold.
        balance: Amount,
        /// The cap.
        limit: Amount,
    },
}

impl MoneyGate {
    /// A gate with these rules and this switch.
    #[must_use]
    pub fn new(rules: MoneyRules, switch: Box<dyn KillSwitch>) -> Self {
        Self {
            rules,
            switch,
            stopped: AtomicBool::new(false),
        }
    }

    /// A gate with these rules that only [`Self::stop`] closes.
    #[must_use]
    pub fn without_switch(rules: MoneyRules) -> Self {
        Self::new(rules, Box::new(NoSwitch))
    }

    /// Stops money until the agent is started again. Whoever wants it to outlast that pulls the switch as well.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// Whether money is stopped: the switch is asked.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        if self.switch.is_pulled() {
            self.stop();
        }
        self.stopped.load(Ordering::SeqCst)
    }

    /// What the operator allows.
    #[must_use]
    pub const fn rules(&self) -> &MoneyRules {
        &self.rules
    }

    /// Permission for a network, or why there is none.
    ///
    /// # Errors
    /// [`MoneyRefused::Stopped`], [`MoneyRefused::Mainnet`].
    pub fn permit(&self, network: Network) -> Result<MoneyPermit, MoneyRefused> {
        if self.is_stopped() {
            return Err(MoneyRefused::Stopped);
        }
        if network.carries_value() && !self.rules.mainnet {
            return Err(MoneyRefused::Mainnet);
        }
        Ok(MoneyPermit {
            network,
            rules: self.rules,
        })
    }
}

impl fmt::Debug for MoneyGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MoneyGate")
            .field("rules", &self.rules)
            .field("stopped", &self.stopped)
            .finish_non_exhaustive()
    }
}

impl MoneyPermit {
    /// The network the permission is for.
    #[must_use]
    pub const fn network(&self) -> Network {
        self.network
    }

    /// The same permission, for a transaction that pays this fee.
    ///
    /// # Errors
    /// [`MoneyRefused::Fee`].
    pub fn to_spend(self, fee: Amount) -> Result<Self, MoneyRefused> {
        let limit = self.rules.max_fee;
        if fee > limit {
            return Err(MoneyRefused::Fee { fee, limit });
        }
        Ok(self)
    }

    /// The same permission, for asking somebody to pay `amount` to an address that `holds` something already. What is
    /// asked for nothing passes, whatever the address holds.
    ///
    /// # Errors
    /// [`MoneyRefused::Funding`], [`MoneyRefused::Balance`].
    pub fn to_ask(self, amount: Amount, holds: Amount) -> Result<Self, MoneyRefused> {
        if amount == Amount::ZERO {
            return Ok(self);
        }
        let limit = self.rules.max_funding;
        if amount > limit {
            return Err(MoneyRefused::Funding { amount, limit });
        }
        let limit = self.rules.max_balance;
        let balance = holds.checked_add(amount).unwrap_or(Amount::MAX);
        if balance > limit {
            return Err(MoneyRefused::Balance { balance, limit });
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A switch that a test pulls, and lets go.
    #[derive(Clone, Default)]
    struct Lever(Arc<AtomicBool>);

    impl KillSwitch for Lever {
        fn is_pulled(&self) -> bool {
            self.0.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn mainnet_is_refused_and_test_networks_are_not() {
        let gate = MoneyGate::without_switch(MoneyRules::default());
        for network in Network::ALL {
            let permit = gate.permit(network);
            match network {
                Network::Bitcoin => assert_eq!(permit, Err(MoneyRefused::Mainnet)),
                _ => assert_eq!(permit.unwrap().network(), network),
            }
        }
    }

    #[test]
    fn mainnet_is_permitted_where_it_is_switched_on() {
        let rules = MoneyRules {
            mainnet: true,
            ..MoneyRules::default()
        };
        let gate = MoneyGate::without_switch(rules);
        for network in Network::ALL {
            assert_eq!(gate.permit(network).unwrap().network(), network);
        }
    }

    #[test]
    fn the_switch_works_at_once_and_for_good() {
        let lever = Lever::default();
        let gate = MoneyGate::new(MoneyRules::default(), Box::new(lever.clone()));
        assert!(gate.permit(Network::Regtest).is_ok());
        lever.0.store(true, Ordering::SeqCst);
        for network in Network::ALL {
            assert_eq!(gate.permit(network), Err(MoneyRefused::Stopped));
        }
        lever.0.store(false, Ordering::SeqCst);
        assert_eq!(
            gate.permit(Network::Regtest),
            Err(MoneyRefused::Stopped),
            "letting go of the switch starts nothing"
        );
    }

    #[test]
    fn a_switch_nobody_saw_pulled_changes_nothing() {
        let lever = Lever::default();
        lever.0.store(true, Ordering::SeqCst);
        let gate = MoneyGate::new(MoneyRules::default(), Box::new(lever.clone()));
        lever.0.store(false, Ordering::SeqCst);
        assert!(gate.permit(Network::Signet).is_ok());
        gate.stop();
        assert_eq!(gate.permit(Network::Signet), Err(MoneyRefused::Stopped));
    }

    #[test]
    fn amounts_are_held_against_the_caps() {
        let sat = Amount::from_sat;
        let rules = MoneyRules {
            mainnet: false,
            max_fee: sat(1_000),
            max_funding: sat(5_000),
            max_balance: sat(7_000),
        };
        let gate = MoneyGate::without_switch(rules);
        let permit = || gate.permit(Network::Signet).unwrap();
        assert!(permit().to_spend(sat(1_000)).is_ok());
        assert_eq!(
            permit().to_spend(sat(1_001)),
            Err(MoneyRefused::Fee {
                fee: sat(1_001),
                limit: sat(1_000)
            })
        );
        assert!(permit().to_ask(sat(5_000), sat(2_000)).is_ok());
        assert_eq!(
            permit().to_ask(sat(5_001), Amount::ZERO),
            Err(MoneyRefused::Funding {
                amount: sat(5_001),
                limit: sat(5_000)
            })
        );
        assert_eq!(
            permit().to_ask(sat(5_000), sat(2_001)),
            Err(MoneyRefused::Balance {
                balance: sat(7_001),
                limit: sat(7_000)
            })
        );
        assert!(permit().to_ask(sat(1), Amount::MAX).is_err());
        assert!(
            permit().to_ask(Amount::ZERO, Amount::MAX_MONEY).is_ok(),
            "nothing is asked for"
        );
    }
}
