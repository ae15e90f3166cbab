//! What a transaction says by itself, to whoever has nothing but its bytes.

use bitcoin::{Transaction, TxOut};

use crate::agent::control::views as v;
use crate::beacon::explain::{LoneForm, is_signed, lone_form, output_in_words, signed_weight_of};
use crate::beacon::signal::signal_of;

/// Explains a transaction without an agent: its form, what it announces, its size; and what it costs, if somebody says
/// what it spends. `spent` has what is known of each input, and may be shorter.
#[must_use]
pub fn explain_alone(tx: &Transaction, spent: &[Option<TxOut>]) -> v::TxView {
    let form = lone_form(tx);
    let (kind, text, lock_blocks) = match form {
        LoneForm::Signal => (
            v::TxKind::ForeignSignal,
            "it has the form of a signal, of a beacon that is not known here".to_owned(),
            None,
        ),
        LoneForm::FallbackSignal => (
            v::TxKind::ForeignFallbackSignal,
            "it has the form of a signal, signed through a leaf of a beacon that is not known here"
                .to_owned(),
            None,
        ),
        LoneForm::Refund { lock_blocks } => (
            v::TxKind::ForeignRefund,
            format!(
                "it has the form of a refund, {lock_blocks} blocks after what it spends, of a beacon that is not \
                 known here"
            ),
            Some(lock_blocks),
        ),
        LoneForm::Other => (
            v::TxKind::Other,
            "neither a signal, nor a refund, nor a fallback, and nothing of this agent's"
                .to_owned(),
            None,
        ),
    };
    let known = |position: usize| spent.get(position).and_then(Option::as_ref);
    let weight = signed_weight_of(tx);
    let fee = fee_of(tx, |position, _| {
        known(position).map(|spent| spent.value.to_sat())
    });
    let inputs = tx.input.iter().enumerate().map(|(position, input)| {
        let known = known(position);
        v::TxInputView {
            outpoint: input.previous_output.to_string(),
            value_sat: known.map(|spent| spent.value.to_sat()),
            what: match known {
                Some(spent) if spent.script_pubkey.is_p2tr() => "a taproot output, as it is said",
                Some(_) => "as it is said",
                None => "not known here",
            }
            .to_owned(),
        }
    });
    let beacon = known(0).map(|spent| spent.script_pubkey.as_script());
    let outputs = tx.output.iter().enumerate().map(|(position, output)| {
        let what = match output_in_words(tx, position, beacon) {
            "back to the beacon" => "back to where it came from",
            "" if matches!(form, LoneForm::Signal | LoneForm::FallbackSignal) => "change",
            "" if lock_blocks.is_some() => "a payee",
            what => what,
        };
        v::TxOutputView {
            value_sat: output.value.to_sat(),
            to: output.script_pubkey.to_hex_string(),
            what: what.to_owned(),
        }
    });
    v::TxView {
        txid: tx.compute_txid(),
        kind,
        text,
        network: None,
        cohort: None,
        name: None,
        round: None,
        rung: None,
        did: None,
        version: None,
        signal: signal_of(tx),
        commits_to: Vec::new(),
        inputs: inputs.collect(),
        outputs: outputs.collect(),
        fee_sat: fee,
        vsize: weight.to_vbytes_ceil(),
        weight: weight.to_wu(),
        fee_rate: fee.map(|fee| rate_of(fee, weight)),
        signed: is_signed(tx),
        lock_blocks,
        height: None,
        confirmations: None,
        warnings: Vec::new(),
    }
}

/// What goes to the miner, if the value of every input is known.
pub(super) fn fee_of(
    tx: &Transaction,
    value: impl Fn(usize, &bitcoin::OutPoint) -> Option<u64>,
) -> Option<u64> {
    let mut inputs = tx.input.iter().enumerate();
    let spent = inputs.try_fold(0_u64, |sum, (position, input)| {
        sum.checked_add(value(position, &input.previous_output)?)
    })?;
    let mut outputs = tx.output.iter();
    let paid = outputs.try_fold(0_u64, |sum, output| sum.checked_add(output.value.to_sat()))?;
    spent.checked_sub(paid)
}

/// In thousandths of a sat/vB, rounded to the nearest.
pub(super) fn rate_of(fee: u64, weight: bitcoin::Weight) -> v::FeeRate {
    let weight = weight.to_wu().max(1);
    let rate = u128::from(fee) * 4_000 + u128::from(weight / 2);
    v::FeeRate(u64::try_from(rate / u128::from(weight)).unwrap_or(u64::MAX))
}
