//! The Bitcoin networks a DID can live on (spec.md §1.1).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A Bitcoin network, by its did:btcr2 name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Mainnet.
    Bitcoin,
    /// The default signet.
    Signet,
    /// A private regression-test chain.
    Regtest,
    /// Testnet version 3.
    Testnet3,
    /// Testnet version 4 (BIP-94).
    Testnet4,
    /// Mutinynet, a signet with 30-second blocks. It shares signet's genesis block.
    Mutinynet,
}

/// A network name nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown network {0:?}: use bitcoin, signet, regtest, testnet3, testnet4 or mutinynet")]
pub struct UnknownNetwork(pub String);

impl Network {
    /// Every network, in the order of its did:btcr2 number.
    pub const ALL: [Self; 6] = [
        Self::Bitcoin,
        Self::Signet,
        Self::Regtest,
        Self::Testnet3,
        Self::Testnet4,
        Self::Mutinynet,
    ];

    /// The did:btcr2 network number, 0 to 5 (spec.md §1.1).
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Bitcoin => 0,
            Self::Signet => 1,
            Self::Regtest => 2,
            Self::Testnet3 => 3,
            Self::Testnet4 => 4,
            Self::Mutinynet => 5,
        }
    }

    /// The network with this did:btcr2 number; `None` for reserved (6 to 11) and custom (12 to 15) ones.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Bitcoin),
            1 => Some(Self::Signet),
            2 => Some(Self::Regtest),
            3 => Some(Self::Testnet3),
            4 => Some(Self::Testnet4),
            5 => Some(Self::Mutinynet),
            _ => None,
        }
    }

    /// The name used in DIDs' documents, terms, `n` tags and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bitcoin => "bitcoin",
            Self::Signet => "signet",
            Self::Regtest => "regtest",
            Self::Testnet3 => "testnet3",
            Self::Testnet4 => "testnet4",
            Self::Mutinynet => "mutinynet",
        }
    }

    /// The parameters by which addresses are encoded. Mutinynet uses signet's.
    #[must_use]
    pub const fn bitcoin_network(self) -> bitcoin::Network {
        match self {
            Self::Bitcoin => bitcoin::Network::Bitcoin,
            Self::Signet | Self::Mutinynet => bitcoin::Network::Signet,
            Self::Regtest => bitcoin::Network::Regtest,
            Self::Testnet3 => bitcoin::Network::Testnet,
            Self::Testnet4 => bitcoin::Network::Testnet4,
        }
    }

    /// Whether coins on this network have a price.
    #[must_use]
    pub const fn carries_value(self) -> bool {
        matches!(self, Self::Bitcoin)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Network {
    type Err = UnknownNetwork;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|network| network.name() == text)
            .ok_or_else(|| UnknownNetwork(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_round_trip_and_the_rest_is_refused() {
        for network in Network::ALL {
            assert_eq!(network.name().parse::<Network>().unwrap(), network);
            assert_eq!(Network::from_number(network.number()), Some(network));
        }
        assert_eq!(Network::from_number(6), None);
        assert!("mainnet".parse::<Network>().is_err());
    }
}
