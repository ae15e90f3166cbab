//! The k-of-n leaf: what is signed through it, checked anew, and what the chain takes that was.
//!
//! As in `recheck.rs`, nothing here calls what is under test: the leaf is put together byte by byte
//! (docs/protocol.md, "Fallback"), trees are folded with plain SHA-256, digests come from `rust-bitcoin`.

use std::collections::BTreeMap;

use bitcoin::hashes::Hash as _;
use bitcoin::key::Secp256k1;
use bitcoin::secp256k1::{Message as Digest, schnorr};
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::taproot::TapLeafHash;
use bitcoin::{Amount, OutPoint, ScriptBuf, Transaction, TxOut, Txid, XOnlyPublicKey};
use btcr2_core::beacon::address::beacon_script;
use btcr2_core::hash::{LeafValue, SmtIndex, UpdateHash, sha256, tagged_hash};
use btcr2_core::protocol::Seat;
use btcr2_core::protocol::effect::FallbackOrder;
use btcr2_core::protocol::message::{
    Announced, Entries, FallbackRequest, FallbackSignature, Message, Response,
};
use btcr2_core::protocol::participant::ParticipantInput;
use btcr2_core::protocol::terms::OutputPolicy;

use super::adversary::op_return;
use super::process::Input;
use super::recheck::{canonical_map, check_form, known_values, signal_of};
use super::rng::Rng;
use super::world::World;

/// The weight of an output that is the change, and the most that is too little to be one.
const CHANGE_WEIGHT: u64 = 172;
const MOST_DUST: u64 = 329;

/// The leaf of a cohort.
pub struct Leaf {
    threshold: usize,
    /// Ascending.
    keys: Vec<[u8; 32]>,
    script: Vec<u8>,
    hash: [u8; 32],
}

impl Leaf {
    fn new(mut keys: Vec<[u8; 32]>, threshold: u16) -> Self {
        keys.sort_unstable();
        let mut script = Vec::new();
        for (at, key) in keys.iter().enumerate() {
            script.push(0x20);
            script.extend_from_slice(key);
            // OP_CHECKSIG, then OP_CHECKSIGADD.
            script.push(if at == 0 { 0xac } else { 0xba });
        }
        // OP_1 to OP_16, and OP_NUMEQUAL. Cohorts of a run are that small.
        script.push(0x50 + threshold as u8);
        script.push(0x9c);
        let length = compact_size(script.len());
        let hash = tagged_hash("TapLeaf", &[&[0xc0], &length, &script]);
        Self {
            threshold: threshold.into(),
            keys,
            script,
            hash,
        }
    }

    /// What a transaction weighs when all its inputs are signed through the leaf.
    fn weight(&self, tx: &Transaction) -> u64 {
        let (n, k) = (self.keys.len(), self.threshold);
        let script = self.script.len();
        let witness = 1 + 65 * k + (n - k) + compact_size(script).len() + script + 34;
        let mut plain = tx.clone();
        for input in &mut plain.input {
            input.witness.clear();
        }
        plain.weight().to_wu() + 2 + (witness * tx.input.len()) as u64
    }

    fn digests(&self, tx: &Transaction, spent: &[TxOut]) -> Result<Vec<[u8; 32]>, String> {
        let mut cache = SighashCache::new(tx);
        let hash = TapLeafHash::from_byte_array(self.hash);
        (0..tx.input.len())
            .map(|input| {
                cache
                    .taproot_script_spend_signature_hash(
                        input,
                        &Prevouts::All(spent),
                        hash,
                        TapSighashType::Default,
                    )
                    .map(|digest| digest.to_byte_array())
                    .map_err(|error| error.to_string())
            })
            .collect()
    }
}

fn compact_size(n: usize) -> Vec<u8> {
    if n < 0xfd {
        vec![n as u8]
    } else {
        vec![0xfd, n as u8, (n >> 8) as u8]
    }
}

fn verifies(key: &[u8; 32], digest: &[u8; 32], signature: &[u8]) -> bool {
    let key = XOnlyPublicKey::from_slice(key);
    let signature = schnorr::Signature::from_slice(signature);
    let (Ok(key), Ok(signature)) = (key, signature) else {
        return false;
    };
    let digest = Digest::from_digest(*digest);
    Secp256k1::verification_only()
        .verify_schnorr(&signature, &digest, &key)
        .is_ok()
}

/// The root of a tree with these leaves; `None` if an index is there twice.
fn root(leaves: &[([u8; 32], [u8; 32])]) -> Option<[u8; 32]> {
    let mut empty = vec![sha256(&[0; 64])];
    for level in 0..256 {
        let below = empty[level];
        empty.push(sha256(&[below, below].concat()));
    }
    fn node(leaves: &[([u8; 32], [u8; 32])], depth: usize, empty: &[[u8; 32]]) -> Option<[u8; 32]> {
        match leaves {
            [] => return Some(empty[256 - depth]),
            [(_, value)] if depth == 256 => return Some(*value),
            _ if depth == 256 => return None,
            _ => {}
        }
        let is_left = |leaf: &([u8; 32], [u8; 32])| leaf.0[depth / 8] >> (7 - depth % 8) & 1 == 0;
        let (left, right): (Vec<_>, Vec<_>) = leaves.iter().partition(|leaf| is_left(leaf));
        let (left, right) = (
            node(&left, depth + 1, empty)?,
            node(&right, depth + 1, empty)?,
        );
        Some(sha256(&[left, right].concat()))
    }
    node(leaves, 0, &empty)
}

/// What somebody who wants money, or wants DIDs to die, would ask to have signed through the leaf.
pub fn alter_fallback(rng: &mut Rng, thief: &ScriptBuf, request: &mut FallbackRequest) {
    let byte = rng.below(256) as u8;
    let tx = &mut request.tx.0;
    match rng.below(10) {
        0 => tx.output[0].script_pubkey = thief.clone(),
        1 => tx.output.reverse(),
        2 => {
            let value = tx.output[0].value.to_sat();
            let less = value.saturating_sub(rng.range(1, 60_000));
            tx.output[0].value = Amount::from_sat(less);
        }
        3 => tx.lock_time = bitcoin::absolute::LockTime::from_consensus(1 + u32::from(byte)),
        4 => tx.input[0].previous_output = OutPoint::new(tx.compute_txid(), 0),
        5 => {
            let seat = Seat(u16::from(byte) % 3);
            if let Some(at) = request.absent.iter().position(|absent| *absent == seat) {
                request.absent.remove(at);
            } else {
                request.absent.push(seat);
            }
        }
        _ => alter_announced(rng, byte, request),
    }
}

/// Announces something else, with a transaction that matches.
fn alter_announced(rng: &mut Rng, byte: u8, request: &mut FallbackRequest) {
    let signal = match &mut request.announced {
        Announced::Smt(leaves) if !leaves.is_empty() => {
            let at = rng.index(leaves.len());
            if rng.one_in(3) {
                leaves.remove(at);
            } else {
                leaves[at].1 = LeafValue::from_bytes(sha256(&[byte]));
            }
            let leaves: Vec<_> = leaves
                .iter()
                .map(|(index, value)| (*index.as_bytes(), value.to_bytes()))
                .collect();
            root(&leaves)
        }
        Announced::Smt(_) => None,
        Announced::Cas(text) => {
            let mut map = canonical_map(text).unwrap_or_default();
            let dids: Vec<String> = map.keys().cloned().collect();
            if let Some(did) = (!dids.is_empty()).then(|| rng.pick(&dids).clone()) {
                if rng.one_in(3) {
                    map.remove(&did);
                } else {
                    let other = UpdateHash::from_bytes(sha256(&[byte]));
                    map.insert(did, other.to_string());
                }
            }
            *text = serde_json::to_string(&map).unwrap_or_default();
            Some(sha256(text.as_bytes()))
        }
    };
    if let (Some(signal), Some(last)) = (signal, request.tx.0.output.last_mut()) {
        last.script_pubkey = op_return(&signal);
    }
}

/// What was signed through the leaf, once it is known to be right.
pub struct Through {
    pub signal: [u8; 32],
    pub inputs: Vec<OutPoint>,
    pub fee: u64,
    /// Whether the member's indexes are left empty.
    pub absent: bool,
}

impl World {
    /// The driver's part: as `agent/feed.rs` does.
    pub fn sign_fallback(&self, i: usize, order: &FallbackOrder) -> Input {
        let own = &self.processes[i].own;
        let digests = order.sighashes.iter();
        let signatures = digests.map(|digest| own.sign_digest(digest.as_bytes()));
        Input::Member(ParticipantInput::FallbackSigned {
            round: order.round,
            signatures: signatures.collect(),
        })
    }

    /// The leaf, by the terms and the set that a member acknowledged.
    fn leaf_known_to(&self, i: usize) -> Option<Leaf> {
        let OutputPolicy::KOfN(threshold) = self.config.terms.output_policy else {
            return None;
        };
        let (set, _) = self.processes[i].core.member().set()?;
        let keys = set.keys.iter().map(|key| key.to_bytes()).collect();
        Some(Leaf::new(keys, threshold))
    }

    /// A signature through the leaf leaves an honest member: rules 2, 3, 4, 5 and 13, as for a partial signature.
    pub fn check_fallback_signature(&mut self, i: usize, content: &FallbackSignature) {
        self.count("fallback signatures");
        let round = content.round;
        let response = self.checker.responses.get(&(i, round)).cloned();
        let checked = self
            .recheck_fallback(i, content, response.as_ref())
            .and_then(|through| {
                let nothing = Response {
                    round,
                    entries: Entries::Smt(Vec::new()),
                    nonces: BTreeMap::new(),
                };
                let said = response.clone().filter(|_| !through.absent);
                let said = said.unwrap_or(nothing);
                self.check_durable(i, round, &through.signal, &said)?;
                self.check_lineage(i, round, &through.inputs, &through.signal)?;
                let highest = self.checker.through_leaf.get(&(i, round)).copied();
                if highest.is_some_and(|highest| through.fee <= highest) {
                    return Err("a replacement that pays no more than what was signed".to_owned());
                }
                Ok((through, said))
            });
        let (through, said) = match checked {
            Ok(checked) => checked,
            Err(why) => return self.broken(i, "signed through the leaf unchecked", &why),
        };
        self.checker.through_leaf.insert((i, round), through.fee);
        self.checker.sign(i, content.txid);
        self.note_signed(i, round, through.signal, through.inputs[0], &said);
    }

    fn recheck_fallback(
        &self,
        i: usize,
        content: &FallbackSignature,
        response: Option<&Response>,
    ) -> Result<Through, String> {
        let process = &self.processes[i];
        let leaf = self.leaf_known_to(i).ok_or("the terms have no leaf")?;
        let asked = |message: &&FallbackRequest| {
            message.round == content.round && message.tx.0.compute_txid() == content.txid
        };
        let mut requests = process.heard.iter().rev().filter_map(|message| {
            let Message::FallbackRequest(request) = &**message else {
                return None;
            };
            Some(request)
        });
        let request = requests.find(asked).ok_or("it was never asked for that")?;
        let tx = &request.tx.0;
        let inputs: Vec<OutPoint> = tx.input.iter().map(|input| input.previous_output).collect();
        self.check_tip(i, request, &inputs)?;
        // Only of what it never saw on its own chain it has the claims alone: a digest commits to them.
        let known = known_values(process);
        let values: Vec<u64> = inputs
            .iter()
            .zip(&request.prevouts)
            .map(|(at, claim)| known.get(at).copied().unwrap_or(claim.value_sat))
            .collect();
        let (set, keys) = process.core.member().set().ok_or("it knows no set")?;
        let script = beacon_script(keys.output_key());
        let fee = check_form(tx, &values, &script)?;
        let policy = self.config.policies[i - 1];
        let rate = u64::from(policy.max_fee_rate.min(self.config.terms.max_fee_rate)) * 250;
        let most = match tx.output.len() {
            1 => (rate * (leaf.weight(tx) + CHANGE_WEIGHT)).div_ceil(1_000) + MOST_DUST,
            _ => (rate * leaf.weight(tx)).div_ceil(1_000),
        };
        if fee > most.min(policy.max_fee_sat) {
            return Err(format!("a fee of {fee} sat, at most {most}"));
        }
        let signal = signal_of(tx).ok_or("the last output is not 32 bytes")?;
        let mut seats = set.keys.iter();
        let seat = seats.position(|key| *key == process.public());
        let absent = request
            .absent
            .iter()
            .any(|absent| Some(usize::from(absent.0)) == seat);
        self.check_announced(i, request, &signal, response.filter(|_| !absent))?;
        let spent: Vec<TxOut> = values
            .iter()
            .map(|value| TxOut {
                value: Amount::from_sat(*value),
                script_pubkey: script.clone(),
            })
            .collect();
        let digests = leaf.digests(tx, &spent)?;
        let signed: Vec<[u8; 32]> = content.sighashes.iter().map(|s| s.to_bytes()).collect();
        if digests != signed {
            return Err("the digests are not those of its transaction".into());
        }
        let me = process.public().to_bytes();
        let mut made = digests.iter().zip(&content.signatures);
        if content.signatures.len() != digests.len()
            || !made.all(|(digest, made)| verifies(&me, digest, made.as_bytes()))
        {
            return Err("a signature of something else".into());
        }
        Ok(Through {
            signal,
            inputs,
            fee,
            absent,
        })
    }

    /// Rule 4: input 0 is the tip, or is spent by another one of the same round that is in the mempool.
    fn check_tip(
        &self,
        i: usize,
        request: &FallbackRequest,
        inputs: &[OutPoint],
    ) -> Result<(), String> {
        let process = &self.processes[i];
        let saw = process.saw.as_ref().ok_or("it saw no chain")?;
        let tip = *inputs.first().ok_or("no input")?;
        if let Some((own, _, height)) = saw.tip {
            if own != tip {
                return Err(format!("input 0 is {tip}, the tip is {own}"));
            }
            let deep = saw.view.height + 1 - height;
            if deep < u32::from(self.config.terms.depth) {
                return Err(format!("the tip has {deep} confirmations"));
            }
            return Ok(());
        }
        let spend = saw
            .view
            .spends
            .get(&tip)
            .filter(|spend| spend.height.is_none());
        let by = spend.ok_or("its chain shows no tip")?.by;
        let of_round = |message: &Message| {
            matches!(message, Message::FallbackRequest(known)
                if known.round == request.round && known.tx.0.compute_txid() == by)
        };
        if process.heard.iter().any(|message| of_round(message)) {
            Ok(())
        } else {
            Err("the tip is spent by something else".into())
        }
    }

    /// Rule 3: what is announced makes the 32 bytes, and says of each index what its member said, or nothing.
    fn check_announced(
        &self,
        i: usize,
        request: &FallbackRequest,
        signal: &[u8; 32],
        response: Option<&Response>,
    ) -> Result<(), String> {
        let dids = &self.processes[i].dids;
        match &request.announced {
            Announced::Smt(leaves) => {
                let leaves: Vec<_> = leaves
                    .iter()
                    .map(|(index, value)| (*index.as_bytes(), value.to_bytes()))
                    .collect();
                if root(&leaves) != Some(*signal) {
                    return Err("the leaves are those of another tree".into());
                }
                let said = |index: &SmtIndex| {
                    let Entries::Smt(entries) = &response?.entries else {
                        return None;
                    };
                    let entry = entries.iter().find(|entry| entry.index == *index);
                    entry
                        .and_then(|entry| entry.leaf)
                        .map(|leaf| leaf.to_bytes())
                };
                for did in dids {
                    let mut found = leaves.iter();
                    let found = found.find(|leaf| leaf.0 == *did.index.as_bytes());
                    if found.map(|leaf| leaf.1) != said(&did.index) {
                        return Err(format!("announces something else for {}", did.did));
                    }
                }
            }
            Announced::Cas(text) => {
                if sha256(text.as_bytes()) != *signal {
                    return Err("the announcement is another one".into());
                }
                let map = canonical_map(text)?;
                for did in dids {
                    let said = response.and_then(|response| match &response.entries {
                        Entries::Cas(entries) => {
                            let entry = entries.iter().find(|entry| entry.did == did.did)?;
                            entry.update.map(|update| update.to_string())
                        }
                        Entries::Smt(_) => None,
                    });
                    if map.get(did.did.as_str()).cloned() != said {
                        return Err(format!("announces something else for {}", did.did));
                    }
                }
            }
        }
        Ok(())
    }

    /// Who signed a transaction through the leaf: positions of processes. `None` if it was not signed through it; an
    /// error if it is not signed by exactly k seats.
    pub fn signers_through_leaf(&self, txid: &Txid) -> Option<Result<Vec<usize>, String>> {
        let tx = &self.chain.txs.get(txid)?.tx;
        if tx.input.iter().all(|input| input.witness.len() == 1) {
            return None;
        }
        let any = (1..self.processes.len()).find_map(|i| self.leaf_known_to(i));
        let Some(leaf) = any else {
            return Some(Err("a script was revealed, and the terms have none".into()));
        };
        Some(self.signers_of(tx, &leaf))
    }

    fn signers_of(&self, tx: &Transaction, leaf: &Leaf) -> Result<Vec<usize>, String> {
        let spent: Option<Vec<TxOut>> = tx
            .input
            .iter()
            .map(|input| self.chain.output(&input.previous_output).cloned())
            .collect();
        let digests = leaf.digests(tx, &spent.ok_or("spends what is not there")?)?;
        let mut all: Option<Vec<usize>> = None;
        for (input, digest) in tx.input.iter().zip(&digests) {
            let elements: Vec<&[u8]> = input.witness.iter().collect();
            let n = leaf.keys.len();
            if elements.len() != n + 2 || elements[n] != leaf.script {
                return Err("the witness is not one of the leaf".into());
            }
            let mut signers = Vec::new();
            for (key, signature) in leaf.keys.iter().rev().zip(&elements[..n]) {
                if signature.is_empty() {
                    continue;
                }
                if !verifies(key, digest, signature) {
                    return Err("a signature in the witness does not verify".into());
                }
                let who = self
                    .processes
                    .iter()
                    .position(|process| process.public().to_bytes() == *key);
                signers.push(who.ok_or("a key of nobody")?);
            }
            if signers.len() != leaf.threshold {
                return Err(format!("{} signatures", signers.len()));
            }
            all.get_or_insert(signers);
        }
        all.ok_or_else(|| "no inputs".into())
    }
}
