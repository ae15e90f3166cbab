//! `tx decode`: what a transaction does, for people.

use std::collections::BTreeMap;

use bitcoin::consensus::encode::deserialize_hex;
use bitcoin::{Address, Amount, OutPoint, ScriptBuf, Transaction, Txid};

use super::AgentBackend;
use crate::agent::control::views as v;
use crate::agent::control::{ErrorCode, Failure, PeerText, request as r};
use crate::agent::launch::store_failure;
use crate::agent::node::{Machine, Node};
use crate::agent::runtime::Agent;
use crate::beacon::cas::CasAnnouncement;
use crate::beacon::explain::{SpendForm, is_signed, output_in_words, signed_weight_of, spend_form};
use crate::beacon::signal::signal_of;
use crate::hash::SignalBytes;
use crate::network::Network;
use crate::protocol::Round;
use crate::protocol::effect::Artifact;
use crate::store::SpendRow;

/// Commitments shown of one signal.
const MOST_COMMITMENTS: usize = 1_000;

/// An output this agent sees at an address it watches.
struct Seen {
    value: Amount,
    address: String,
}

/// What is known of a transaction here.
struct Known<'a> {
    /// The cohort it spends from, or pays to.
    node: Option<&'a Node>,
    spends_beacon: bool,
    /// The DID whose own beacon it spends from.
    spend: Option<SpendRow>,
    seen: BTreeMap<OutPoint, Seen>,
}

impl AgentBackend {
    pub(super) async fn decode(&self, args: r::DecodeTx) -> Result<v::TxView, Failure> {
        self.with(move |agent| {
            let tx = match args.tx.txid() {
                Some(txid) => agent.find_transaction(txid)?,
                None => deserialize_hex(args.tx.as_str()).map_err(|error| {
                    Failure::new(
                        ErrorCode::InvalidValue,
                        format!("this is not a transaction: {error}"),
                    )
                })?,
            };
            agent.explain(&tx)
        })
        .await
    }
}

impl Agent {
    /// A transaction that is stored here or lies at a watched address.
    fn find_transaction(&self, txid: Txid) -> Result<Transaction, Failure> {
        let view = self.store.view();
        let stored = match view.transaction(txid).map_err(store_failure)? {
            Some(row) => Some(row.raw),
            None => view.spend(txid).map_err(store_failure)?.map(|row| row.raw),
        };
        let stored = stored.and_then(|raw| bitcoin::consensus::deserialize(&raw).ok());
        let watched = || {
            let mut histories = self.histories.values();
            histories.find_map(|(history, _)| history.transaction(&txid).cloned())
        };
        stored.or_else(watched).ok_or_else(|| {
            Failure::new(
                ErrorCode::NotFound,
                format!("no transaction {txid} is known here"),
            )
            .remedy("give the whole transaction in hex")
        })
    }

    /// What a transaction does, as far as this agent knows.
    pub(super) fn explain(&self, tx: &Transaction) -> Result<v::TxView, Failure> {
        let txid = tx.compute_txid();
        let known = self.known_of(tx)?;
        let signal = signal_of(tx);
        let form = known.node.map(|node| form_of(node, tx));
        let kind = match (known.node, known.spends_beacon, form) {
            (Some(_), true, Some(SpendForm::Signal)) => v::TxKind::Signal,
            (Some(_), true, Some(SpendForm::FallbackSignal)) => v::TxKind::FallbackSignal,
            (Some(_), true, Some(SpendForm::Refund)) => v::TxKind::Refund,
            (Some(_), true, _) => v::TxKind::UnknownSpend,
            _ if known.spend.is_some() => v::TxKind::SingletonSignal,
            (Some(_), false, _) => v::TxKind::Funding,
            (None, ..) if signal.is_some() => v::TxKind::ForeignSignal,
            (None, ..) => v::TxKind::Other,
        };
        let is_cohort_signal = matches!(kind, v::TxKind::Signal | v::TxKind::FallbackSignal);
        let round = match (known.node, signal) {
            (Some(node), Some(signal)) if is_cohort_signal => self.round_of(node, txid, signal)?,
            _ => None,
        };
        let commits_to = match (known.node, signal, round) {
            (Some(node), Some(signal), Some(round)) => self.commitments(node, round, signal)?,
            _ => known
                .spend
                .iter()
                .filter_map(singleton_commitment)
                .collect(),
        };
        let network = known
            .node
            .map(|node| node.terms().network)
            .or_else(|| network_of(known.spend.as_ref()?));
        let fee = fee_of(tx, &known.seen).or_else(|| known.spend.as_ref().map(|row| row.fee));
        let weight = signed_weight_of(tx);
        let (height, confirmations) = self.place_of(&txid);
        let mut warnings = Vec::new();
        if kind == v::TxKind::UnknownSpend {
            warnings.push(
                "it spends from the beacon in no form that members sign: the key of the cohort may be known to others"
                    .to_owned(),
            );
        }
        if is_cohort_signal && round.is_none() {
            warnings.push(
                "no round of this cohort with these 32 bytes is known here: who can not prove what they announce can \
                 not resolve the DIDs that list this beacon"
                    .to_owned(),
            );
        }
        Ok(v::TxView {
            txid,
            kind,
            text: in_words(kind, &known, round),
            network,
            cohort: known.node.map(|node| node.id.0),
            name: known
                .node
                .map(|node| node.terms().name.clone())
                .filter(|name| !name.is_empty())
                .map(PeerText::from),
            round,
            rung: known
                .node
                .filter(|_| is_cohort_signal)
                .and_then(|node| rung_of(node, &txid)),
            did: known.spend.as_ref().map(|row| row.did.clone()),
            version: known.spend.as_ref().map(|row| row.target_version),
            signal,
            commits_to,
            inputs: input_views(tx, &known),
            outputs: output_views(tx, &known, network),
            fee_sat: fee,
            vsize: weight.to_vbytes_ceil(),
            // In thousandths of a sat/vB, rounded to the nearest.
            fee_rate: fee.map(|fee| {
                let weight = weight.to_wu().max(1);
                let rate = u128::from(fee) * 4_000 + u128::from(weight / 2);
                v::FeeRate(u64::try_from(rate / u128::from(weight)).unwrap_or(u64::MAX))
            }),
            signed: is_signed(tx),
            height,
            confirmations,
            warnings,
        })
    }

    fn known_of(&self, tx: &Transaction) -> Result<Known<'_>, Failure> {
        let view = self.store.view();
        let txid = tx.compute_txid();
        let mut seen = BTreeMap::new();
        for (address, (history, _)) in &self.histories {
            let Some(script) = script_of(address) else {
                continue;
            };
            for output in history.outputs(&script) {
                let there = Seen {
                    value: output.output.value,
                    address: address.clone(),
                };
                seen.insert(output.output.outpoint, there);
            }
        }
        let spends = |node: &Node| {
            let Some(address) = node.address().map(|address| address.to_string()) else {
                return false;
            };
            tx.input.iter().any(|input| {
                seen.get(&input.previous_output)
                    .is_some_and(|there| there.address == address)
            })
        };
        let pays = |node: &Node| {
            let script = node.script();
            let mut outputs = tx.output.iter();
            script.is_some_and(|script| outputs.any(|output| output.script_pubkey == script))
        };
        let stored = view.transaction(txid).map_err(store_failure)?;
        let mut nodes = self.nodes.values();
        let spender = nodes.find(|node| {
            spends(node) || stored.as_ref().is_some_and(|row| row.cohort == node.id.0)
        });
        Ok(Known {
            node: spender.or_else(|| self.nodes.values().find(|node| pays(node))),
            spends_beacon: spender.is_some(),
            spend: view.spend(txid).map_err(store_failure)?,
            seen,
        })
    }

    /// The round that a signal ends.
    fn round_of(
        &self,
        node: &Node,
        txid: Txid,
        signal: SignalBytes,
    ) -> Result<Option<Round>, Failure> {
        let stored = self.store.view().transaction(txid).map_err(store_failure)?;
        let noted = || {
            let mut rounds = node.journal.rounds.iter().rev();
            rounds
                .find(|(_, record)| record.signal == Some(signal))
                .map(|(round, _)| *round)
        };
        Ok(stored.map(|row| row.round).or_else(noted))
    }

    /// What a signal announces: out of the announcement, the own proofs or the leaf set.
    fn commitments(
        &self,
        node: &Node,
        round: Round,
        signal: SignalBytes,
    ) -> Result<Vec<v::CommitmentView>, Failure> {
        let artifacts = self
            .store
            .view()
            .artifacts_of_cohort(node.id.0, round)
            .map_err(store_failure)?;
        let mut by_did = BTreeMap::new();
        let of_signal = artifacts
            .iter()
            .filter(|artifact| artifact.key.signal == Some(signal));
        for artifact in of_signal {
            match serde_json::from_slice::<Artifact>(&artifact.bytes) {
                Ok(Artifact::Announcement { announcement, .. }) => {
                    let any = CasAnnouncement::parse_canonical(announcement.as_bytes(), |_| true);
                    for (did, update) in any.iter().flat_map(CasAnnouncement::iter) {
                        by_did.insert(did.to_owned(), Some(Some(update)));
                    }
                }
                Ok(Artifact::SmtProof { index, update, .. }) => {
                    by_did.insert(self.name_of(&index), Some(update));
                }
                Ok(Artifact::LeafSet { leaves, .. }) => {
                    for (index, _) in leaves {
                        by_did.entry(self.name_of(&index)).or_insert(None);
                    }
                }
                _ => {}
            }
        }
        let views = by_did.into_iter().take(MOST_COMMITMENTS);
        Ok(views
            .map(|(did, said)| v::CommitmentView {
                did,
                update: said.flatten().map(|hash| hash.to_string()),
                says: match said {
                    Some(Some(_)) => "update",
                    Some(None) => "no update",
                    None => "hidden",
                }
                .to_owned(),
            })
            .collect())
    }

    /// Where the chain shows a transaction: its block and its confirmations.
    fn place_of(&self, txid: &Txid) -> (Option<u32>, Option<u32>) {
        self.histories
            .values()
            .find_map(|(history, _)| {
                let height = history.height_of(txid)?;
                Some((height, Some(history.confirmations(height))))
            })
            .unwrap_or((None, None))
    }
}

/// Which rung of a fee ladder a signal is, while its round is not settled.
fn rung_of(node: &Node, txid: &Txid) -> Option<u8> {
    match &node.machine {
        Machine::Aggregator(machine) => machine.unsettled().iter().find_map(|signal| {
            let place = signal.txids().iter().position(|rung| rung == txid)?;
            u8::try_from(place.saturating_add(1)).ok()
        }),
        Machine::Participant(machine) => {
            let mut given = machine.given().iter();
            given
                .find(|given| given.txid == *txid)
                .map(|given| given.rung)
        }
    }
}

fn form_of(node: &Node, tx: &Transaction) -> SpendForm {
    let terms = node.terms();
    let set = match &node.machine {
        Machine::Aggregator(machine) => machine.set(),
        Machine::Participant(machine) => machine.set(),
    };
    let payees = set.map_or_else(Vec::new, |(set, _)| set.refund_scripts(terms));
    spend_form(tx, &payees, terms.refund_blocks)
}

fn in_words(kind: v::TxKind, known: &Known<'_>, round: Option<Round>) -> String {
    let cohort = known
        .node
        .map_or_else(String::new, |node| node.id.0.short());
    let round = round.map_or_else(
        || "of no round that is known here".to_owned(),
        |round| format!("of round {round}"),
    );
    match kind {
        v::TxKind::Signal => format!("the signal {round} of cohort {cohort}"),
        v::TxKind::FallbackSignal => format!(
            "the signal {round} of cohort {cohort}, signed by some of its members through the fallback leaf"
        ),
        v::TxKind::Refund => format!("a refund of what lies at the beacon of cohort {cohort}"),
        v::TxKind::UnknownSpend => {
            format!("an UNKNOWN SPEND from the beacon of cohort {cohort}")
        }
        v::TxKind::Funding => format!("a payment to the beacon of cohort {cohort}"),
        v::TxKind::SingletonSignal => match &known.spend {
            Some(row) => format!(
                "the signal that announces the update to version {} of {}",
                row.target_version, row.did
            ),
            None => "the signal of a DID's own beacon".to_owned(),
        },
        v::TxKind::ForeignSignal => {
            "it has the form of a signal, of a beacon that is not known here".to_owned()
        }
        v::TxKind::Other => "nothing of this agent's".to_owned(),
    }
}

fn singleton_commitment(row: &SpendRow) -> Option<v::CommitmentView> {
    let tx: Transaction = bitcoin::consensus::deserialize(&row.raw).ok()?;
    let signal = signal_of(&tx)?;
    let update = crate::hash::UpdateHash::from_bytes(*signal.as_bytes());
    Some(v::CommitmentView {
        did: row.did.clone(),
        update: Some(update.to_string()),
        says: "update".to_owned(),
    })
}

fn fee_of(tx: &Transaction, seen: &BTreeMap<OutPoint, Seen>) -> Option<u64> {
    let spent = tx.input.iter().try_fold(0_u64, |sum, input| {
        sum.checked_add(seen.get(&input.previous_output)?.value.to_sat())
    })?;
    let paid = tx
        .output
        .iter()
        .try_fold(0_u64, |sum, output| sum.checked_add(output.value.to_sat()))?;
    spent.checked_sub(paid)
}

fn input_views(tx: &Transaction, known: &Known<'_>) -> Vec<v::TxInputView> {
    let beacon = known.node.and_then(Node::address).map(|a| a.to_string());
    tx.input
        .iter()
        .map(|input| {
            let there = known.seen.get(&input.previous_output);
            let what = match there {
                Some(there) if Some(&there.address) == beacon.as_ref() => "the beacon's".to_owned(),
                Some(there) => there.address.clone(),
                None => "not known here".to_owned(),
            };
            v::TxInputView {
                outpoint: input.previous_output.to_string(),
                value_sat: there.map(|there| there.value.to_sat()),
                what,
            }
        })
        .collect()
}

fn output_views(
    tx: &Transaction,
    known: &Known<'_>,
    network: Option<Network>,
) -> Vec<v::TxOutputView> {
    let beacon: Option<ScriptBuf> = known.node.and_then(Node::script);
    tx.output
        .iter()
        .enumerate()
        .map(|(position, output)| {
            let address = network.and_then(|network| {
                Address::from_script(&output.script_pubkey, network.bitcoin_network()).ok()
            });
            let script = || output.script_pubkey.to_hex_string();
            v::TxOutputView {
                value_sat: output.value.to_sat(),
                to: address.map_or_else(script, |address| address.to_string()),
                what: output_in_words(tx, position, beacon.as_deref()).to_owned(),
            }
        })
        .collect()
}

fn script_of(address: &str) -> Option<ScriptBuf> {
    let address: Address<bitcoin::address::NetworkUnchecked> = address.parse().ok()?;
    Some(address.assume_checked().script_pubkey())
}

fn network_of(row: &SpendRow) -> Option<Network> {
    let did: crate::did::Did = row.did.parse().ok()?;
    Some(did.network())
}
