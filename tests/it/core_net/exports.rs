//! What is being signed, as PSBTs that other tools read: every key, nonce and partial signature in them verifies.

use std::collections::BTreeSet;

use bitcoin::TxOut;
use bitcoin::psbt::Psbt;
use btcr2_agent::beacon::address::beacon_script;
use btcr2_agent::beacon::psbt::{InputFault, Packet, Signing};
use btcr2_agent::keys::NostrKey;
use btcr2_agent::keys::musig::KeySet;
use btcr2_agent::protocol::export::Unsigned;
use btcr2_agent::protocol::terms::{CohortBeacon, OutputPolicy};
use btcr2_agent::protocol::{Label, Round};

use super::fallback::{BEACONS, leave, setup};
use super::net::{Dest, Net, Setup};

/// Members sign, all but the last, whose partial signature stays on its way.
fn all_but_one_signed(setup: Setup, n: usize) -> Net {
    let mut net = Net::ready(setup);
    net.hold = Some("partial_signature");
    net.open();
    assert_eq!(net.held.len(), n);
    net.hold = None;
    let last = net.held.pop().unwrap();
    let early: Vec<_> = net.held.drain(..).collect();
    for mail in early {
        net.deliver(mail.from, Dest::Aggregator, mail.message);
    }
    net.held.push(last);
    net
}

fn key_set(net: &Net) -> KeySet {
    net.agg.set().unwrap().1.clone()
}

/// Written as both versions, and read again.
fn packets(unsigned: &Unsigned, keys: &KeySet) -> [Packet; 2] {
    let zero = unsigned.to_psbt(keys).unwrap().serialize();
    let two = Packet::to_version_2(&zero).unwrap();
    assert_ne!(zero, two);
    let packets = [zero, two].map(|bytes| Packet::parse(&bytes).unwrap());
    assert_eq!(packets.each_ref().map(Packet::version), [0, 2]);
    packets
}

#[test]
fn what_is_exported_is_verified_in_both_versions() {
    for (beacon, n, policy) in [
        (CohortBeacon::Smt, 2, OutputPolicy::Musig2KeyPath),
        (CohortBeacon::Cas, 3, OutputPolicy::Musig2KeyPath),
        (CohortBeacon::Smt, 5, OutputPolicy::KOfN(2)),
    ] {
        let setup = Setup::new(beacon, n).refunds().terms(|terms| {
            terms.output_policy = policy;
            terms.seats_min = terms.seats_max;
        });
        let net = all_but_one_signed(setup, n);
        let keys = key_set(&net);
        assert_eq!(
            keys.script_root().is_some(),
            policy != OutputPolicy::Musig2KeyPath
        );
        let everybody: BTreeSet<NostrKey> = keys.keys().iter().copied().collect();
        let missing = net.held[0].from;
        let of_aggregator = net.agg.unsigned();
        let labels: Vec<Label> = of_aggregator.iter().map(|one| one.label).collect();
        let named = |name: &str| name.parse::<Label>().unwrap();
        assert_eq!(
            labels,
            [
                "signal/1", "refund/1", "signal/2", "refund/2", "signal/3", "refund/3"
            ]
            .map(named)
        );
        for unsigned in &of_aggregator {
            for packet in packets(unsigned, &keys) {
                assert_eq!(packet.tx(), &unsigned.tx);
                let checked = packet.check().remove(0).unwrap();
                assert_eq!(checked.keys.as_ref(), Some(&keys));
                assert_eq!(checked.nonces, everybody);
                let mut signed = everybody.clone();
                assert!(signed.remove(&missing));
                assert_eq!(checked.partials, signed);
                assert_eq!(
                    (checked.unverified.len(), checked.signing),
                    (0, Signing::Open)
                );
                assert_eq!(checked.foreign_fields, 0);
                assert!(packet.fee().is_some());
            }
        }
        // A member shows its own nonce only: its signature can not be verified by that.
        let own = &net.nodes[0].core.unsigned()[0];
        assert_eq!(own.tx, of_aggregator[0].tx);
        let me = net.nodes[0].me();
        let checked = packets(own, &keys)[1].check().remove(0).unwrap();
        assert_eq!(checked.nonces, BTreeSet::from([me]));
        assert_eq!(checked.unverified, BTreeSet::from([me]));
    }
}

/// The last partial signature makes it complete; another transaction's is refused.
#[test]
fn partial_signatures_add_up_to_the_signal_that_is_sent() {
    let mut net = all_but_one_signed(Setup::cas(3).refunds(), 3);
    let keys = key_set(&net);
    let mut first = net.agg.unsigned().remove(0);
    let last = net.held.pop().unwrap();
    let partials = match &last.message {
        btcr2_agent::protocol::message::Message::PartialSignature(signed) => {
            signed.content.partials.clone()
        }
        other => panic!("{other:?}"),
    };
    let share = first
        .shares
        .iter_mut()
        .find(|share| share.member == last.from);
    share.unwrap().partial = Some(partials[&Label::SIGNAL]);
    let checked = packets(&first, &keys)[0].check().remove(0).unwrap();
    let Signing::AddsUp(signature) = checked.signing else {
        panic!("{checked:?}");
    };
    net.deliver(last.from, Dest::Aggregator, last.message);
    net.run();
    let (round, sent) = net.signed_txs().remove(0);
    assert_eq!(round, Round(1));
    assert_eq!(sent.input[0].witness.nth(0).unwrap(), signature.as_bytes());

    let share = first
        .shares
        .iter_mut()
        .find(|share| share.member == last.from);
    let second: Label = "signal/2".parse().unwrap();
    share.unwrap().partial = Some(partials[&second]);
    let fault = packets(&first, &keys)[1].check().remove(0).unwrap_err();
    assert_eq!(fault, InputFault::WrongPartial(last.from));
}

/// A signal that k members signed through the leaf is verified, and found out when anything in it is changed.
#[test]
fn a_signal_through_the_leaf_is_verified() {
    for (beacon, n, k) in [(BEACONS[0], 3, 2), (BEACONS[1], 4, 1), (BEACONS[0], 5, 4)] {
        let mut net = Net::ready(setup(beacon, n, k));
        net.queue(0, 0, "a");
        let _away = leave(&mut net, &[n - 1]);
        net.open();
        net.advance(61);
        let (_, tx) = net.signed_txs().pop().unwrap();
        let keys = key_set(&net);
        let mut unsigned = tx.clone();
        unsigned.input[0].witness.clear();
        let unsigned = Unsigned {
            label: Label::SIGNAL,
            prevouts: vec![TxOut {
                value: net
                    .chain
                    .output(&tx.input[0].previous_output)
                    .unwrap()
                    .value,
                script_pubkey: beacon_script(keys.output_key()),
            }],
            tx: unsigned,
            shares: Vec::new(),
        };
        let mut psbt = unsigned.to_psbt(&keys).unwrap();
        psbt.inputs[0].final_script_witness = Some(tx.input[0].witness.clone());
        let signing = |psbt: &Psbt| {
            let packet = Packet::parse(&psbt.serialize()).unwrap();
            packet.check().remove(0).map(|checked| checked.signing)
        };
        assert_eq!(signing(&psbt), Ok(Signing::Leaf(k)));
        assert_eq!(Packet::parse(&psbt.serialize()).unwrap().extracted(), tx);
        let mut other = psbt.clone();
        other.unsigned_tx.output[0].value -= bitcoin::Amount::ONE_SAT;
        assert_eq!(signing(&other), Err(InputFault::WrongSignature));
        let mut fewer: Vec<Vec<u8>> = tx.input[0].witness.to_vec();
        let signature = fewer.iter().position(|item| item.len() == 64).unwrap();
        fewer[signature].clear();
        psbt.inputs[0].final_script_witness = Some(bitcoin::Witness::from_slice(&fewer));
        assert_eq!(signing(&psbt), Err(InputFault::WrongSignature));
    }
}
