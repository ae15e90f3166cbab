//! `tx decode`: what a transaction does, for people.

use std::collections::BTreeMap;

use bitcoin::consensus::encode::deserialize_hex;
use bitcoin::{Address, Amount, OutPoint, ScriptBuf, Transaction, TxOut, Txid};

use super::AgentBackend;
use super::lone_tx::{explain_alone, fee_of, rate_of};
use super::recognising::Recognised;
use crate::agent::control::views as v;
use crate::agent::control::{ErrorCode, Failure, PeerText, request as r};
use crate::agent::launch::store_failure;
use crate::agent::node::{Machine, Node};
use crate::agent::runtime::Agent;
use crate::beacon::cas::CasAnnouncement;
use crate::beacon::explain::{SpendForm, output_in_words, signed_weight_of, spend_form};
use crate::beacon::signal::signal_of;
use crate::hash::SignalBytes;
use crate::network::Network;
use crate::protocol::Round;
use crate::protocol::effect::Artifact;
use crate::store::SpendRow;

/// Commitments shown of one signal.
const MOST_COMMITMENTS: usize = 1_000;

/// An output this agent sees at an address it watches, or knows of a transaction that was signed here.
pub(super) struct Seen {
    pub(super) value: Amount,
    pub(super) address: String,
}

/// What is known of a transaction here.
pub(super) struct Known<'a> {
    /// The cohort it spends from, or pays to.
    pub(super) node: Option<&'a Node>,
    pub(super) spends_beacon: bool,
    /// Which of that cohort's transactions it is.
    pub(super) recognised: Option<Recognised>,
    /// The DID whose own beacon it spends from.
    spend: Option<SpendRow>,
    pub(super) seen: BTreeMap<OutPoint, Seen>,
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
            let known = agent.known_of(&tx, &[])?;
            agent.explain(&tx, &known, &[])
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
        // A rung that was not sent, or what is being signed now.
        let recognised = || {
            let mut nodes = self.nodes.values();
            nodes.find_map(|node| node.recognise(&txid)?.tx)
        };
        stored.or_else(watched).or_else(recognised).ok_or_else(|| {
            Failure::new(
                ErrorCode::NotFound,
                format!("no transaction {txid} is known here"),
            )
            .remedy("give the whole transaction in hex")
        })
    }

    /// What a transaction does, as far as this agent knows. `claimed` is what somebody says it spends, input by input.
    pub(super) fn explain(
        &self,
        tx: &Transaction,
        known: &Known<'_>,
        claimed: &[Option<TxOut>],
    ) -> Result<v::TxView, Failure> {
        let alone = explain_alone(tx, claimed);
        let txid = alone.txid;
        let form = known.node.map(|node| form_of(node, tx));
        let kind = match (known.node, known.spends_beacon, form) {
            (Some(_), true, Some(SpendForm::Signal)) => v::TxKind::Signal,
            (Some(_), true, Some(SpendForm::FallbackSignal)) => v::TxKind::FallbackSignal,
            (Some(_), true, Some(SpendForm::Refund)) => v::TxKind::Refund,
            (Some(_), true, _) => v::TxKind::UnknownSpend,
            _ if known.spend.is_some() => v::TxKind::SingletonSignal,
            (Some(_), false, _) => v::TxKind::Funding,
            (None, ..) => return Ok(self.place(alone)),
        };
        let is_cohort_signal = matches!(kind, v::TxKind::Signal | v::TxKind::FallbackSignal);
        let round = match (known.node, alone.signal) {
            (Some(node), Some(signal)) if is_cohort_signal => self.round_of(node, txid, signal)?,
            (Some(node), None) if kind == v::TxKind::Refund => {
                self.refunded_round(node, known, tx)?
            }
            _ => None,
        };
        let commits_to = match (known.node, alone.signal, round) {
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
        let value = |position: usize, outpoint: &OutPoint| {
            let seen = known.seen.get(outpoint).map(|there| there.value);
            let claimed = || claimed.get(position)?.as_ref().map(|spent| spent.value);
            seen.or_else(claimed).map(Amount::to_sat)
        };
        let fee = fee_of(tx, value).or_else(|| known.spend.as_ref().map(|row| row.fee));
        let weight = signed_weight_of(tx);
        let mut warnings = Vec::new();
        if kind == v::TxKind::UnknownSpend {
            let what = "it spends from the beacon in no form that members sign";
            warnings.push(if alone.signed {
                format!("{what}: the key of the cohort may be known to others")
            } else {
                what.to_owned()
            });
        }
        if is_cohort_signal && round.is_none() {
            warnings.push(
                "no round of this cohort with these 32 bytes is known here: who can not prove what they announce can \
                 not resolve the DIDs that list this beacon"
                    .to_owned(),
            );
        }
        let rung = known
            .recognised
            .as_ref()
            .filter(|_| matches!(kind, v::TxKind::Signal | v::TxKind::Refund) && round.is_some())
            .and_then(|recognised| recognised.rung);
        Ok(self.place(v::TxView {
            text: in_words(kind, known, round, rung),
            kind,
            network,
            cohort: known.node.map(|node| node.id.0),
            name: known
                .node
                .map(|node| node.terms().name.clone())
                .filter(|name| !name.is_empty())
                .map(PeerText::from),
            round,
            rung,
            did: known.spend.as_ref().map(|row| row.did.clone()),
            version: known.spend.as_ref().map(|row| row.target_version),
            commits_to,
            inputs: input_views(tx, known, claimed),
            outputs: output_views(tx, known, network),
            fee_sat: fee,
            fee_rate: fee.map(|fee| rate_of(fee, weight)),
            lock_blocks: alone.lock_blocks.filter(|_| kind == v::TxKind::Refund),
            warnings,
            ..alone
        }))
    }

    /// With its place in the chain.
    fn place(&self, mut view: v::TxView) -> v::TxView {
        let mut histories = self.histories.values();
        let place = histories.find_map(|(history, _)| {
            let height = history.height_of(&view.txid)?;
            Some((height, history.confirmations(height)))
        });
        if let Some((height, confirmations)) = place {
            (view.height, view.confirmations) = (height, Some(confirmations));
        }
        view
    }

    /// What is known of a transaction here; `claimed` is what somebody says it spends, input by input.
    pub(super) fn known_of(
        &self,
        tx: &Transaction,
        claimed: &[Option<TxOut>],
    ) -> Result<Known<'_>, Failure> {
        let view = self.store.view();
        let txid = tx.compute_txid();
        let mut seen = BTreeMap::new();
        for (address, (history, _)) in &self.histories {
            for input in &tx.input {
                if let Some(output) = history.output(&input.previous_output) {
                    let there = Seen {
                        value: output.output.value,
                        address: address.clone(),
                    };
                    seen.insert(input.previous_output, there);
                }
            }
        }
        // The change of a signal that was signed and not sent.
        for node in self.nodes.values() {
            let (Some(script), Some(address)) = (node.script(), node.address()) else {
                continue;
            };
            for input in &tx.input {
                let outpoint = input.previous_output;
                let change = (!seen.contains_key(&outpoint))
                    .then(|| node.recognised_output(&outpoint))
                    .flatten()
                    .filter(|output| output.script_pubkey == script);
                if let Some(change) = change {
                    let there = Seen {
                        value: change.value,
                        address: address.to_string(),
                    };
                    seen.insert(outpoint, there);
                }
            }
        }
        let spends = |node: &Node| {
            let (Some(address), Some(script)) = (node.address(), node.script()) else {
                return false;
            };
            let address = address.to_string();
            let mut claims = claimed.iter().flatten();
            tx.input.iter().any(|input| {
                seen.get(&input.previous_output)
                    .is_some_and(|there| there.address == address)
            }) || claims.any(|spent| spent.script_pubkey == script)
        };
        let pays = |node: &Node| {
            let script = node.script();
            let mut outputs = tx.output.iter();
            script.is_some_and(|script| outputs.any(|output| output.script_pubkey == script))
        };
        let stored = view.transaction(txid).map_err(store_failure)?;
        let recognised = self
            .nodes
            .values()
            .find_map(|node| Some((node, node.recognise(&txid)?)));
        let mut nodes = self.nodes.values();
        let spender = match &recognised {
            Some((node, _)) => Some(*node),
            None => nodes.find(|node| {
                spends(node) || stored.as_ref().is_some_and(|row| row.cohort == node.id.0)
            }),
        };
        Ok(Known {
            node: spender.or_else(|| self.nodes.values().find(|node| pays(node))),
            spends_beacon: spender.is_some(),
            recognised: recognised.map(|(_, recognised)| recognised),
            spend: view.spend(txid).map_err(store_failure)?,
            seen,
        })
    }

    /// The round whose signal leaves what a refund spends; `None` if that was paid in.
    fn refunded_round(
        &self,
        node: &Node,
        known: &Known<'_>,
        tx: &Transaction,
    ) -> Result<Option<Round>, Failure> {
        if let Some(round) = known
            .recognised
            .as_ref()
            .and_then(|recognised| recognised.round)
        {
            return Ok(Some(round));
        }
        let Some(input) = tx.input.first() else {
            return Ok(None);
        };
        let from = input.previous_output.txid;
        let stored = self.store.view().transaction(from).map_err(store_failure)?;
        Ok(stored
            .filter(|row| row.cohort == node.id.0)
            .map(|row| row.round)
            .or_else(|| node.recognise(&from)?.round))
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

fn in_words(kind: v::TxKind, known: &Known<'_>, round: Option<Round>, rung: Option<u8>) -> String {
    let cohort = known
        .node
        .map_or_else(String::new, |node| node.id.0.short());
    let rung = rung.map_or_else(String::new, |rung| format!(", rung {rung},"));
    let of_round = round.map_or_else(
        || "of no round that is known here".to_owned(),
        |round| format!("of round {round}{rung}"),
    );
    match kind {
        v::TxKind::Signal => format!("the signal {of_round} of cohort {cohort}"),
        v::TxKind::FallbackSignal => format!(
            "the signal {of_round} of cohort {cohort}, signed by some of its members through the fallback leaf"
        ),
        v::TxKind::Refund if round.is_some() => {
            format!("a refund of the change of the signal {of_round} of cohort {cohort}")
        }
        v::TxKind::Refund => format!("a refund of what was paid to the beacon of cohort {cohort}"),
        v::TxKind::UnknownSpend => {
            format!("an UNKNOWN SPEND from the beacon of cohort {cohort}")
        }
        v::TxKind::Funding => format!("a payment to the beacon of cohort {cohort}"),
        v::TxKind::SingletonSignal
        | v::TxKind::ForeignSignal
        | v::TxKind::ForeignFallbackSignal
        | v::TxKind::ForeignRefund
        | v::TxKind::Other => match &known.spend {
            Some(row) => format!(
                "the signal that announces the update to version {} of {}",
                row.target_version, row.did
            ),
            None => "nothing of this agent's".to_owned(),
        },
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

fn input_views(
    tx: &Transaction,
    known: &Known<'_>,
    claimed: &[Option<TxOut>],
) -> Vec<v::TxInputView> {
    let beacon = known.node.and_then(Node::address).map(|a| a.to_string());
    tx.input
        .iter()
        .enumerate()
        .map(|(position, input)| {
            let there = known.seen.get(&input.previous_output);
            let claim = claimed.get(position).and_then(Option::as_ref);
            let what = match (there, claim) {
                (Some(there), _) if Some(&there.address) == beacon.as_ref() => {
                    "the beacon's".to_owned()
                }
                (Some(there), _) => there.address.clone(),
                (None, Some(_)) => "as it is said; not known here".to_owned(),
                (None, None) => "not known here".to_owned(),
            };
            let value = there.map(|there| there.value);
            v::TxInputView {
                outpoint: input.previous_output.to_string(),
                value_sat: value
                    .or_else(|| claim.map(|spent| spent.value))
                    .map(Amount::to_sat),
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

fn network_of(row: &SpendRow) -> Option<Network> {
    let did: crate::did::Did = row.did.parse().ok()?;
    Some(did.network())
}
