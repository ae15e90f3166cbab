//! What the operations on a DID's life take: making it, updating it, leaving a cohort with it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::request::{CohortRef, DidRef};
use crate::did::{BeaconKind, KeyAddress};
use crate::network::Network;

/// Arguments of `did create`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CreateDid {
    /// Bind it to this cohort: register first, then an x1 DID whose genesis document lists the
    /// beacon.
    pub cohort: Option<CohortRef>,
    /// The network; `None` is the cohort's, or the configured one.
    pub network: Option<Network>,
    /// Without a cohort: an x1 DID, whose genesis document lists singleton beacons of a key of their own;
    /// otherwise a k1 DID.
    pub external: bool,
}

/// One change of a DID document. Ids are fragments (`files`), relative (`#files`) or absolute DID URLs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DidChange {
    /// An RFC 6902 patch: an array of operations.
    Patch(Vec<serde_json::Value>),
    /// Adds a service.
    AddService {
        /// Its id.
        id: String,
        /// Its type.
        #[serde(rename = "type")]
        service_type: String,
        /// Its endpoint, a URL.
        endpoint: String,
    },
    /// Removes a service.
    RemoveService {
        /// Its id.
        id: String,
    },
    /// Adds a new key that may update the document.
    AddKey {
        /// The id of its method; `None`: the first free one.
        #[serde(default)]
        id: Option<String>,
    },
    /// Puts a new key in the place of another one, in every relationship it has.
    RotateKey {
        /// The method to replace.
        id: String,
    },
    /// Removes a key.
    RemoveKey {
        /// Its method.
        id: String,
    },
    /// Adds a beacon.
    AddBeacon {
        /// The id of its service; `None`: the first free one.
        #[serde(default)]
        id: Option<String>,
        /// Which.
        beacon: BeaconSpec,
    },
    /// Removes a beacon.
    RemoveBeacon {
        /// Its id or address.
        beacon: String,
    },
    /// Deactivates the DID, for ever.
    Deactivate,
}

/// A beacon to add, as people write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum BeaconSpec {
    /// `cohort:<id>`: the beacon of a cohort this agent is a member of.
    Cohort(CohortRef),
    /// `singleton` or `singleton:<form>`: an address of a new key of this agent.
    Own(KeyAddress),
    /// `<type>,<address>`: any address; of which network shows when it is used.
    Address(BeaconKind, String),
}

/// A text is not a beacon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a beacon is cohort:ID, singleton, singleton:p2tr, singleton:p2wpkh, singleton:p2pkh, or TYPE,ADDRESS with \
     the type SingletonBeacon, SMTBeacon or CASBeacon"
)]
pub struct ParseBeaconError;

impl FromStr for BeaconSpec {
    type Err = ParseBeaconError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(cohort) = text.strip_prefix("cohort:") {
            return cohort
                .parse()
                .map(Self::Cohort)
                .map_err(|_| ParseBeaconError);
        }
        match text {
            "singleton" | "singleton:p2tr" => return Ok(Self::Own(KeyAddress::P2tr)),
            "singleton:p2wpkh" => return Ok(Self::Own(KeyAddress::P2wpkh)),
            "singleton:p2pkh" => return Ok(Self::Own(KeyAddress::P2pkh)),
            _ => {}
        }
        let (kind, address) = text.split_once(',').ok_or(ParseBeaconError)?;
        let kind = BeaconKind::from_name(kind.trim()).ok_or(ParseBeaconError)?;
        let address = address.trim();
        let is_address = !address.is_empty() && address.bytes().all(|b| b.is_ascii_alphanumeric());
        if is_address && address.len() <= 100 {
            Ok(Self::Address(kind, address.to_owned()))
        } else {
            Err(ParseBeaconError)
        }
    }
}

impl fmt::Display for BeaconSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cohort(cohort) => write!(f, "cohort:{cohort}"),
            Self::Own(KeyAddress::P2tr) => f.write_str("singleton:p2tr"),
            Self::Own(KeyAddress::P2wpkh) => f.write_str("singleton:p2wpkh"),
            Self::Own(KeyAddress::P2pkh) => f.write_str("singleton:p2pkh"),
            Self::Address(kind, address) => write!(f, "{kind},{address}"),
        }
    }
}

impl TryFrom<String> for BeaconSpec {
    type Error = ParseBeaconError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<BeaconSpec> for String {
    fn from(spec: BeaconSpec) -> Self {
        spec.to_string()
    }
}

/// What announces an update.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnnounceBy {
    /// The next round of the only cohort whose beacon the document lists.
    #[default]
    AnyCohort,
    /// The next round of this cohort.
    Cohort(CohortRef),
    /// A transaction of its own, from a singleton beacon.
    Singleton {
        /// Its service id; `None`: one that a key of this agent spends from.
        #[serde(default)]
        service: Option<String>,
    },
}

/// What the aggregator is shown of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disclose {
    /// Its hash.
    Hash,
    /// All of it, with what it is verified against.
    Update,
}

/// Arguments of `did update`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateDid {
    /// The DID.
    pub did: DidRef,
    /// What changes, in order; one signed update carries all of it.
    pub changes: Vec<DidChange>,
    /// What announces it.
    #[serde(default)]
    pub via: AnnounceBy,
    /// What the aggregator is shown; `None` is the configured choice.
    #[serde(default)]
    pub disclose: Option<Disclose>,
    /// Only say what would come of it: nothing is signed or stored.
    #[serde(default)]
    pub dry_run: bool,
    /// Also when no key of this agent could make a further update.
    #[serde(default)]
    pub hand_over: bool,
}

/// Arguments of `did withdraw`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WithdrawUpdate {
    /// The DID.
    pub did: DidRef,
    /// The version the update leads to; `None`: the last one.
    #[serde(default)]
    pub version: Option<u64>,
}

/// Arguments of `cohort leave`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaveCohort {
    /// The cohort.
    pub cohort: CohortRef,
    /// Also when a DID has no other beacon that this agent could announce at: it can never be updated again.
    #[serde(default)]
    pub abandon: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beacons_are_read_back_as_they_are_written() {
        for text in [
            "cohort:3f9a0c12",
            "singleton:p2tr",
            "singleton:p2wpkh",
            "singleton:p2pkh",
            "SMTBeacon,bcrt1qqqq",
        ] {
            let spec: BeaconSpec = text.parse().unwrap();
            assert_eq!(spec.to_string(), text);
            let json = serde_json::to_string(&spec).unwrap();
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<BeaconSpec>(&json).unwrap(), spec);
        }
        assert_eq!("singleton".parse(), Ok(BeaconSpec::Own(KeyAddress::P2tr)));
        for text in [
            "",
            "cohort:",
            "cohort:zz",
            "singleton:p2sh",
            "SMTBeacon",
            "SMTBeacon,",
            "Beacon,bcrt1q",
            "SMTBeacon,bcrt1q?x",
        ] {
            assert_eq!(text.parse::<BeaconSpec>(), Err(ParseBeaconError), "{text}");
        }
    }
}
