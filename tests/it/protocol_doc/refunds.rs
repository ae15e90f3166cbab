//! The messages of a refund session: of the output that the first signal spends.

use std::collections::BTreeMap;

use btcr2_agent::beacon::address::beacon_script;
use btcr2_agent::beacon::refund::{UnsignedRefund, build_refund, finalize, verify_refund};
use btcr2_agent::beacon::signal::BeaconOutput;
use btcr2_agent::keys::musig::{
    PartialSignature, PublicNonce, aggregate_nonces, aggregate_partials, verify_partial,
};
use btcr2_agent::protocol::Label;
use btcr2_agent::protocol::evidence::{LabelContext, Sighash, commitment};
use btcr2_agent::protocol::message::{Message, Nonces, TxHex};
use btcr2_agent::protocol::refund_message::{
    RefundComplete, RefundNonces, RefundOpen, RefundPartial, RefundRequest,
};

use super::{Cohort, NOW, key, point, scalar, secret_nonce, signed};

/// The nonces of a round's session are others: this number is no attempt of it.
const SEED: u32 = 1_000_001;

fn nonces(member: usize) -> Nonces {
    let nonce = secret_nonce(member, SEED, Label::REFUND).public_nonce();
    let nonce = PublicNonce::from_bytes(&nonce.serialize()).unwrap();
    BTreeMap::from([(Label::REFUND, nonce)])
}

fn partial(cohort: &Cohort, member: usize, context: &LabelContext) -> PartialSignature {
    let points = cohort.keys.keys().iter().map(point);
    let keys = musig2::KeyAggContext::new(points)
        .unwrap()
        .with_unspendable_taproot_tweak()
        .unwrap();
    let own = key(&format!("member {member}"));
    let partial: musig2::PartialSignature = musig2::sign_partial(
        &keys,
        scalar(&own),
        secret_nonce(member, SEED, Label::REFUND),
        &musig2::AggNonce::from_bytes(&context.aggregate_nonce.to_bytes()).unwrap(),
        context.sighash.as_bytes(),
    )
    .unwrap();
    let partial = PartialSignature::from_bytes(&partial.serialize()).unwrap();
    verify_partial(
        &cohort.keys,
        &own.public(),
        &nonces(member)[&Label::REFUND],
        &context.aggregate_nonce,
        context.sighash.as_bytes(),
        &partial,
    )
    .unwrap();
    partial
}

/// All of them, for the tip of the cohort, whose refund goes to its aggregator.
pub fn messages(cohort: &Cohort) -> Vec<(&'static str, Message)> {
    let (deposit, attempt) = (1, 1);
    let tip: BeaconOutput = cohort.ladder.inputs[0];
    let script = beacon_script(cohort.keys.output_key());
    let lock = cohort.terms.refund_blocks;
    let payees = cohort.set.refund_scripts(&cohort.terms);
    let rate = bitcoin::FeeRate::from_sat_per_vb(2).unwrap();
    let refund: UnsignedRefund = build_refund(&tip, &script, lock, &payees, rate).unwrap();
    let offered: Vec<PublicNonce> = (0..2).map(|i| nonces(i)[&Label::REFUND]).collect();
    let context = LabelContext {
        aggregate_nonce: aggregate_nonces(&offered).unwrap(),
        sighash: Sighash::from_bytes(refund.sighash()),
    };
    let contexts = BTreeMap::from([(Label::REFUND, context)]);
    let signature = aggregate_partials(
        &cohort.keys,
        &context.aggregate_nonce,
        context.sighash.as_bytes(),
        (0..2).map(|i| partial(cohort, i, &context)),
    );
    let complete = finalize(refund.tx.clone(), &signature.unwrap());
    verify_refund(&complete, &tip, &script, lock, &payees).unwrap();
    let own = key("member 0");
    let nonces_of_0 = RefundNonces {
        deposit,
        attempt,
        nonces: nonces(0),
    };
    let partial_of_0 = RefundPartial {
        deposit,
        attempt,
        session_hash: commitment(&cohort.keys, &nonces(0), &contexts).unwrap(),
        nonces: nonces(0),
        partials: BTreeMap::from([(Label::REFUND, partial(cohort, 0, &context))]),
    };
    vec![
        (
            "refund_open",
            Message::RefundOpen(RefundOpen {
                deposit,
                attempt,
                outpoint: tip.outpoint,
                value_sat: tip.value.to_sat(),
                until: NOW.plus(7_200),
            }),
        ),
        (
            "refund_nonces",
            Message::RefundNonces(signed(&cohort.id, &own, nonces_of_0)),
        ),
        (
            "refund_request",
            Message::RefundRequest(RefundRequest {
                deposit,
                attempt,
                tx: TxHex(refund.tx),
                aggregate_nonce: context.aggregate_nonce,
                until: NOW.plus(7_260),
            }),
        ),
        (
            "refund_partial",
            Message::RefundPartial(signed(&cohort.id, &own, partial_of_0)),
        ),
        (
            "refund_complete",
            Message::RefundComplete(RefundComplete {
                outpoint: tip.outpoint,
                value_sat: tip.value.to_sat(),
                tx: TxHex(complete),
            }),
        ),
    ]
}
