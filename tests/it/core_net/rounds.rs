//! Deadlines, the chain's surprises, withheld signatures, and rules 4, 10 and 13.

use bitcoin::{Amount, ScriptBuf, Transaction};
use btcr2_agent::beacon::signal::finalize;
use btcr2_agent::beacon::smt::SmtTree;
use btcr2_agent::hash::{LeafValue, SchnorrSignature, SmtIndex};
use btcr2_agent::keys::musig::{aggregate_nonces, aggregate_partials};
use btcr2_agent::protocol::aggregator::{AggregatorInput, OpenRefusal};
use btcr2_agent::protocol::chain_view::TipView;
use btcr2_agent::protocol::effect::{Artifact, Ignored, Outcome, Report};
use btcr2_agent::protocol::message::{Message, RoundCause, RoundOpen, RoundResult};
use btcr2_agent::protocol::participant::{Decline, ParticipantInput};
use btcr2_agent::protocol::terms::CohortBeacon;
use btcr2_agent::protocol::{Label, Round, Seat};

use super::net::{Dest, Net, Setup};
use super::node::{key, update};

const BEACONS: [CohortBeacon; 2] = [CohortBeacon::Smt, CohortBeacon::Cas];

fn contradiction(outcome: &Outcome, words: &str) {
    let Outcome::Ignored(Ignored::Contradiction(text)) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(text.contains(words), "{text}");
}

/// Nothing of a type arrives from member 2 any more.
fn silence(net: &mut Net, type_name: &'static str) {
    net.hook = Some(Box::new(move |mail| {
        let lost = mail.from == key("member 2").public() && mail.message.type_name() == type_name;
        if lost { Vec::new() } else { vec![mail] }
    }));
}

#[test]
fn who_does_not_respond_is_named_and_the_updates_come_again() {
    for beacon in BEACONS {
        let mut net = Net::ready(Setup::new(beacon, 3).terms(|terms| terms.response_seconds = 60));
        net.queue(0, 0, "a");
        silence(&mut net, "response");
        net.open();
        assert_eq!(net.agg.waiting_for(), [Seat(2)]);
        net.advance(60);
        assert!(net.agg.open_round_progress().is_some(), "until it is over");
        net.advance(1);
        let report = Report::RoundFailed {
            round: Round(1),
            why: RoundCause::NoResponse {
                absent: vec![Seat(2)],
            },
        };
        assert!(net.agg_reports.contains(&report));
        assert!(net.nodes.iter().all(|node| node.reports.contains(&report)));
        // The response comes after all: too late for this round.
        let late = net.archive.iter().find(|mail| {
            mail.from == net.nodes[2].me() && matches!(mail.message, Message::Response(_))
        });
        let late = late.unwrap().clone();
        let outcome = net.deliver(late.from, late.to, late.message);
        assert!(matches!(outcome, Outcome::Ignored(Ignored::Refused(_))));
        net.hook = None;
        net.next_round_works();
        assert_eq!(net.proved(0, 0)[0], Some(Some(update("a"))));
    }
}

#[test]
fn who_does_not_sign_is_named() {
    let mut net = Net::ready(Setup::cas(3).terms(|terms| terms.signing_seconds = 60));
    net.queue(1, 0, "b");
    silence(&mut net, "partial_signature");
    net.open();
    assert_eq!(net.agg.waiting_for(), [Seat(2)]);
    net.advance(61);
    let report = Report::RoundFailed {
        round: Round(1),
        why: RoundCause::NoSignature {
            absent: vec![Seat(2)],
        },
    };
    assert!(net.agg_reports.contains(&report));
    assert!(net.nodes.iter().all(|node| node.reports.contains(&report)));
    net.hook = None;
    net.next_round_works();
    assert_eq!(net.proved(1, 0)[0], Some(Some(update("b"))));
}

#[test]
fn an_opening_that_comes_too_late_is_not_answered() {
    let mut net = Net::ready(Setup::smt(2).terms(|terms| terms.response_seconds = 60));
    net.queue(0, 0, "a");
    net.hold = Some("round_open");
    net.open();
    let late = net.keep_back(Dest::Member(0));
    net.advance(61);
    assert!(net.on_its_way("round_request").is_none());
    assert_eq!(
        net.deliver(late.from, late.to, late.message),
        Outcome::Ignored(Ignored::TooLate)
    );
    let missed = Report::RoundMissed { round: Round(1) };
    assert!(net.nodes[0].reports.contains(&missed));
    assert!(!net.nodes[1].reports.contains(&missed));
    // What waits is asked for again, and the next round announces it.
    assert!(net.on_its_way("round_request").is_some());
    net.next_round_works();
    assert_eq!(net.proved(0, 0)[0], Some(Some(update("a"))));
}

#[test]
fn an_opening_that_undercounts_my_indexes() {
    for beacon in BEACONS {
        let mut net = Net::ready(Setup::new(beacon, 2).dids(&[2, 1]));
        let bad = RoundOpen {
            round: Round(1),
            respond_by: net.now.plus(100),
            indexes: [(Seat(0), 1), (Seat(1), 1)].into(),
            inputs: 1,
        };
        let outcome = net.tell(0, Message::RoundOpen(bad));
        contradiction(&outcome, "covers 1 of my 2 indexes");
        assert_eq!(net.nodes[0].alarms().len(), 1);
        assert!(net.mail.is_empty(), "no response");
        assert_eq!(net.nodes[0].core.open_round(), None);
        net.next_round_works();
    }
}

#[test]
fn a_result_that_is_wrong() {
    for beacon in BEACONS {
        let mut net = Net::ready(Setup::new(beacon, 2));
        net.queue(0, 0, "a");
        net.hold = Some("round_result");
        net.open();
        let Message::RoundResult(good) = net.held[0].message.clone() else {
            unreachable!()
        };
        let with = |change: fn(&mut Transaction)| {
            let mut tx = good.tx.clone().unwrap();
            change(&mut tx.0);
            Message::RoundResult(RoundResult {
                round: Round(1),
                tx: Some(tx),
            })
        };
        let flip = |tx: &mut Transaction| {
            let mut signature = tx.input[0].witness.nth(0).unwrap().to_vec();
            signature[3] ^= 1;
            tx.input[0].witness = bitcoin::Witness::from_slice(&[signature]);
        };
        let cases: [(&str, Message); 6] = [
            ("does not verify", with(flip)),
            ("does not verify", with(|tx| tx.input[0].witness.clear())),
            (
                "does not verify",
                with(|tx| tx.input[0].witness.push([0x50])),
            ),
            (
                "did not sign",
                with(|tx| tx.output[0].value -= Amount::ONE_SAT),
            ),
            ("did not sign", {
                let mut other = good.clone();
                other.round = Round(2);
                Message::RoundResult(other)
            }),
            // It signed; nobody can call the round empty.
            (
                "empty that is not",
                Message::RoundResult(RoundResult {
                    round: Round(1),
                    tx: None,
                }),
            ),
        ];
        for (words, message) in cases {
            contradiction(&net.tell(0, message), words);
        }
        assert_eq!(net.nodes[0].alarms().len(), 6);
        net.finish();
    }
}

#[test]
fn a_round_called_empty_although_i_had_an_update() {
    for hold in ["sign_request", "response"] {
        let mut net = Net::ready(Setup::cas(2).decline(Decline::Idle));
        net.queue(0, 0, "mine");
        net.hold = Some(hold);
        net.open();
        let empty = RoundResult {
            round: Round(1),
            tx: None,
        };
        let outcome = net.tell(0, Message::RoundResult(empty));
        contradiction(&outcome, "empty that is not");
        net.release();
        assert_eq!(net.agg.signals_signed(), 1);
        net.mine(1);
        assert_eq!(net.proved(0, 0), [Some(Some(update("mine")))]);
    }
}

/// Also not before the member has said anything: its nonces are still being made.
#[test]
fn a_round_called_empty_before_i_answered() {
    let mut net = Net::ready(Setup::cas(2).decline(Decline::Idle));
    net.queue(0, 0, "mine");
    net.nodes[0].hangs_at_prepare = true;
    net.open();
    let empty = RoundResult {
        round: Round(1),
        tx: None,
    };
    let outcome = net.tell(0, Message::RoundResult(empty));
    contradiction(&outcome, "empty that is not");
    net.restart(0);
    net.run();
    assert_eq!(net.agg.signals_signed(), 1);
    net.mine(1);
    assert_eq!(net.proved(0, 0), [Some(Some(update("mine")))]);
}

// ---- the chain ------------------------------------------------------------------------------------------------

#[test]
fn a_reorg_of_a_confirmed_signal() {
    for beacon in BEACONS {
        let mut net = Net::ready(Setup::new(beacon, 2));
        net.queue(0, 0, "a");
        let tx = net.round();
        let txid = tx.compute_txid();
        let index = net.nodes[0].dids[0].index;
        let announced = |net: &Net| net.nodes[0].core.update_state(&index).unwrap().1;
        assert!(announced(&net));
        net.chain.reorg(1);
        net.sync();
        let report = Report::SignalReorganised {
            round: Round(1),
            txid,
        };
        assert!(net.agg_reports.contains(&report));
        assert!(net.nodes.iter().all(|node| node.reports.contains(&report)));
        assert!(!announced(&net), "rule 9: states move back");
        assert_eq!(
            net.agg.open_refusal(),
            Some(OpenRefusal::PreviousUnconfirmed(txid))
        );
        assert!(matches!(
            net.agg_input(AggregatorInput::OpenRound),
            Outcome::Ignored(Ignored::Contradiction(_))
        ));
        net.mine(1);
        assert!(announced(&net));
        net.next_round_works();
    }
}

#[test]
fn a_tip_that_is_reorganised_away_under_a_round() {
    for beacon in BEACONS {
        let mut net = Net::ready(Setup::new(beacon, 2));
        net.queue(0, 0, "a");
        net.agg_input(AggregatorInput::OpenRound);
        net.run_until("sign_request");
        // The block that confirmed the funding is gone before anybody has signed.
        net.chain.reorg(net.chain.height);
        net.sync();
        assert!(net.agg_reports.contains(&Report::RoundFailed {
            round: Round(1),
            why: RoundCause::TipMoved,
        }));
        net.run();
        assert!(net.signed_txs().is_empty());
        net.mine(1);
        net.next_round_works();
    }
}

#[test]
fn a_signal_that_dropped_out_of_the_mempool_is_sent_again() {
    let mut net = Net::ready(Setup::smt(2));
    net.open();
    let txid = net.signed_txs()[0].1.compute_txid();
    net.chain.drop_tx(&txid);
    net.sync();
    net.advance(59);
    assert!(!net.chain.contains(&txid));
    net.advance(1);
    assert!(net.chain.contains(&txid));
    net.mine(1);
    net.next_round_works();
}

#[test]
fn a_chain_that_refuses_the_signal_is_reported() {
    let mut net = Net::ready(Setup::smt(2));
    let report = |net: &Net| {
        let failed = |report: &&Report| matches!(report, Report::BroadcastFailed { .. });
        net.agg_reports.iter().filter(failed).count()
    };
    net.hold = Some("partial_signature");
    net.open();
    let mut rival = net.nodes[0].core.given()[0].tx.clone();
    rival.output[0].value -= Amount::from_sat(5);
    net.chain.force(rival);
    net.release();
    assert_eq!(report(&net), 1);
    assert_eq!(
        net.agg_input(AggregatorInput::Broadcast {
            txid: net.agg.unsettled()[0].input().txid,
            error: None,
            fee_too_low: false,
        }),
        Outcome::Ignored(Ignored::Unasked)
    );
}

/// Somebody spends the beacon without this member: an n-of-n key that signs without one of its n.
#[test]
fn an_unknown_spend_raises_an_alarm() {
    for signal in [None, Some([7; 32])] {
        let mut net = Net::ready(Setup::smt(2));
        let first = net.round();
        let txid = rogue(&mut net, signal);
        net.sync();
        let report = Report::UnknownSpend { txid };
        for node in &net.nodes {
            let alarms = node.reports.iter().filter(|known| **known == report);
            assert_eq!(alarms.count(), 1);
            let known = Report::UnknownSpend {
                txid: first.compute_txid(),
            };
            assert!(!node.reports.contains(&known), "its own signals are known");
        }
        net.mine(1);
        for node in &net.nodes {
            let alarms = node.reports.iter().filter(|known| **known == report);
            assert_eq!(alarms.count(), 1, "once");
        }
        let alarms = net.agg_reports.iter().filter(|known| **known == report);
        assert_eq!(alarms.count(), 1, "the operator too");
    }
}

/// Spends the tip without the members, with change, and gives the transaction's id.
pub(super) fn rogue(net: &mut Net, signal: Option<[u8; 32]>) -> bitcoin::Txid {
    let TipView::Ready {
        outpoint,
        value_sat,
        ..
    } = net.agg.chain().tip
    else {
        panic!("{:?}", net.agg.chain().tip)
    };
    let mut tx = net.signed_txs()[0].1.clone();
    tx.input[0].previous_output = outpoint;
    tx.output[0].value = Amount::from_sat(value_sat - 1_000);
    match signal {
        Some(signal) => {
            let script = [&[0x6a, 0x20][..], &signal].concat();
            tx.output[1].script_pubkey = ScriptBuf::from_bytes(script);
        }
        None => tx.output.truncate(1),
    }
    let txid = tx.compute_txid();
    net.chain.force(tx);
    txid
}

/// Rule 13: a DID that lists the beacon lacks a proof; nothing is signed until the history came.
#[test]
fn a_bound_index_that_lacks_a_proof() {
    let mut net = Net::ready(Setup::smt(2));
    net.round();
    let other = SmtIndex::from_bytes([0x55; 32]);
    let leaves = vec![(other, LeafValue::from_bytes([1; 32]))];
    let signal = SmtTree::new(leaves.iter().copied()).unwrap().root();
    let txid = rogue(&mut net, Some(signal.to_bytes()));
    net.mine(1);
    // Both asked, and the aggregator has nothing.
    let index = net.nodes[0].dids[0].index;
    assert_eq!(net.nodes[0].core.proof_counts(&index), (1, 1));
    net.queue(0, 0, "a");
    net.open();
    assert_eq!(net.agg.signals_signed(), 1);
    for node in &net.nodes {
        assert!(node.refusals()[0].contains("proofs of earlier signals are missing"));
        assert_eq!(node.rounds_signed(), 1);
    }
    net.agg_saved.push(Artifact::LeafSet {
        round: Round(99),
        signal,
        txid,
        leaves,
    });
    // The next block asks again.
    net.mine(1);
    assert_eq!(net.agg.signals_signed(), 2, "now it is signed");
    net.mine(1);
    assert_eq!(
        net.proved(0, 0),
        [Some(None), Some(None), Some(Some(update("a")))]
    );
}

// ---- withheld signatures --------------------------------------------------------------------------------------

/// Completes a round's transaction out of all partial signatures that were ever sent for it: what an
/// aggregator can do that says the round has failed.
fn complete(net: &Net, round: Round) -> Transaction {
    let (_, keys) = net.agg.set().unwrap();
    let all: Vec<_> = net
        .archive
        .iter()
        .filter_map(|mail| match &mail.message {
            Message::PartialSignature(signed) if signed.content.round == round => {
                Some(&signed.content)
            }
            _ => None,
        })
        .collect();
    assert_eq!(all.len(), keys.len());
    let nonces: Vec<_> = all.iter().map(|p| p.nonces[&Label::SIGNAL]).collect();
    let given = net.nodes[0].core.given();
    let given = given.iter().find(|given| given.round == round).unwrap();
    let signature: SchnorrSignature = aggregate_partials(
        keys,
        &aggregate_nonces(&nonces).unwrap(),
        given.sighashes[0].as_bytes(),
        all.iter().map(|p| p.partials[&Label::SIGNAL]),
    )
    .unwrap();
    finalize(given.tx.clone(), &[signature])
}

/// Round 1 is signed by all, but its last partial signature "does not arrive"; round 2 announces again.
fn withheld(beacon: CohortBeacon) -> (Net, Transaction, Transaction) {
    let mut net = Net::ready(Setup::new(beacon, 3).terms(|terms| terms.signing_seconds = 60));
    net.queue(0, 0, "a");
    silence(&mut net, "partial_signature");
    net.open();
    net.hook = None;
    net.advance(61);
    assert_eq!(net.agg.signals_signed(), 0);
    let first = complete(&net, Round(1));
    net.chain.verify(&first).unwrap();
    // Rule 10: until the first signal is dead, nothing else is announced for the DID.
    contradiction(&net.queue(0, 0, "other"), "not final");
    let index = net.nodes[0].dids[0].index;
    assert_eq!(
        net.input(0, ParticipantInput::Withdraw { index }),
        Outcome::Ignored(Ignored::TooLate)
    );
    net.queue(1, 0, "b");
    net.open();
    assert_eq!(net.agg.signals_signed(), 1);
    let second = net.signed_txs()[0].1.clone();
    assert_eq!(
        first.input[0].previous_output, second.input[0].previous_output,
        "rule 4: they conflict"
    );
    assert_ne!(first.compute_txid(), second.compute_txid());
    (net, first, second)
}

/// The artifacts of both signals are kept: whichever confirms, the DID resolves.
fn both_are_kept(net: &Net) {
    for node in &net.nodes {
        for round in [Round(1), Round(2)] {
            let kept = node.saved.iter().any(|artifact| {
                matches!(artifact,
                    Artifact::SmtProof { round: of, .. } | Artifact::Announcement { round: of, .. }
                        if *of == round)
            });
            assert!(kept);
        }
        assert_eq!(node.rounds_signed(), 2);
    }
}

#[test]
fn a_withheld_signature_and_the_later_signal_confirms() {
    for beacon in BEACONS {
        let (mut net, first, second) = withheld(beacon);
        both_are_kept(&net);
        net.mine(1);
        assert!(net.chain.height_of(&second.compute_txid()).is_some());
        assert!(net.chain.accept(&first).is_err(), "only one confirms");
        assert_eq!(
            net.proved(0, 0),
            [Some(Some(update("a")))],
            "the same bytes"
        );
        assert_eq!(net.proved(1, 0), [Some(Some(update("b")))]);
        // The withheld one is out of the way at the depth of the terms.
        net.next_round_works();
        assert_eq!(net.proved(0, 0).len(), 2);
    }
}

#[test]
fn a_withheld_signature_and_the_withheld_signal_confirms() {
    for beacon in BEACONS {
        let (mut net, first, second) = withheld(beacon);
        both_are_kept(&net);
        net.chain.replace(&first).unwrap();
        net.mine(1);
        assert!(!net.chain.contains(&second.compute_txid()));
        assert_eq!(
            net.proved(0, 0),
            [Some(Some(update("a")))],
            "the same bytes"
        );
        assert_eq!(net.proved(1, 0), [Some(None)]);
        let index = net.nodes[1].dids[0].index;
        assert_eq!(
            net.nodes[1].core.update_state(&index),
            Some((update("b"), false)),
            "it still waits"
        );
        let confirmed = Report::SignalConfirmed {
            round: Round(1),
            txid: first.compute_txid(),
            height: net.chain.height,
        };
        for node in &net.nodes {
            assert!(node.reports.contains(&confirmed));
            let unknown = |report: &Report| matches!(report, Report::UnknownSpend { .. });
            assert!(!node.reports.iter().any(unknown), "all had signed it");
        }
        net.next_round_works();
        assert_eq!(
            net.proved(1, 0),
            [Some(None), Some(Some(update("b")))],
            "announced again, with the same bytes"
        );
    }
}

/// Rule 4: while a signal that was signed may confirm, none that spends something else is signed.
#[test]
fn two_signals_that_could_both_confirm() {
    let mut net = Net::ready(Setup::cas(3).terms(|terms| terms.signing_seconds = 60));
    net.queue(0, 0, "a");
    silence(&mut net, "partial_signature");
    net.open();
    net.hook = None;
    net.advance(61);
    let given = net.nodes[0].core.given()[0].clone();
    // The funding is reorganised away for good; other money is there.
    let script = net.script();
    net.chain.reorg(1);
    net.chain.drop_tx(&given.input.txid);
    let other = net.chain.fund(&script, 70_000);
    net.mine(1);
    net.open();
    let request = net.last_sent("sign_request");
    let Message::SignRequest(request) = request.message else {
        unreachable!()
    };
    assert_eq!(request.rungs[0].tx.0.input[0].previous_output, other);
    for node in &net.nodes {
        assert!(node.refusals()[0].contains("may still confirm"));
        assert_eq!(node.rounds_signed(), 1);
    }
}
