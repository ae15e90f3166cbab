//! The money gate (rule 11): one object decides on every path that can spend or asks somebody to fund.

use crate::network::Network;

/// Decides whether money may move. There is one per agent; what it permits it permits by a value that
/// the spending and funding functions take, so that no path can forget to ask.
#[derive(Debug, Clone, Copy, Default)]
pub struct MoneyGate {
    closed: bool,
}

/// Permission to spend on, or ask for funds on, one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoneyPermit {
    network: Network,
}

/// Why money may not move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MoneyRefused {
    /// Mainnet is refused until its safeguards are built.
    #[error(
        "mainnet is refused: this version handles test networks only; use signet, testnet4 or regtest"
    )]
    Mainnet,
    /// The operator closed the gate.
    #[error("the operator has closed the money gate")]
    Closed,
}

impl MoneyGate {
    /// A gate that permits test networks.
    #[must_use]
    pub const fn new() -> Self {
        Self { closed: false }
    }

    /// Closes the gate for good: what stops money does not start it again at run time.
    pub const fn close(&mut self) {
        self.closed = true;
    }

    /// Permission for a network, or why there is none.
    pub const fn permit(&self, network: Network) -> Result<MoneyPermit, MoneyRefused> {
        if self.closed {
            return Err(MoneyRefused::Closed);
        }
        if network.carries_value() {
            return Err(MoneyRefused::Mainnet);
        }
        Ok(MoneyPermit { network })
    }
}

impl MoneyPermit {
    /// The network the permission is for.
    #[must_use]
    pub const fn network(&self) -> Network {
        self.network
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mainnet_is_refused_and_test_networks_are_not() {
        let gate = MoneyGate::new();
        for network in Network::ALL {
            let permit = gate.permit(network);
            match network {
                Network::Bitcoin => assert_eq!(permit, Err(MoneyRefused::Mainnet)),
                _ => assert_eq!(permit.unwrap().network(), network),
            }
        }
    }

    #[test]
    fn a_closed_gate_permits_nothing() {
        let mut gate = MoneyGate::new();
        gate.close();
        for network in Network::ALL {
            assert_eq!(gate.permit(network), Err(MoneyRefused::Closed));
        }
    }
}
