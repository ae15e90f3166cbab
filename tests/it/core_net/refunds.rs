//! Refunds of what is paid to the beacon address: every output gets one, before anybody depends on it; nonces are
//! never used twice; nobody but the payees can be paid.

use std::collections::BTreeMap;

use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction};
use btcr2_agent::beacon::refund::{matures_at, verify_refund};
use btcr2_agent::beacon::signal::{BeaconOutput, signal_of};
use btcr2_agent::keys::PartialSignature;
use btcr2_agent::protocol::aggregator::{AggregatorInput, OpenRefusal};
use btcr2_agent::protocol::effect::{Artifact, Ignored, Outcome, Report};
use btcr2_agent::protocol::evidence::{Blame, BlameError, Fault, Sighash};
use btcr2_agent::protocol::message::{Message, TxHex};
use btcr2_agent::protocol::participant::{MemberPhase, ParticipantInput};
use btcr2_agent::protocol::refund_message::{
    RefundComplete, RefundNonces, RefundOpen, RefundPartial, RefundRequest,
};
use btcr2_agent::protocol::terms::{CohortBeacon, Funding};
use btcr2_agent::protocol::{Label, Seat};

use super::net::{Dest, HOUR, Net, Setup};
use super::node::key;

fn setup(beacon: CohortBeacon, n: usize, funding: Funding) -> Setup {
    Setup::new(beacon, n).refunds().terms(|terms| {
        terms.funding = funding;
        terms.refund_blocks = 144;
        terms.sessions_max = 8;
    })
}

/// Formed, with refunds, not funded.
fn formed(n: usize, funding: Funding) -> Net {
    let mut net = Net::new(setup(CohortBeacon::Smt, n, funding));
    net.form();
    net
}

fn outpoint(n: u8) -> OutPoint {
    format!("{}:{n}", "ab".repeat(32)).parse().unwrap()
}

/// The refunds somebody saved.
fn refunds(saved: &[Artifact]) -> Vec<(OutPoint, u64, Transaction)> {
    saved
        .iter()
        .filter_map(|artifact| match artifact {
            Artifact::Refund {
                outpoint,
                value_sat,
                tx,
            } => Some((*outpoint, *value_sat, tx.clone())),
            _ => None,
        })
        .collect()
}

fn failures(net: &Net) -> Vec<(OutPoint, Vec<Seat>)> {
    net.agg_reports
        .iter()
        .filter_map(|report| match report {
            Report::RefundFailed { outpoint, absent } => Some((*outpoint, absent.clone())),
            _ => None,
        })
        .collect()
}

fn sessions(net: &Net) -> Vec<(u32, u32)> {
    let mut opened: Vec<_> = net
        .archive
        .iter()
        .filter_map(|mail| match &mail.message {
            Message::RefundOpen(open) => Some((open.deposit, open.attempt)),
            _ => None,
        })
        .collect();
    opened.dedup();
    opened
}

fn output(outpoint: OutPoint, sat: u64) -> BeaconOutput {
    BeaconOutput {
        outpoint,
        value: Amount::from_sat(sat),
        height: None,
    }
}

/// Every payment to the address is refunded to who funds, in equal shares, after the lock; the refund is kept by
/// the aggregator and its payees, and by nobody else.
#[test]
fn every_payment_gets_its_refund_at_once() {
    for (beacon, n, funding) in [
        (CohortBeacon::Smt, 1, Funding::Aggregator),
        (CohortBeacon::Smt, 3, Funding::Aggregator),
        (CohortBeacon::Cas, 2, Funding::Members),
        (CohortBeacon::Smt, 5, Funding::Members),
    ] {
        let mut net = Net::new(setup(beacon, n, funding));
        net.form();
        let script = net.script();
        let first = net.chain.fund(&script, 100_000);
        let second = net.chain.fund(&script, 33_333);
        // Not in a block yet.
        net.sync();
        net.run();
        assert_eq!(sessions(&net), [(1, 1), (2, 1)]);
        let payees: Vec<ScriptBuf> = match funding {
            Funding::Aggregator => vec![net.payee("aggregator").unwrap()],
            Funding::Members => (0..n)
                .map(|i| net.payee(&format!("member {i}")).unwrap())
                .collect(),
        };
        let kept = refunds(&net.agg_saved);
        assert_eq!(kept.len(), 2);
        // The larger one first.
        assert_eq!((kept[0].0, kept[0].1), (first, 100_000));
        assert_eq!((kept[1].0, kept[1].1), (second, 33_333));
        for (outpoint, sat, tx) in &kept {
            assert_eq!(tx.input[0].previous_output, *outpoint);
            assert_eq!(tx.input[0].sequence, Sequence::from_height(144));
            assert_eq!(signal_of(tx), None);
            let scripts: Vec<_> = tx.output.iter().map(|o| o.script_pubkey.clone()).collect();
            assert_eq!(scripts, payees);
            verify_refund(tx, &output(*outpoint, *sat), &script, 144, &payees).unwrap();
            // 5 sat/vB, as the chain says.
            let paid: Amount = tx.output.iter().map(|o| o.value).sum();
            let fee = sat - paid.to_sat();
            assert_eq!(fee, tx.weight().to_wu().div_ceil(4) * 5);
            assert_eq!(net.agg.refund_of(outpoint).unwrap().tx, *tx);
            assert!(net.agg.is_refund(&tx.compute_txid()));
            // Bitcoin Core's own verification, and a flipped byte is refused.
            net.chain.verify(tx).unwrap();
        }
        for node in &net.nodes {
            let held = refunds(&node.saved);
            match funding {
                Funding::Aggregator => assert_eq!(held, []),
                Funding::Members => assert_eq!(held, kept),
            }
            assert!(
                kept.iter()
                    .all(|(_, _, tx)| node.core.is_refund(&tx.compute_txid()))
            );
            assert_eq!(node.alarms(), [""; 0]);
        }
        // Nothing is signed again when the block comes.
        net.mine(3);
        assert_eq!(sessions(&net).len(), 2);
        assert_eq!(net.agg.refund_session(), None);
        assert_eq!(net.agg.deadline(), None);
    }
}

/// Before anything is paid: the session is also the rehearsal that shows whether everybody answers.
#[test]
fn a_refund_is_complete_before_anybody_pays() {
    let mut net = formed(3, Funding::Aggregator);
    let planned = [(outpoint(0), 70_000), (outpoint(3), 50_000)];
    let outcome = net.agg_input(AggregatorInput::Protect {
        outputs: planned.to_vec(),
    });
    assert_eq!(outcome, Outcome::Accepted);
    assert!(net.agg.refund_is_awaited(&outpoint(3)));
    net.run();
    let kept = refunds(&net.agg_saved);
    let pairs: Vec<_> = kept
        .iter()
        .map(|(outpoint, sat, _)| (*outpoint, *sat))
        .collect();
    assert_eq!(pairs, planned);
    assert!(!net.agg.refund_is_awaited(&outpoint(3)));
    // Asked for again, it is there; with another value it is another refund.
    net.agg_input(AggregatorInput::Protect {
        outputs: vec![planned[0]],
    });
    net.run();
    assert_eq!(sessions(&net).len(), 2);
    net.agg_input(AggregatorInput::Protect {
        outputs: vec![(outpoint(0), 70_001)],
    });
    net.run();
    assert_eq!(refunds(&net.agg_saved).len(), 3);
    assert_eq!(
        net.agg.refund_of(&outpoint(0)).unwrap().value.to_sat(),
        70_001
    );
}

#[test]
fn what_can_not_be_protected_is_refused_by_name() {
    let protect = |net: &mut Net, sat: u64, many: u8| {
        let outputs = (0..many).map(|n| (outpoint(n), sat)).collect();
        match net.agg_input(AggregatorInput::Protect { outputs }) {
            Outcome::Accepted => String::new(),
            Outcome::Ignored(Ignored::Contradiction(text)) => text,
            other => panic!("{other:?}"),
        }
    };
    let mut net = formed(2, Funding::Aggregator);
    net.sync();
    // 111 vB at 5 sat/vB and the smallest taproot output.
    assert!(protect(&mut net, 884, 1).contains("885 sat can be refunded"));
    assert_eq!(protect(&mut net, 885, 1), "");
    assert!(protect(&mut net, 10_000, 17).contains("more than 16"));
    let mut without = Net::new(Setup::smt(2));
    without.form();
    assert!(protect(&mut without, 10_000, 1).contains("has no refunds"));
}

#[test]
fn without_a_payee_or_a_lock_there_are_no_refunds() {
    let no_lock = Setup::smt(2)
        .refunds()
        .terms(|terms| terms.refund_blocks = 0);
    for setup in [Setup::smt(2), no_lock] {
        let mut net = Net::ready(setup);
        assert_eq!(sessions(&net), []);
        assert_eq!(net.agg.refund_session(), None);
        // A member signs none either.
        let open = RefundOpen {
            deposit: 1,
            attempt: 1,
            outpoint: outpoint(0),
            value_sat: 50_000,
            until: net.now.plus(HOUR),
        };
        assert_eq!(
            net.tell(0, Message::RefundOpen(open)),
            Outcome::Ignored(Ignored::Contradiction("these terms have no refunds".into()))
        );
    }
}

/// What happens to a member in the middle of a session.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mishap {
    Restart,
    Forgets,
    DiesAtSign,
    DiesAtPrepare,
}

const MISHAPS: [Mishap; 4] = [
    Mishap::Restart,
    Mishap::Forgets,
    Mishap::DiesAtSign,
    Mishap::DiesAtPrepare,
];

/// A session in which mishaps happen after so many deliveries. Gives the deliveries and the attempts it took.
/// Rule 1 is checked by the net: no public nonce is signed for twice.
fn session_with(shuffle: Option<u64>, mishaps: &[(usize, usize, Mishap)]) -> (usize, u32) {
    let mut net = formed(3, Funding::Members);
    let script = net.script();
    net.chain.fund(&script, 100_000);
    net.shuffle = shuffle;
    net.sync();
    let mut steps = 0;
    loop {
        for (at, i, mishap) in mishaps {
            if *at == steps {
                match mishap {
                    Mishap::Restart => net.restart(*i),
                    Mishap::Forgets => {
                        net.nodes[*i].signer.drop_all_nonces();
                    }
                    Mishap::DiesAtSign => net.nodes[*i].dies_at_sign = true,
                    Mishap::DiesAtPrepare => net.nodes[*i].dies_at_prepare = true,
                }
            }
        }
        if !net.step() {
            break;
        }
        steps += 1;
    }
    let kept = refunds(&net.agg_saved);
    assert_eq!(
        kept.len(),
        1,
        "{shuffle:?} {mishaps:?}: {:?}",
        sessions(&net)
    );
    net.chain.verify(&kept[0].2).unwrap();
    for node in &net.nodes {
        assert_eq!(refunds(&node.saved), kept);
        assert_eq!(node.alarms(), [""; 0]);
    }
    let attempts = sessions(&net).into_iter().map(|(_, attempt)| attempt).max();
    (steps, attempts.unwrap())
}

#[test]
fn nonces_lost_at_every_point_of_a_refund_session() {
    let (total, attempts) = session_with(None, &[]);
    assert_eq!(attempts, 1);
    for mishap in MISHAPS {
        let mut most = 0;
        for at in 0..=total {
            let (_, attempts) = session_with(None, &[(at, 1, mishap)]);
            most = most.max(attempts);
        }
        match mishap {
            Mishap::DiesAtPrepare => assert_eq!(most, 1, "the nonces were only late"),
            _ => assert_eq!(most, 2, "{mishap:?} costs one attempt at most"),
        }
    }
}

#[test]
fn several_mishaps_in_any_order_of_delivery_and_twice_delivered() {
    for seed in 0..16_u64 {
        let mishap = |n: u64| MISHAPS[usize::try_from(seed + n).unwrap() % 4];
        let at = |n: u64| usize::try_from(seed.wrapping_mul(7 + n) % 13).unwrap();
        session_with(
            Some(seed),
            &[
                (at(0), 0, mishap(0)),
                (at(1), 1, mishap(1)),
                (at(2), 0, mishap(3)),
            ],
        );
    }
    let mut net = formed(3, Funding::Members);
    net.duplicate = true;
    net.shuffle = Some(5);
    net.fund(50_000);
    assert_eq!(refunds(&net.agg_saved).len(), 1);
    assert!(net.nodes.iter().all(|node| refunds(&node.saved).len() == 1));
}

/// Nobody is blamed for being away; the session is held again later, under another number.
#[test]
fn who_does_not_answer_is_named_and_asked_again() {
    for held in ["refund_nonces", "refund_partial"] {
        let mut net = formed(3, Funding::Aggregator);
        let script = net.script();
        let paid = net.chain.fund(&script, 100_000);
        net.hold = Some(held);
        net.sync();
        net.run();
        // Of the three, seat 1 is away.
        let me = net.nodes[1].me();
        net.held.retain(|mail| mail.from != me);
        net.release();
        assert_eq!(net.agg.refund_session().unwrap().waiting_for, [Seat(1)]);
        let signing = u64::from(net.agg.terms().signing_seconds);
        net.advance(signing + 1);
        assert_eq!(failures(&net), [(paid, vec![Seat(1)])]);
        assert_eq!(net.agg.refund_failed(&paid), Some(&[Seat(1)][..]));
        assert_eq!(net.agg.refund_of(&paid), None);
        assert_eq!(sessions(&net), [(1, 1)]);
        net.advance(HOUR);
        assert_eq!(sessions(&net), [(1, 1), (2, 1)]);
        assert!(net.agg.refund_of(&paid).is_some());
        assert_eq!(net.agg.refund_failed(&paid), None);
        // What the first session's straggler says now is too late.
        assert_eq!(refunds(&net.agg_saved).len(), 1);
    }
}

#[test]
fn attempts_end_when_the_terms_allow_no_more() {
    let mut net = Net::new(
        setup(CohortBeacon::Smt, 2, Funding::Aggregator).terms(|terms| {
            terms.sessions_max = 2;
        }),
    );
    net.form();
    let script = net.script();
    let paid = net.chain.fund(&script, 100_000);
    net.sync();
    while net.step() {
        net.nodes[0].signer.drop_all_nonces();
    }
    let failed = failures(&net);
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].0, paid);
    assert!(failed[0].1.contains(&Seat(0)));
    assert_eq!(sessions(&net), [(1, 1), (1, 2)]);
    net.advance(HOUR);
    assert!(net.agg.refund_of(&paid).is_some());
}

/// A session of three at the point where the requests are about to be delivered.
fn at_request(funding: Funding) -> (Net, RefundRequest) {
    let mut net = formed(3, funding);
    let script = net.script();
    net.chain.fund(&script, 100_000);
    net.sync();
    net.run_until("refund_request");
    let Message::RefundRequest(request) = net.last_sent("refund_request").message else {
        unreachable!()
    };
    (net, request)
}

/// A refund that pays anybody else, or in another way, or at once, or too much to the miner: never signed.
#[test]
fn a_member_signs_no_other_refund() {
    type Change = fn(&mut Net, &mut Transaction);
    let cases: [(&str, Change); 9] = [
        ("does not pay the payee", |_, tx| {
            tx.output[0].script_pubkey =
                ScriptBuf::from_bytes([&[0x51, 0x20][..], &[7; 32]].concat());
        }),
        ("3 outputs for 2 payees", |_, tx| {
            let stolen = tx.output[0].clone();
            tx.output.push(stolen);
        }),
        ("does not pay the payee", |_, tx| {
            tx.output[0].script_pubkey = ScriptBuf::new_op_return([1; 32]);
        }),
        ("shares are not equal", |_, tx| {
            tx.output[0].value += Amount::from_sat(1_000);
            tx.output[1].value -= Amount::from_sat(1_000);
        }),
        ("not the lock of 144 blocks", |_, tx| {
            tx.input[0].sequence = Sequence::from_height(143);
        }),
        ("not the lock of 144 blocks", |_, tx| {
            tx.input[0].sequence = Sequence(0xffff_fffd);
        }),
        ("lock time", |_, tx| {
            tx.lock_time = bitcoin::absolute::LockTime::from_consensus(500);
        }),
        ("over the limit", |_, tx| {
            for output in &mut tx.output {
                output.value -= Amount::from_sat(10_000);
            }
        }),
        ("it spends", |net, tx| {
            let script = net.script();
            tx.input[0].previous_output = net.chain.fund(&script, 100_000);
        }),
    ];
    for (words, change) in cases {
        let mut net = Net::new(setup(CohortBeacon::Smt, 2, Funding::Members));
        net.form();
        let script = net.script();
        net.chain.fund(&script, 100_000);
        net.sync();
        net.run_until("refund_request");
        let Message::RefundRequest(mut request) = net.last_sent("refund_request").message else {
            unreachable!()
        };
        let good = request.clone();
        change(&mut net, &mut request.tx.0);
        let outcome = net.tell(0, Message::RefundRequest(request));
        let Outcome::Ignored(Ignored::WillNotSign(reason)) = outcome else {
            panic!("{words}: {outcome:?}");
        };
        assert!(reason.contains(words), "{words}: {reason}");
        assert!(net.nodes[0].used_nonces.is_empty());
        let refused = |report: &Report| matches!(report, Report::RefundRefused { .. });
        assert!(net.nodes[0].reports.iter().any(refused));
        // The nonce is still there for the right one.
        assert_eq!(net.tell(0, Message::RefundRequest(good)), Outcome::Accepted);
        assert_eq!(net.nodes[0].used_nonces.len(), 1);
        net.run();
        assert_eq!(refunds(&net.agg_saved).len(), 1);
    }
}

/// One nonce, one signature: whatever the aggregator asks for afterwards.
#[test]
fn a_second_request_of_an_attempt_is_not_signed() {
    let (mut net, request) = at_request(Funding::Aggregator);
    net.run();
    assert_eq!(refunds(&net.agg_saved).len(), 1);
    let mut second = request.clone();
    second.tx.0.output[0].value -= Amount::from_sat(5);
    for request in [request, second] {
        let outcome = net.tell(0, Message::RefundRequest(request));
        assert_eq!(outcome, Outcome::Ignored(Ignored::Duplicate));
    }
    // A session whose number is past is not opened again, nor an attempt that was signed.
    let open = |deposit, attempt| RefundOpen {
        deposit,
        attempt,
        outpoint: outpoint(1),
        value_sat: 60_000,
        until: net.now.plus(HOUR),
    };
    let (past, changed) = (open(0, 1), open(1, 2));
    assert_eq!(
        net.tell(0, Message::RefundOpen(past)),
        Outcome::Ignored(Ignored::WrongSession)
    );
    net.tell(0, Message::RefundOpen(changed));
    assert_eq!(
        net.nodes[0].alarms(),
        ["the aggregator changed an open refund session"]
    );
    assert_eq!(net.nodes[0].used_nonces.len(), 1);
}

/// The claim about value and place is worth nothing: the signature commits to what the output really is.
#[test]
fn a_refund_signed_for_another_value_spends_nothing() {
    let mut net = formed(2, Funding::Aggregator);
    let script = net.script();
    let paid = net.chain.fund(&script, 100_000);
    net.agg_input(AggregatorInput::Protect {
        outputs: vec![(paid, 90_000)],
    });
    net.run();
    let kept = refunds(&net.agg_saved);
    assert_eq!(kept[0].1, 90_000);
    assert!(net.chain.verify(&kept[0].2).is_err());
    // As soon as the chain shows what it is, it gets its own.
    net.sync();
    net.run();
    let kept = refunds(&net.agg_saved);
    assert_eq!(kept[1].1, 100_000);
    net.chain.verify(&kept[1].2).unwrap();
}

/// The partial signatures of an open session, as they were sent.
fn partial_of(net: &Net, i: usize) -> RefundPartial {
    let me = net.nodes[i].me();
    let sent = net
        .archive
        .iter()
        .rev()
        .find_map(|mail| match &mail.message {
            Message::RefundPartial(signed) if mail.from == me => Some(signed.content.clone()),
            _ => None,
        });
    sent.unwrap()
}

#[test]
fn a_bad_partial_signature_is_blamed_on_its_sender_and_only_on_it() {
    let (mut net, request) = at_request(Funding::Aggregator);
    net.hold = Some("refund_partial");
    net.run();
    let good = partial_of(&net, 1);
    let mut bad = good.clone();
    bad.partials.insert(
        Label::REFUND,
        PartialSignature::from_bytes(&[7; 32]).unwrap(),
    );
    let signed = net.signed(1, bad);
    let outcome = net.say(1, Message::RefundPartial(signed));
    assert_eq!(outcome, Outcome::Blamed(net.nodes[1].me()));
    let blame = net.agg_reports.iter().find_map(|report| match report {
        Report::MemberBlamed { blame, proved } => Some((blame.clone(), *proved)),
        _ => None,
    });
    let (blame, proved) = blame.unwrap();
    assert!(proved);
    let cohort = net.agg.cohort();
    let (_, keys) = net.agg.set().unwrap();
    let keys = keys.clone();
    assert_eq!(blame.verify(&cohort, &keys), Ok(()));
    // Nobody else can be framed with it, and not with another session or a good signature either.
    let other = Blame {
        member: net.nodes[0].me(),
        ..blame.clone()
    };
    assert_eq!(other.verify(&cohort, &keys), Err(BlameError::NotSigned));
    let Fault::BadRefundPartial { session, .. } = &blame.fault else {
        unreachable!()
    };
    let framed = |content: RefundPartial, session: BTreeMap<_, _>| Blame {
        member: net.nodes[1].me(),
        fault: Fault::BadRefundPartial {
            partial: Box::new(net.signed(1, content)),
            session,
        },
    };
    assert_eq!(
        framed(good.clone(), session.clone()).verify(&cohort, &keys),
        Err(BlameError::Valid)
    );
    let mut altered = session.clone();
    altered.get_mut(&Label::REFUND).unwrap().sighash = Sighash::from_bytes([1; 32]);
    assert_eq!(
        framed(good.clone(), altered).verify(&cohort, &keys),
        Err(BlameError::OtherSession)
    );
    // It survives its JSON form, as evidence has to.
    let text = serde_json::to_string(&blame).unwrap();
    let back: Blame = serde_json::from_str(&text).unwrap();
    assert_eq!(back, blame);
    // The good one still counts.
    assert_eq!(request.deposit, good.deposit);
    net.release();
    assert_eq!(refunds(&net.agg_saved).len(), 1);
}

#[test]
fn what_does_not_belong_to_the_session_counts_for_nothing() {
    let (mut net, _) = at_request(Funding::Aggregator);
    net.hold = Some("refund_partial");
    net.run();
    let stranger = key("stranger").public();
    let good = partial_of(&net, 0);
    let nonces = RefundNonces {
        deposit: 1,
        attempt: 1,
        nonces: good.nonces.clone(),
    };
    let signed = net.signed(0, nonces.clone());
    let outcome = net.deliver(
        stranger,
        Dest::Aggregator,
        Message::RefundNonces(signed.clone()),
    );
    assert_eq!(outcome, Outcome::Ignored(Ignored::NotAMember));
    // Signed by another member, or not at all.
    let outcome = net.say(1, Message::RefundNonces(signed.clone()));
    assert_eq!(outcome, Outcome::Ignored(Ignored::BadEvidence));
    assert_eq!(
        net.say(0, Message::RefundNonces(signed)),
        Outcome::Ignored(Ignored::Duplicate)
    );
    // A nonce that was offered before, by whomever.
    let theirs = RefundNonces {
        attempt: 2,
        ..nonces.clone()
    };
    let signed = net.signed(1, theirs);
    assert!(matches!(
        net.say(1, Message::RefundNonces(signed)),
        Outcome::Ignored(Ignored::Refused(_))
    ));
    for (deposit, attempt) in [(2, 1), (0, 1), (1, 3), (1, 0)] {
        let other = RefundNonces {
            deposit,
            attempt,
            ..nonces.clone()
        };
        let signed = net.signed(1, other);
        assert_eq!(
            net.say(1, Message::RefundNonces(signed)),
            Outcome::Ignored(Ignored::WrongSession)
        );
        let mut other = good.clone();
        (other.deposit, other.attempt) = (deposit, attempt);
        let signed = net.signed(0, other);
        assert_eq!(
            net.say(0, Message::RefundPartial(signed)),
            Outcome::Ignored(Ignored::WrongSession)
        );
    }
    net.release();
    assert_eq!(refunds(&net.agg_saved).len(), 1);
    assert_eq!(net.agg.refund_session(), None);
    let signed = net.signed(0, good);
    assert_eq!(
        net.say(0, Message::RefundPartial(signed)),
        Outcome::Ignored(Ignored::WrongSession)
    );
}

/// Where members fund, the refund is in their hands before they sign anything that depends on it.
#[test]
fn members_that_fund_sign_no_signal_before_their_refund_is_complete() {
    let mut net = Net::new(setup(CohortBeacon::Smt, 3, Funding::Members));
    net.form();
    net.register_all();
    net.hold = Some("refund_partial");
    net.fund(100_000);
    assert!(matches!(
        net.agg.open_refusal(),
        Some(OpenRefusal::TipUnprotected(_))
    ));
    // The aggregator has it, one member does not.
    net.hold = Some("refund_complete");
    net.mail.extend(net.held.drain(..));
    net.run();
    assert_eq!(net.agg.open_refusal(), None);
    let to_last = net.held.pop().unwrap();
    assert_eq!(to_last.to, Dest::Member(2));
    net.release();
    net.open();
    assert_eq!(net.agg.signals_signed(), 0);
    assert_eq!(net.nodes[0].refusals(), [""; 0]);
    let refusals = net.nodes[2].refusals();
    assert!(refusals[0].contains("is not complete"), "{refusals:?}");
    // With the next fact it signs.
    net.deliver(to_last.from, to_last.to, to_last.message);
    net.mine(1);
    assert_eq!(net.agg.signals_signed(), 1);
}

#[test]
fn a_refund_that_is_none_is_not_believed() {
    let (mut net, request) = at_request(Funding::Members);
    let unsigned = RefundComplete {
        outpoint: request.tx.0.input[0].previous_output,
        value_sat: 100_000,
        tx: TxHex(request.tx.0.clone()),
    };
    let outcome = net.tell(0, Message::RefundComplete(unsigned.clone()));
    assert!(matches!(
        outcome,
        Outcome::Ignored(Ignored::Contradiction(_))
    ));
    net.run();
    let (outpoint, _, tx) = refunds(&net.agg_saved).remove(0);
    let wrong_value = RefundComplete {
        outpoint,
        value_sat: 99_999,
        tx: TxHex(tx.clone()),
    };
    let outcome = net.tell(0, Message::RefundComplete(wrong_value));
    assert!(matches!(
        outcome,
        Outcome::Ignored(Ignored::Contradiction(_))
    ));
    let again = RefundComplete {
        value_sat: 100_000,
        tx: TxHex(tx),
        outpoint,
    };
    let outcome = net.tell(0, Message::RefundComplete(again));
    assert_eq!(outcome, Outcome::Ignored(Ignored::Duplicate));
}

/// A refund that is used is no unknown spend, and what is paid after it starts anew.
#[test]
fn a_refund_on_the_chain_is_known_and_a_new_chain_of_signals_starts() {
    for funding in [Funding::Aggregator, Funding::Members] {
        let mut net = Net::ready(setup(CohortBeacon::Cas, 2, funding));
        let (_, _, refund) = refunds(&net.agg_saved).remove(0);
        net.chain.accept(&refund).unwrap();
        net.mine(1);
        for node in &net.nodes {
            let unknown = |report: &Report| matches!(report, Report::UnknownSpend { .. });
            assert!(!node.reports.iter().any(unknown));
        }
        assert_eq!(net.agg.open_refusal(), Some(OpenRefusal::NoTip));
        net.mine(6);
        assert_eq!(
            net.agg.refund_of(&refund.input[0].previous_output),
            None,
            "done with"
        );
        net.fund(80_000);
        assert_eq!(refunds(&net.agg_saved).len(), 2);
        net.queue(0, 0, "a");
        net.round();
    }
}

/// The store was made again out of a bundle in the middle of a session: the member does not sign in it again.
#[test]
fn a_recovered_member_leaves_the_open_session() {
    let (mut net, request) = at_request(Funding::Aggregator);
    net.input(0, ParticipantInput::Recovered);
    let outcome = net.tell(0, Message::RefundRequest(request));
    assert_eq!(outcome, Outcome::Ignored(Ignored::WrongSession));
    assert!(net.nodes[0].used_nonces.is_empty());
    net.run();
    assert_eq!(net.agg.refund_session().unwrap().waiting_for, [Seat(0)]);
    net.advance(3 * HOUR + 1);
    assert_eq!(refunds(&net.agg_saved).len(), 1);
    assert_eq!(matures_at(101, 144), 245);
}

/// Relays keep no order: the opening may overtake the news that the set is frozen.
#[test]
fn an_opening_that_comes_before_the_frozen_set_is_taken_up_after_it() {
    let mut net = Net::new(setup(CohortBeacon::Smt, 2, Funding::Aggregator));
    net.hold = Some("frozen");
    net.advertise();
    for i in 0..2 {
        let payee = net.payee(&format!("member {i}"));
        net.input(i, ParticipantInput::Join { payee });
    }
    net.run();
    assert_eq!(net.nodes[0].core.phase(), &MemberPhase::Acknowledged);
    net.agg_input(AggregatorInput::Protect {
        outputs: vec![(outpoint(0), 50_000)],
    });
    net.run();
    assert_eq!(refunds(&net.agg_saved), []);
    net.release();
    assert_eq!(refunds(&net.agg_saved).len(), 1);
    assert_eq!(sessions(&net), [(1, 1)]);
}

/// What was never paid, or is too small by now, is no reason to wake up again and again: `advance` would say so.
#[test]
fn a_failed_session_of_what_was_never_paid_leaves_no_deadline_behind() {
    let mut net = formed(2, Funding::Aggregator);
    net.hold = Some("refund_nonces");
    net.agg_input(AggregatorInput::Protect {
        outputs: vec![(outpoint(0), 50_000)],
    });
    net.run();
    net.held.clear();
    net.advance(10 * HOUR);
    assert_eq!(failures(&net), [(outpoint(0), vec![Seat(0), Seat(1)])]);
    assert_eq!(sessions(&net), [(1, 1)], "nobody is about to pay any more");
    // Asked for again, it is tried again at once.
    net.hold = None;
    net.agg_input(AggregatorInput::Protect {
        outputs: vec![(outpoint(0), 50_000)],
    });
    net.run();
    assert_eq!(refunds(&net.agg_saved).len(), 1);
}

/// The change of a signal is refunded with it: no session of its own, and the payees have it with the signal.
#[test]
fn the_change_of_a_signal_is_protected_by_its_round() {
    for funding in [Funding::Aggregator, Funding::Members] {
        let mut net = Net::ready(setup(CohortBeacon::Smt, 3, funding));
        assert_eq!(sessions(&net).len(), 1, "of what was paid");
        net.queue(0, 0, "a");
        let signal = net.round();
        let change = OutPoint::new(signal.compute_txid(), 0);
        let kept = net.agg.refund_of(&change).unwrap().clone();
        assert_eq!(kept.value, signal.output[0].value);
        net.chain.verify(&kept.tx).unwrap();
        assert_eq!(sessions(&net).len(), 1);
        for node in &net.nodes {
            assert!(node.core.signed_refund(&change));
            let held = node.core.refund_of(&change).map(|held| held.txid);
            match funding {
                Funding::Aggregator => assert_eq!(held, None),
                Funding::Members => assert_eq!(held, Some(kept.txid)),
            }
        }
        // The next round spends it all the same.
        net.queue(1, 0, "b");
        net.round();
    }
}

/// A tick that does nothing is not logged. If it changed what happens later, a log would not give the state back: here
/// a replay would open a session that nobody was ever told of.
#[test]
fn a_tick_that_does_nothing_changes_nothing() {
    let mut net = formed(2, Funding::Aggregator);
    net.chain.fee_rate = Some(1);
    let script = net.script();
    net.chain.fund(&script, 2_000);
    net.hold = Some("refund_nonces");
    net.mine(1);
    net.held.clear();
    let signing = u64::from(net.agg.terms().signing_seconds);
    // At this fee there is no refund of so little.
    net.chain.fee_rate = Some(50);
    net.sync();
    net.advance(signing + 10);
    assert_eq!(failures(&net).len(), 1);
    let before = format!("{:?}", net.agg);
    for _ in 0..3 {
        net.now = net.now.plus(2 * HOUR);
        let effects = net.agg.handle(net.now, AggregatorInput::Tick).effects;
        assert_eq!(effects, [], "and so it is not logged");
    }
    assert_eq!(format!("{:?}", net.agg), before);
    assert_eq!(net.agg.deadline(), None);
    // With the fee it becomes possible, and is tried at once.
    net.chain.fee_rate = Some(1);
    net.hold = None;
    net.sync();
    net.run();
    assert_eq!(sessions(&net), [(1, 1), (2, 1)]);
    assert_eq!(refunds(&net.agg_saved).len(), 1);
}
