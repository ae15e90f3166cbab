//! What must hold after every round, read from the members' own files and recomputed here.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::consensus::encode::serialize;
use bitcoin::{OutPoint, Transaction, TxOut, Txid};
use btcr2_agent::beacon::smt::{Leaf, SmtTree};
use btcr2_agent::did::{Document, GenesisDocument, SignedUpdate, VerifyOptions, verify};
use btcr2_agent::hash::{SignalBytes, SmtIndex, UpdateHash, sha256};
use btcr2_agent::network::Network;
use btcr2_agent::protocol::Round;
use btcr2_agent::protocol::effect::Artifact;
use btcr2_agent::protocol::terms::CohortBeacon;
use btcr2_agent::store::{Role, Store};

use super::acts::service_name;
use super::company::{Announced, Company, Known};
use super::play::Play;

impl Play {
    /// Checks a cohort from its first signal to its last.
    pub fn check(&self, company: &Company) {
        self.check_chain(company);
        let artifacts: BTreeMap<usize, Vec<Artifact>> = company
            .members
            .iter()
            .map(|member| (*member, self.artifacts(*member, company)))
            .collect();
        for signal in &company.signals {
            match company.beacon {
                CohortBeacon::Smt => check_tree(company, signal, &artifacts),
                CohortBeacon::Cas => check_announcement(company, signal, &artifacts),
            }
        }
        for (member, artifacts) in &artifacts {
            let signals: BTreeSet<SignalBytes> = artifacts.iter().filter_map(signal_of).collect();
            let sent = company.signals.iter().map(|signal| signal.signal);
            // A member keeps what it signed, and it signed nothing that was not sent.
            let of_rounds = sent.collect::<BTreeSet<_>>();
            assert!(signals.is_subset(&of_rounds), "agent {member} signed more");
        }
        self.check_aggregator(company);
        for known in &company.dids {
            self.check_did(company, known);
        }
    }

    /// What a stopped or running agent has in its file.
    pub fn file(&self, actor: usize) -> Store {
        Store::open_read_only(&self.stage.actors[actor].home.store_path()).unwrap()
    }

    fn artifacts(&self, member: usize, company: &Company) -> Vec<Artifact> {
        let store = self.file(member);
        let rows = store
            .view()
            .artifacts_of_cohort(company.id, Round(0))
            .unwrap();
        rows.iter()
            .map(|row| serde_json::from_slice(&row.bytes).unwrap())
            .collect()
    }

    /// The signals are one chain of transactions at the beacon address, each in its block and each valid
    /// to Bitcoin Core, and there is nothing else.
    fn check_chain(&self, company: &Company) {
        let chain = &self.stage.chain;
        let script = company.address.script_pubkey();
        let history = chain.history(&script).unwrap();
        assert_eq!(history.len(), company.signals.len() + 1);
        let mut tip: Option<OutPoint> = None;
        for signal in &company.signals {
            let block = chain.block(signal.height).unwrap();
            assert!(
                block.txdata.contains(&signal.tx),
                "in the block it should be in"
            );
            assert!(history.iter().any(|entry| {
                entry.height == Some(signal.height) && entry.tx.compute_txid() == signal.txid
            }));
            let tx = &signal.tx;
            assert_eq!(tx.input.len(), 1);
            let input = tx.input[0].previous_output;
            if let Some(tip) = tip {
                assert_eq!(input, tip, "spends the change of the signal before");
            }
            let former = chain.transaction(&input.txid).unwrap().unwrap();
            let prevout = &former.output[usize::try_from(input.vout).unwrap()];
            assert_eq!(prevout.script_pubkey, script);
            check_spend(tx, prevout, company.fallbacks.contains(&signal.round));
            assert_eq!(tx.output.len(), 2);
            assert_eq!(tx.output[0].script_pubkey, script);
            assert!(tx.output[0].value < prevout.value);
            assert_eq!(tx.output[1].value.to_sat(), 0);
            assert_eq!(
                tx.output[1].script_pubkey.as_bytes(),
                op_return(signal.signal)
            );
            tip = Some(OutPoint::new(signal.txid, 0));
        }
        if let [.., last] = company.signals.as_slice()
            && last.txid != company.tip.txid
        {
            // The round just checked: the tip before it is what it spent.
            assert_eq!(last.tx.input[0].previous_output, company.tip);
        }
    }

    /// The aggregator can prove and repeat every signal, and knows them confirmed.
    fn check_aggregator(&self, company: &Company) {
        let store = self.file(company.aggregator);
        let artifacts = self.artifacts(company.aggregator, company);
        for signal in &company.signals {
            let kept = artifacts.iter().any(|artifact| match artifact {
                Artifact::LeafSet {
                    signal: of, leaves, ..
                } => {
                    *of == signal.signal
                        && SmtTree::new(leaves.iter().copied()).unwrap().root() == *of
                }
                Artifact::Announcement {
                    signal: of,
                    announcement,
                    ..
                } => *of == signal.signal && sha256(announcement.as_bytes()) == of.to_bytes(),
                _ => false,
            });
            assert!(
                kept,
                "the aggregator keeps what round {} was made of",
                signal.round
            );
            if company.forgotten.contains(&signal.round) {
                continue;
            }
            let row = store.view().transaction(signal.txid).unwrap().unwrap();
            assert_eq!(row.raw, serialize(&signal.tx));
            assert_eq!(
                (row.state.as_str(), row.height),
                ("confirmed", Some(signal.height))
            );
        }
    }

    /// The stored document is the genesis document with exactly the announced updates, verified again.
    fn check_did(&self, company: &Company, known: &Known) {
        let store = self.file(known.member);
        let row = store.view().did(known.did.as_str()).unwrap().unwrap();
        assert_eq!(row.version, known.version, "{}", known.did);
        assert_eq!(row.state, "active");
        let genesis = GenesisDocument::parse(row.genesis.unwrap()).unwrap();
        assert!(genesis.matches(&known.did));
        let mut document = genesis.document(Network::Regtest).unwrap();
        let address = company.address.to_string();
        assert!(
            document
                .beacons()
                .iter()
                .any(|b| b.address.to_string() == address)
        );
        let mut version = 1;
        for signal in &company.signals {
            let Some(hash) = signal.updates.get(known.did.as_str()) else {
                continue;
            };
            let update = store
                .view()
                .update(known.did.as_str(), version + 1)
                .unwrap();
            let update = update.expect("the announced update is stored");
            assert_eq!(update.hash, *hash);
            assert_eq!(UpdateHash::from_bytes(sha256(&update.bytes)), *hash);
            let signed = SignedUpdate::parse(&update.bytes).unwrap();
            document = verify(&signed, &document, version, VerifyOptions::default()).unwrap();
            version += 1;
        }
        assert_eq!(version, known.version);
        assert_eq!(
            Document::parse(&row.document).unwrap().hash(),
            document.hash()
        );
        for added in 2..=version {
            assert!(row.document.contains(&service_name(added)));
        }
        let binding = store.view().bindings_of(known.did.smt_index()).unwrap();
        assert!(
            binding.iter().any(|b| b.cohort == company.id
                && b.role == Role::Participant
                && b.state == "bound")
        );
    }
}

/// The root over all members' stored proofs is the signal; each member has a proof of each of its indexes.
fn check_tree(company: &Company, signal: &Announced, artifacts: &BTreeMap<usize, Vec<Artifact>>) {
    let mut leaves = BTreeMap::new();
    for (member, artifacts) in artifacts {
        let mut proved: BTreeSet<SmtIndex> = BTreeSet::new();
        for artifact in artifacts {
            let Artifact::SmtProof {
                round,
                index,
                signal: of,
                txid,
                nonce,
                update,
                path,
            } = artifact
            else {
                continue;
            };
            if *of != signal.signal {
                continue;
            }
            assert_eq!(*round, signal.round);
            assert!(names(company, signal, *txid));
            let leaf = Leaf {
                nonce: *nonce,
                update: *update,
            };
            path.verify_leaf_value(index, &leaf.value(), of).unwrap();
            if !leaf.is_empty() {
                assert!(leaves.insert(*index, leaf.value()).is_none());
            }
            let did = company
                .dids
                .iter()
                .find(|known| known.did.smt_index() == *index);
            let did = did.expect("a proof of a DID of this cohort");
            assert_eq!(did.member, *member);
            assert_eq!(update.as_ref(), signal.updates.get(did.did.as_str()));
            proved.insert(*index);
        }
        assert_eq!(
            proved,
            indexes_of(company, *member),
            "agent {member} holds a proof of each DID for round {}",
            signal.round
        );
    }
    assert_eq!(SmtTree::new(leaves).unwrap().root(), signal.signal);
}

/// Every member that has a DID holds the bytes whose hash is the signal, and they say what was announced.
fn check_announcement(
    company: &Company,
    signal: &Announced,
    artifacts: &BTreeMap<usize, Vec<Artifact>>,
) {
    for (member, artifacts) in artifacts {
        let held: Vec<&String> = artifacts
            .iter()
            .filter_map(|artifact| match artifact {
                Artifact::Announcement {
                    round,
                    signal: of,
                    txid,
                    announcement,
                } if *of == signal.signal
                    && *round == signal.round
                    && names(company, signal, *txid) =>
                {
                    Some(announcement)
                }
                _ => None,
            })
            .collect();
        if held.is_empty() {
            assert!(
                indexes_of(company, *member).is_empty(),
                "agent {member} holds nothing"
            );
            continue;
        }
        let [bytes] = held.as_slice() else {
            panic!("agent {member} holds several announcements of one signal");
        };
        assert_eq!(
            SignalBytes::from_bytes(sha256(bytes.as_bytes())),
            signal.signal
        );
        let map: BTreeMap<String, UpdateHash> = serde_json::from_str(bytes).unwrap();
        assert_eq!(map, signal.updates);
    }
}

/// Whether what explains the signal names this transaction: the first that was signed. Through a leaf each is asked for
/// in a message of its own, and mail comes in any order.
fn names(company: &Company, signal: &Announced, txid: Txid) -> bool {
    let any = company.fallbacks.contains(&signal.round) && txid == signal.txid;
    any || txid == signal.first
}

fn indexes_of(company: &Company, member: usize) -> BTreeSet<SmtIndex> {
    let dids = company.dids.iter().filter(|known| known.member == member);
    dids.map(|known| known.did.smt_index()).collect()
}

const fn signal_of(artifact: &Artifact) -> Option<SignalBytes> {
    match artifact {
        Artifact::SmtProof { signal, .. } | Artifact::Announcement { signal, .. } => Some(*signal),
        _ => None,
    }
}

/// `OP_RETURN` and 32 bytes.
fn op_return(signal: SignalBytes) -> Vec<u8> {
    [&[0x6a, 0x20], signal.as_bytes().as_slice()].concat()
}

/// Bitcoin Core's code takes the spend, and refuses it with any one bit of a signature flipped.
fn check_spend(tx: &Transaction, prevout: &TxOut, through_leaf: bool) {
    assert!(verifies(tx, prevout));
    let witness = tx.input[0].witness.to_vec();
    // Through a leaf: one element per key, then the script and the control block.
    let elements = if through_leaf { witness.len() - 2 } else { 1 };
    assert_eq!(witness.len() == 1, !through_leaf, "the path of the spend");
    let signed = (0..elements).filter(|at| !witness[*at].is_empty());
    for at in signed {
        assert_eq!(witness[at].len(), 64);
        for byte in [0, 31, 32, 63] {
            let mut broken = witness.clone();
            broken[at][byte] ^= 1;
            let mut forged = tx.clone();
            forged.input[0].witness = bitcoin::Witness::from_slice(&broken);
            assert!(!verifies(&forged, prevout), "byte {byte} does not matter");
        }
    }
}

fn verifies(tx: &Transaction, prevout: &TxOut) -> bool {
    let script = prevout.script_pubkey.as_bytes();
    let spent = bitcoinconsensus::Utxo {
        script_pubkey: script.as_ptr(),
        script_pubkey_len: u32::try_from(script.len()).unwrap(),
        value: i64::try_from(prevout.value.to_sat()).unwrap(),
    };
    let flags = bitcoinconsensus::VERIFY_ALL_PRE_TAPROOT | bitcoinconsensus::VERIFY_TAPROOT;
    let raw = serialize(tx);
    let value = prevout.value.to_sat();
    bitcoinconsensus::verify_with_flags(script, value, &raw, Some(&[spent]), 0, flags).is_ok()
}
