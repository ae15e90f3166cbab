//! A member of the net: its core, and what its runtime holds.

use std::collections::BTreeSet;

use btcr2_agent::beacon::address::beacon_address;
use btcr2_agent::did::Did;
use btcr2_agent::did::document::BeaconKind;
use btcr2_agent::did::genesis::GenesisDocument;
use btcr2_agent::did::initial::KeyAddress;
use btcr2_agent::hash::{CohortId, SmtIndex, SmtNonce, UpdateHash, sha256};
use btcr2_agent::keys::{NostrKey, OwnKey, Signer};
use btcr2_agent::network::Network;
use btcr2_agent::protocol::Round;
use btcr2_agent::protocol::effect::{Artifact, Outcome, Report, Step};
use btcr2_agent::protocol::message::{Opening, RawJson};
use btcr2_agent::protocol::participant::{Participant, ParticipantInput, SigningPolicy};
use btcr2_agent::protocol::registration::registration_digest;
use btcr2_agent::protocol::terms::{CohortBeacon, Terms};
use btcr2_agent::time::UnixTime;

use super::net::Net;

/// A fixed key by name.
pub fn key(name: &str) -> OwnKey {
    OwnKey::from_bytes(&sha256(name.as_bytes())).unwrap()
}

/// A fixed update hash by name.
pub fn update(name: &str) -> UpdateHash {
    UpdateHash::from_bytes(sha256(format!("update {name}").as_bytes()))
}

/// A DID and its key.
pub struct MyDid {
    pub did: Did,
    pub index: SmtIndex,
    pub key: OwnKey,
    pub genesis: Option<GenesisDocument>,
}

impl MyDid {
    /// A k1 DID by name.
    pub fn k1(network: Network, name: &str) -> Self {
        let key = key(name);
        let did = Did::from_key(network, &key.keypair().public_key());
        Self {
            index: did.smt_index(),
            did,
            key,
            genesis: None,
        }
    }

    /// An x1 DID whose genesis document lists the beacon.
    pub fn x1(net: &Net, name: &str) -> Self {
        let key = key(name);
        let terms = net.agg.terms();
        let (_, keys) = net.agg.set().unwrap();
        let kind = match terms.beacon {
            CohortBeacon::Smt => BeaconKind::Smt,
            CohortBeacon::Cas => BeaconKind::Cas,
        };
        let genesis = GenesisDocument::for_cohort(
            terms.network,
            &key.keypair().public_key(),
            kind,
            &beacon_address(keys.output_key(), terms.network),
            KeyAddress::P2wpkh,
        )
        .unwrap();
        let did = genesis.did(terms.network);
        Self {
            index: did.smt_index(),
            did,
            key,
            genesis: Some(genesis),
        }
    }

    /// Shows that `seat` speaks for the DID.
    pub fn opening(&self, cohort: &CohortId, seat: NostrKey) -> Opening {
        let digest = registration_digest(cohort, seat, &self.index);
        Opening {
            did: self.did.clone(),
            key: self.key.public(),
            genesis: self.genesis.as_ref().map(|genesis| {
                let text = String::from_utf8(genesis.canonical_bytes()).unwrap();
                Box::new(RawJson(
                    serde_json::value::RawValue::from_string(text).unwrap(),
                ))
            }),
            sig: self.key.sign_digest(&digest),
        }
    }
}

/// One participant with what its runtime holds.
pub struct Node {
    pub key: OwnKey,
    pub signer: Signer,
    pub core: Participant,
    pub dids: Vec<MyDid>,
    pub saved: Vec<Artifact>,
    /// Hashes of the updates it has stored.
    pub updates: Vec<UpdateHash>,
    pub reports: Vec<Report>,
    /// Transactions it gave to the chain.
    pub sent: Vec<bitcoin::Transaction>,
    /// What became of each message, with its type.
    pub outcomes: Vec<(&'static str, Outcome)>,
    /// Whether it sees the chain move.
    pub sees_chain: bool,
    /// Whether it binds a DID as soon as it may.
    pub binds: bool,
    /// Whether the process dies instead of carrying out the next order to sign (or to prepare).
    pub dies_at_sign: bool,
    /// The process ends when an index is to be opened, before that is done.
    pub dies_at_open: bool,
    pub dies_at_prepare: bool,
    /// The process ends when past rounds are to be remembered, before that is done.
    pub dies_at_recall: bool,
    /// Whether it does not get to carrying out the next order to prepare.
    pub hangs_at_prepare: bool,
    /// Whether it has the channel's secret.
    pub in_channel: bool,
    pub policy: SigningPolicy,
    pub used_nonces: BTreeSet<[u8; 66]>,
    pub log: Vec<(UnixTime, ParticipantInput, Step)>,
}

impl Node {
    pub fn me(&self) -> NostrKey {
        self.key.public()
    }

    /// How many rounds it has signed something in.
    pub fn rounds_signed(&self) -> usize {
        let rounds: BTreeSet<Round> = self.core.given().iter().map(|given| given.round).collect();
        rounds.len()
    }

    pub fn alarms(&self) -> Vec<&str> {
        self.reports
            .iter()
            .filter_map(|report| match report {
                Report::Alarm { text } => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }

    /// Reasons for which it did not sign.
    pub fn refusals(&self) -> Vec<&str> {
        self.reports
            .iter()
            .filter_map(|report| match report {
                Report::SignRefused { reason, .. } => Some(reason.as_str()),
                _ => None,
            })
            .collect()
    }
}

/// The SMT nonce of a member's index in a round.
pub fn smt_nonce(seat: NostrKey, round: Round, index: &SmtIndex) -> SmtNonce {
    let mut text = seat.to_bytes().to_vec();
    text.extend_from_slice(&round.0.to_be_bytes());
    text.extend_from_slice(index.as_bytes());
    SmtNonce::from_bytes(sha256(&text))
}

impl Node {
    /// A member by number, with as many DIDs, that has not asked for a seat yet.
    pub fn new(terms: &Terms, i: usize, dids: usize, policy: SigningPolicy) -> Self {
        let name = format!("member {i}");
        let mut signer = Signer::new();
        signer.add_seat(key(&name));
        Self {
            core: Participant::new(terms.clone(), key(&name).public(), policy),
            key: key(&name),
            signer,
            dids: (0..dids)
                .map(|j| MyDid::k1(terms.network, &format!("did {i} {j}")))
                .collect(),
            saved: Vec::new(),
            updates: Vec::new(),
            reports: Vec::new(),
            sent: Vec::new(),
            outcomes: Vec::new(),
            sees_chain: true,
            binds: true,
            dies_at_sign: false,
            dies_at_open: false,
            dies_at_prepare: false,
            dies_at_recall: false,
            hangs_at_prepare: false,
            in_channel: false,
            policy,
            used_nonces: BTreeSet::new(),
            log: Vec::new(),
        }
    }
}
