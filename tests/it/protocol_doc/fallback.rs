//! The messages of a fallback: of a third member's absence in a cohort that needs two.

use std::collections::BTreeMap;

use btcr2_agent::beacon::signal::BeaconOutput;
use btcr2_agent::beacon::smt::SmtTree;
use btcr2_agent::protocol::evidence::Sighash;
use btcr2_agent::protocol::message::{
    Announced, FallbackRequest, FallbackSignature, Message, PrevoutInfo, RoundCause, TxHex,
};
use btcr2_agent::protocol::set::{CohortSet, fallback_leaf};
use btcr2_agent::protocol::terms::OutputPolicy;
use btcr2_agent::protocol::{Round, Seat};

use super::{Cohort, NOW, announcement, did, key, leaf, sign, signed};
use btcr2_agent::beacon::address::beacon_script;
use btcr2_agent::protocol::terms::CohortBeacon;

/// The request and a signature, of a cohort of these terms with a third seat and a leaf for two.
pub fn messages(beacon: CohortBeacon) -> Vec<(&'static str, Message)> {
    let mut terms = Cohort::new(beacon).terms;
    terms.seats_min = 3;
    terms.output_policy = OutputPolicy::KOfN(2);
    terms.validate().unwrap();
    let members: Vec<_> = (0..3)
        .map(|i| (key(&format!("member {i}")).public(), None))
        .collect();
    let (_, keys) = CohortSet::build(&terms, &members, None).unwrap();
    let fallback = fallback_leaf(&terms, &keys).unwrap();
    let script = beacon_script(keys.output_key());
    let tip: BeaconOutput = Cohort::new(beacon).ladder.inputs[0];
    let (signal, announced) = match beacon {
        CohortBeacon::Smt => {
            let leaves: Vec<_> = (0..2)
                .map(|i| (did(i).smt_index(), leaf(i).value()))
                .collect();
            let tree = SmtTree::new(leaves.iter().copied()).unwrap();
            (tree.root(), Announced::Smt(leaves))
        }
        CohortBeacon::Cas => {
            let map = announcement();
            let text = String::from_utf8(map.canonical_bytes()).unwrap();
            (map.signal_bytes(), Announced::Cas(text))
        }
    };
    let rate = bitcoin::FeeRate::from_sat_per_vb(2).unwrap();
    let unsigned = fallback.build(&[tip], &script, signal, rate).unwrap();
    let digests = fallback.sighashes(&unsigned.tx, &[tip], &script).unwrap();
    let own = key("member 0");
    let signature = FallbackSignature {
        round: Round(1),
        txid: unsigned.tx.compute_txid(),
        sighashes: digests.iter().copied().map(Sighash::from_bytes).collect(),
        signatures: digests.iter().map(|digest| sign(&own, digest)).collect(),
    };
    // The second one's completes it.
    let made = (0..2).map(|i| key(&format!("member {i}")));
    let made: BTreeMap<_, _> = made
        .map(|own| (own.public(), sign(&own, &digests[0])))
        .collect();
    let witness = fallback.witness(keys.internal_key(), &made).unwrap();
    let check = fallback.check_witness(&witness, keys.internal_key(), &digests[0]);
    assert_eq!(check, Ok(()));
    let request = FallbackRequest {
        round: Round(1),
        sign_by: NOW.plus(93_601),
        prevouts: vec![PrevoutInfo {
            value_sat: tip.value.to_sat(),
            script,
        }],
        tx: TxHex(unsigned.tx),
        absent: vec![Seat(2)],
        announced,
        why: Some(RoundCause::NoResponse {
            absent: vec![Seat(2)],
        }),
        blamed: Vec::new(),
    };
    match beacon {
        CohortBeacon::Smt => vec![
            ("fallback_request", Message::FallbackRequest(request)),
            (
                "fallback_signature",
                Message::FallbackSignature(signed(&terms.cohort_id(), &own, signature)),
            ),
        ],
        CohortBeacon::Cas => vec![("fallback_request:cas", Message::FallbackRequest(request))],
    }
}
