//! What a member should have checked before it signed, worked out anew from the messages it got and the chain it saw.
//!
//! Nothing here calls the code that is under test: transactions are read field by field, paths are folded with plain
//! SHA-256, announcements are compared as text. What is shared are data types and `rust-bitcoin`.

use std::collections::BTreeMap;
use std::iter;
use std::sync::LazyLock;

use bitcoin::hashes::{Hash as _, HashEngine as _};
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxOut};
use btcr2_core::beacon::smt::SmtPath;
use btcr2_core::hash::{sha256, tagged_hash};
use btcr2_core::protocol::Label;
use btcr2_core::protocol::message::{Entries, Message, Partials, Response, SignRequest};
use btcr2_core::protocol::participant::SigningPolicy;
use btcr2_core::protocol::terms::{CohortBeacon, Terms};

use super::process::Process;

const DUST: u64 = 330;

/// What a member knew when it signed.
pub struct Knowledge<'a> {
    pub terms: &'a Terms,
    pub policy: SigningPolicy,
    pub script: ScriptBuf,
    pub payees: Vec<ScriptBuf>,
    /// BIP-327 KeySort order, and the tweaked key.
    pub keys: Vec<[u8; 32]>,
    pub output_key: [u8; 32],
    pub response: &'a Response,
    /// What the first session of this round spent, if this is a later one.
    pub inputs_before: Option<Vec<OutPoint>>,
    /// Whether a result of this round was heard: then only a replacement may be signed.
    pub replaces: bool,
}

/// What was signed, once it is known to be right.
pub struct Rechecked {
    pub signal: [u8; 32],
    pub inputs: Vec<OutPoint>,
    pub sighashes: BTreeMap<Label, [u8; 32]>,
}

/// Finds the request that a partial signature answers, and checks all of it.
pub fn recheck(
    member: &Process,
    known: &Knowledge<'_>,
    partials: &Partials,
) -> Result<Rechecked, String> {
    let mut why = "it was never asked for that session".to_owned();
    for message in member.heard.iter().rev() {
        let Message::SignRequest(request) = &**message else {
            continue;
        };
        if request.round != partials.round || request.attempt != partials.attempt {
            continue;
        }
        match answers(member, known, request, partials) {
            Ok(found) => return Ok(found),
            Err(error) => why = error,
        }
    }
    Err(why)
}

fn answers(
    member: &Process,
    known: &Knowledge<'_>,
    request: &SignRequest,
    partials: &Partials,
) -> Result<Rechecked, String> {
    let saw = member.saw.as_ref().ok_or("it saw no chain")?;
    let mut sighashes = BTreeMap::new();
    let mut first: Option<(Vec<OutPoint>, [u8; 32])> = None;
    let mut last_fee = 0;
    if request.rungs.is_empty() || request.rungs.len() > known.terms.fee_ladder.len() {
        return Err("a number of rungs that the terms do not have".into());
    }
    for (rung, signed) in (1_u8..).zip(&request.rungs) {
        let tx = &signed.tx.0;
        let inputs: Vec<OutPoint> = tx.input.iter().map(|i| i.previous_output).collect();
        let tip = *inputs.first().ok_or("no input")?;
        match (&known.inputs_before, known.replaces) {
            (Some(before), true) => {
                if *before != inputs {
                    return Err("a replacement of other inputs".into());
                }
            }
            (before, _) => {
                if before.as_ref().is_some_and(|before| *before != inputs) {
                    return Err("other inputs than the round's first session".into());
                }
                let (own, _, height) = saw.tip.ok_or("its chain shows no tip")?;
                if own != tip {
                    return Err(format!("input 0 is {tip}, the tip is {own}"));
                }
                let deep = saw.view.height + 1 - height;
                if deep < u32::from(known.terms.depth) {
                    return Err(format!("the tip has {deep} confirmations"));
                }
            }
        }
        let values = values(member, &inputs)?;
        let fee = check_signal_form(tx, &values, known)?;
        if fee <= last_fee {
            return Err("a rung pays no more than the one before".into());
        }
        last_fee = fee;
        let signal: [u8; 32] = signal_of(tx).ok_or("the last output is not 32 bytes")?;
        match &first {
            None => first = Some((inputs.clone(), signal)),
            Some(first) if *first == (inputs.clone(), signal) => {}
            Some(_) => return Err("rungs of other inputs or bytes".into()),
        }
        let spent: Vec<TxOut> = values
            .iter()
            .map(|value| TxOut {
                value: Amount::from_sat(*value),
                script_pubkey: known.script.clone(),
            })
            .collect();
        for input in 0..inputs.len() {
            let label = Label::Signal {
                rung,
                input: input as u8,
            };
            sighashes.insert(label, sighash(tx, input, &spent)?);
        }
        let change = (tx.output.len() == 2).then(|| tx.output[0].clone());
        if let Some(refund) = &signed.refund {
            let change = change.ok_or("the refund of no change")?;
            check_refund_form(&refund.0, tx, &change, known)?;
            sighashes.insert(Label::Refund { rung }, sighash(&refund.0, 0, &[change])?);
        } else if !known.payees.is_empty() && change.is_some_and(|c| c.value.to_sat() > 3_000) {
            return Err("change without its refund".into());
        }
    }
    let (inputs, signal) = first.ok_or("no rung")?;
    if !sighashes.keys().eq(request.aggregate_nonces.keys())
        || !sighashes.keys().eq(partials.nonces.keys())
        || !sighashes.keys().eq(partials.partials.keys())
    {
        return Err("not exactly the labels of its transactions".into());
    }
    check_bytes(member, known, request, &signal)?;
    let entries = partials.nonces.iter().map(|(label, nonce)| {
        let aggregate = request.aggregate_nonces[label].to_bytes();
        (*label, nonce.to_bytes(), aggregate, sighashes[label])
    });
    if session_hash(known, &entries.collect::<Vec<_>>()) != partials.session_hash.to_bytes() {
        return Err("the session hash is of something else".into());
    }
    Ok(Rechecked {
        signal,
        inputs,
        sighashes,
    })
}

/// Values of outputs at the beacon, as its backend showed them: unspent now, or spent by what is replaced.
fn values(member: &Process, inputs: &[OutPoint]) -> Result<Vec<u64>, String> {
    let all = known_values(member);
    let value = |at: &OutPoint| {
        let found = all.get(at).copied();
        found.ok_or(format!("{at} is no output at the beacon"))
    };
    inputs.iter().map(value).collect()
}

/// Values of the outputs at the beacon that a member ever saw.
pub fn known_values(member: &Process) -> BTreeMap<OutPoint, u64> {
    let mut all: BTreeMap<OutPoint, u64> = member.values_seen.clone();
    if let Some(saw) = &member.saw {
        let outputs = saw.view.outputs.iter();
        all.extend(outputs.map(|(at, seen)| (*at, seen.value_sat)));
        all.extend(saw.tip.map(|(at, value, _)| (at, value)));
    }
    all
}

/// Rule 2, the signal: its form, and what it may cost. Its fee in sat.
fn check_signal_form(
    tx: &Transaction,
    values: &[u64],
    known: &Knowledge<'_>,
) -> Result<u64, String> {
    let fee = check_form(tx, values, &known.script)?;
    let rate = u64::from(known.policy.max_fee_rate.min(known.terms.max_fee_rate)) * 250;
    let further = 230 * (tx.input.len() as u64 - 1);
    let most = |weight: u64| (rate * (weight + further)).div_ceil(1_000);
    let limit = if tx.output.len() > 1 {
        most(616)
    } else {
        most(616).max(most(444) + DUST)
    };
    if fee > limit || fee > known.policy.max_fee_sat {
        return Err(format!("a fee of {fee} sat, at most {limit}"));
    }
    Ok(fee)
}

/// Rule 2, the signal: field by field. Its fee in sat.
pub fn check_form(tx: &Transaction, values: &[u64], script: &ScriptBuf) -> Result<u64, String> {
    if tx.version.0 != 2 || tx.lock_time.to_consensus_u32() != 0 {
        return Err("version or lock time".into());
    }
    let plain = |input: &bitcoin::TxIn| {
        input.sequence == Sequence(0xffff_fffd)
            && input.script_sig.is_empty()
            && input.witness.is_empty()
    };
    if !(1..=4).contains(&tx.input.len()) || !tx.input.iter().all(plain) {
        return Err("inputs are not those of a signal".into());
    }
    let last = tx.output.last().ok_or("no outputs")?;
    if last.value != Amount::ZERO || signal_of(tx).is_none() {
        return Err("the last output is not the signal".into());
    }
    let change = match &tx.output[..tx.output.len() - 1] {
        [] => 0,
        [change] if change.script_pubkey == *script && change.value.to_sat() >= DUST => {
            change.value.to_sat()
        }
        _ => return Err("change elsewhere, or more outputs".into()),
    };
    let total: u64 = values.iter().sum();
    let fee = total.checked_sub(change);
    Ok(fee.ok_or("pays more than there is")?)
}

/// Rule 2, the refund of the change of a signal.
fn check_refund_form(
    refund: &Transaction,
    of: &Transaction,
    change: &TxOut,
    known: &Knowledge<'_>,
) -> Result<(), String> {
    let at = OutPoint::new(of.compute_txid(), 0);
    check_refund(refund, at, change, &known.payees, known.terms.refund_blocks)
}

/// Rule 2, the refund: what it spends, its lock, and equal shares to the payees of the set.
pub fn check_refund(
    refund: &Transaction,
    at: OutPoint,
    spent: &TxOut,
    payees: &[ScriptBuf],
    lock: u16,
) -> Result<(), String> {
    let [input] = refund.input.as_slice() else {
        return Err("a refund of several inputs".into());
    };
    if refund.version.0 != 2
        || refund.lock_time.to_consensus_u32() != 0
        || input.previous_output != at
        || input.sequence != Sequence(u32::from(lock))
        || !input.script_sig.is_empty()
    {
        return Err("the form of the refund".into());
    }
    let scripts = refund.output.iter().map(|output| &output.script_pubkey);
    if payees.is_empty() || !scripts.eq(payees.iter()) {
        return Err("the refund pays somebody else".into());
    }
    let paid: u64 = refund
        .output
        .iter()
        .map(|output| output.value.to_sat())
        .sum();
    let share = paid / refund.output.len() as u64;
    let fair = (1..refund.output.len()).all(|i| refund.output[i].value.to_sat() == share);
    if !fair || paid > spent.value.to_sat() || share < DUST {
        return Err("the shares of the refund".into());
    }
    Ok(())
}

/// The 32 bytes of the last output, if that is what it is.
pub fn signal_of(tx: &Transaction) -> Option<[u8; 32]> {
    let script = tx.output.last()?.script_pubkey.as_bytes();
    match script {
        [0x6a, 0x20, bytes @ ..] => bytes.try_into().ok(),
        _ => None,
    }
}

fn sighash(tx: &Transaction, input: usize, spent: &[TxOut]) -> Result<[u8; 32], String> {
    SighashCache::new(tx)
        .taproot_key_spend_signature_hash(input, &Prevouts::All(spent), TapSighashType::Default)
        .map(|hash| hash.to_byte_array())
        .map_err(|error| error.to_string())
}

/// Rule 3: the bytes are made of what the member said.
fn check_bytes(
    member: &Process,
    known: &Knowledge<'_>,
    request: &SignRequest,
    signal: &[u8; 32],
) -> Result<(), String> {
    match (&known.response.entries, known.terms.beacon) {
        (Entries::Smt(entries), CohortBeacon::Smt) => {
            for entry in entries {
                let leaf = entry
                    .leaf
                    .map_or_else(|| sha256(&[0; 64]), |leaf| leaf.to_bytes());
                let folds = |message: &Message| {
                    let Message::Proofs(proofs) = message else {
                        return false;
                    };
                    proofs.round == request.round
                        && proofs.proofs.iter().any(|proof| {
                            proof.index == entry.index
                                && fold(&proof.path, entry.index.as_bytes(), leaf) == Some(*signal)
                        })
                };
                if !member.heard.iter().any(|message| folds(message)) {
                    return Err(format!("no proof for index {} was sent", entry.index));
                }
            }
            Ok(())
        }
        (Entries::Cas(entries), CohortBeacon::Cas) => {
            let text = request.announcement.as_deref().ok_or("no announcement")?;
            if sha256(text.as_bytes()) != *signal {
                return Err("the announcement is another one".into());
            }
            let map = canonical_map(text)?;
            for did in &member.dids {
                let entry = entries.iter().find(|entry| entry.did == did.did);
                let said = entry.and_then(|entry| entry.update).map(|u| u.to_string());
                if map.get(did.did.as_str()).cloned() != said {
                    return Err(format!("announces something else for {}", did.did));
                }
            }
            Ok(())
        }
        _ => Err("the response is of another beacon".into()),
    }
}

/// The entries of an announcement, if it is canonical.
pub fn canonical_map(text: &str) -> Result<BTreeMap<String, String>, String> {
    let map: BTreeMap<String, String> =
        serde_json::from_str(text).map_err(|error| error.to_string())?;
    // Sorted keys, no white space: what JCS makes of it. DIDs and hashes need no escapes.
    let parts = map
        .iter()
        .map(|(key, value)| format!("\"{key}\":\"{value}\""));
    if format!("{{{}}}", parts.collect::<Vec<_>>().join(",")) != text {
        return Err("the announcement is not canonical".into());
    }
    Ok(map)
}

/// The root that a leaf and its path give (docs/protocol.md, "SMT").
pub fn fold(path: &SmtPath, index: &[u8; 32], leaf: [u8; 32]) -> Option<[u8; 32]> {
    // The roots of empty trees, by height.
    static EMPTY: LazyLock<Vec<[u8; 32]>> = LazyLock::new(|| {
        let leaf = sha256(&[0; 64]);
        iter::successors(Some(leaf), |below| Some(pair(below, below)))
            .take(256)
            .collect()
    });
    let bit = |bytes: &[u8; 32], at: usize| bytes[at / 8] >> (7 - at % 8) & 1 == 1;
    let mut node = leaf;
    let mut hashes = path.hashes.iter();
    for (level, empty) in EMPTY.iter().enumerate() {
        let sibling = if bit(&path.collapsed, 255 - level) {
            empty
        } else {
            hashes.next()?
        };
        node = if bit(index, 255 - level) {
            pair(sibling, &node)
        } else {
            pair(&node, sibling)
        };
    }
    hashes.next().is_none().then_some(node)
}

/// SHA-256 of two nodes.
fn pair(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut engine = bitcoin::hashes::sha256::HashEngine::default();
    engine.input(left);
    engine.input(right);
    bitcoin::hashes::sha256::Hash::from_engine(engine).to_byte_array()
}

/// A label with its public nonce, its aggregate nonce and its sighash.
type Entry = (Label, [u8; 66], [u8; 66], [u8; 32]);

/// The commitment of docs/protocol.md, "Sessions".
fn session_hash(known: &Knowledge<'_>, entries: &[Entry]) -> [u8; 32] {
    let mut text = (known.keys.len() as u32).to_be_bytes().to_vec();
    for key in &known.keys {
        text.extend_from_slice(key);
    }
    text.extend_from_slice(&known.output_key);
    text.extend_from_slice(&(entries.len() as u32).to_be_bytes());
    for (label, nonce, aggregate, sighash) in entries {
        let name = label.to_string();
        text.push(name.len() as u8);
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(nonce);
        text.extend_from_slice(aggregate);
        text.extend_from_slice(sighash);
    }
    tagged_hash("btcr2/session/1", &[&text])
}
