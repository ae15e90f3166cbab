//! Replacement sessions: a signal that is stuck at the highest fee signed for it is signed again by all, over the same
//! inputs and the same 32 bytes.

use bitcoin::{Amount, OutPoint, ScriptBuf, Transaction, Txid};
use btcr2_agent::beacon::signal::signal_of;
use btcr2_agent::protocol::aggregator::{Aggregator, AggregatorInput};
use btcr2_agent::protocol::effect::{Artifact, Ignored, Outcome, Report};
use btcr2_agent::protocol::message::{Message, RoundCause, SignRequest};
use btcr2_agent::protocol::terms::{CohortBeacon, Funding, OutputPolicy};
use btcr2_agent::protocol::{Round, Seat};

use super::net::{Dest, Net, Setup};
use super::node::update;

/// Terms and policies that allow 200 sat/vB: four times what the first ladder ends with.
fn roomy(beacon: CohortBeacon, n: usize) -> Setup {
    let mut setup = Setup::new(beacon, n).terms(|terms| terms.max_fee_rate = 200);
    setup.policy.max_fee_rate = 200;
    setup
}

fn requests(net: &Net, i: usize) -> Vec<SignRequest> {
    let mail = net.archive.iter().filter(|mail| mail.to == Dest::Member(i));
    mail.filter_map(|mail| match &mail.message {
        Message::SignRequest(request) => Some(request.clone()),
        _ => None,
    })
    .collect()
}

fn txids(request: &SignRequest) -> Vec<Txid> {
    let rungs = request.rungs.iter();
    rungs.map(|rung| rung.tx.0.compute_txid()).collect()
}

fn fees(request: &SignRequest) -> Vec<u64> {
    let spent: u64 = request.prevouts.iter().map(|spent| spent.value_sat).sum();
    let paid = |tx: &Transaction| tx.output.iter().map(|o| o.value.to_sat()).sum::<u64>();
    let rungs = request.rungs.iter();
    rungs.map(|rung| spent - paid(&rung.tx.0)).collect()
}

fn bump(net: &mut Net) {
    assert_eq!(net.agg.bump_refusal(), None);
    assert_eq!(net.agg_input(AggregatorInput::Bump), Outcome::Accepted);
    net.run();
}

fn wait_blocks(net: &mut Net, blocks: u32) {
    net.chain.mine_empty(blocks);
    net.sync();
    net.run();
}

/// Lets the rungs that are signed go out, up to the highest.
fn exhaust(net: &mut Net) {
    loop {
        let (rung, of) = net.agg.unsettled()[0].rung();
        if rung == of {
            return;
        }
        bump(net);
    }
}

/// A round whose highest rung, 50 sat/vB, is in the mempool, and what was signed for it.
fn stuck(setup: Setup) -> (Net, SignRequest) {
    let mut net = Net::ready(setup);
    net.queue(0, 0, "a");
    net.open();
    exhaust(&mut net);
    let [first] = &requests(&net, 0)[..] else {
        panic!("one session signs all of it")
    };
    let first = first.clone();
    assert!(net.chain.contains(txids(&first).last().unwrap()));
    (net, first)
}

fn confirmed(reports: &[Report]) -> Vec<Txid> {
    let confirmed = reports.iter().filter_map(|report| match report {
        Report::SignalConfirmed { txid, .. } => Some(*txid),
        _ => None,
    });
    confirmed.collect()
}

fn opened(reports: &[Report]) -> Vec<(u32, u64)> {
    let opened = reports.iter().filter_map(|report| match report {
        Report::ReplacementOpened {
            attempt, fee_sat, ..
        } => Some((*attempt, *fee_sat)),
        _ => None,
    });
    opened.collect()
}

fn failed(reports: &[Report]) -> Vec<RoundCause> {
    let failed = reports.iter().filter_map(|report| match report {
        Report::ReplacementFailed { why, .. } => Some(why.clone()),
        _ => None,
    });
    failed.collect()
}

/// How many artifacts that explain a signal are kept.
fn explanations(saved: &[Artifact]) -> usize {
    let explains = |artifact: &&Artifact| {
        matches!(
            artifact,
            Artifact::SmtProof { .. } | Artifact::Announcement { .. } | Artifact::LeafSet { .. }
        )
    };
    saved.iter().filter(explains).count()
}

/// The replacement was signed, and its transaction confirms, resolves and is built upon.
fn resolves(net: &mut Net, expected: Txid) {
    assert!(net.chain.contains(&expected));
    assert_eq!(net.agg.unsettled()[0].txid(), expected);
    net.mine(1);
    assert_eq!(confirmed(&net.agg_reports), [expected]);
    assert_eq!(net.agg.signals_signed(), 1, "it is one signal");
    for i in 0..net.nodes.len() {
        let node = &net.nodes[i];
        assert_eq!(confirmed(&node.reports), [expected]);
        assert_eq!(node.alarms(), [""; 0]);
        let unknown = |report: &&Report| matches!(report, Report::UnknownSpend { .. });
        assert_eq!(node.reports.iter().find(unknown), None);
        assert_eq!(node.core.live_signals().count(), 0);
        let announced = (i == 0).then(|| update("a"));
        assert_eq!(net.proved(i, 0), [Some(announced)]);
    }
    let next = net.round();
    assert_eq!(next.input[0].previous_output, OutPoint::new(expected, 0));
}

#[test]
fn a_signal_stuck_at_its_highest_fee_is_signed_again_and_resolves() {
    for (beacon, n, funding, by_operator) in [
        (CohortBeacon::Smt, 3, Funding::Aggregator, false),
        (CohortBeacon::Cas, 2, Funding::Members, true),
        (CohortBeacon::Smt, 2, Funding::Members, true),
        (CohortBeacon::Cas, 4, Funding::Aggregator, false),
    ] {
        let setup = roomy(beacon, n).refunds();
        let (mut net, first) = stuck(setup.terms(|terms| terms.funding = funding));
        assert_eq!(fees(&first), [770, 2_310, 7_700]);
        let explained = explanations(&net.nodes[0].saved);
        let expected = if by_operator {
            bump(&mut net);
            // 1 sat/vB above what is replaced, three times that, and the ceiling.
            [7_854, 23_562, 30_800]
        } else {
            net.chain.fee_rate = Some(60);
            wait_blocks(&mut net, 5);
            assert_eq!(opened(&net.agg_reports), [], "five blocks are not six");
            wait_blocks(&mut net, 1);
            [9_240, 27_720, 30_800]
        };
        assert_eq!(opened(&net.agg_reports), [(2, expected[0])]);
        for i in 0..n {
            let [_, again] = &requests(&net, i)[..] else {
                panic!("two sessions")
            };
            assert_eq!((again.round, again.attempt), (Round(1), 2));
            assert_eq!(fees(again), expected);
            for rung in &again.rungs {
                assert_eq!(rung.tx.0.input, first.rungs[0].tx.0.input);
                assert_eq!(signal_of(&rung.tx.0), signal_of(&first.rungs[0].tx.0));
                let refund = &rung.refund.as_ref().unwrap().0;
                let change = OutPoint::new(rung.tx.0.compute_txid(), 0);
                assert_eq!(refund.input[0].previous_output, change);
            }
            let node = &net.nodes[i];
            let all = [txids(&first), txids(again)].concat();
            let given = node.core.given();
            assert!(given.iter().map(|given| given.txid).eq(all.clone()));
            assert!(given.iter().map(|given| given.rung).eq(1..=6));
            assert_eq!(opened(&node.reports), [(2, expected[0])]);
            assert_eq!(node.rounds_signed(), 1);
            let live: Vec<Txid> = node.core.live_signals().map(|(_, txid)| txid).collect();
            assert_eq!(live, [all[3]]);
            assert_eq!(net.agg.unsettled()[0].txids(), all);
        }
        assert_eq!(explanations(&net.nodes[0].saved), explained);
        let again = txids(&requests(&net, 0)[1]);
        assert!(!net.chain.contains(&txids(&first)[2]));
        assert!(net.chain.contains(&again[0]));
        let refunded = OutPoint::new(again[0], 0);
        assert!(net.agg.refund_of(&refunded).is_some());
        net.chain.fee_rate = Some(5);
        resolves(&mut net, again[0]);
    }
}

/// The leaf is for rounds that stall. While all are there they replace by the key of all what they signed by it; when one
/// is away the signal stays what it was, until it is back.
#[test]
fn under_a_k_of_n_policy_all_replace_by_the_key_of_all() {
    for (beacon, n, k) in [
        (CohortBeacon::Smt, 3, 2),
        (CohortBeacon::Cas, 2, 1),
        (CohortBeacon::Cas, 5, 2),
    ] {
        let setup = roomy(beacon, n).refunds().terms(|terms| {
            terms.output_policy = OutputPolicy::KOfN(k);
            terms.seats_min = terms.seats_max;
        });
        let (mut net, first) = stuck(setup);
        let away = n - 1;
        net.hook = Some(Box::new(move |mail| {
            let lost = mail.to == Dest::Member(away);
            if lost { Vec::new() } else { vec![mail] }
        }));
        bump(&mut net);
        let again = requests(&net, 0).pop().unwrap();
        assert_eq!(again.attempt, 2);
        net.advance(u64::from(net.agg.terms().signing_seconds) + 1);
        assert_eq!(failed(&net.agg_reports).len(), 1);
        let asked = |mail: &super::net::Mail| matches!(mail.message, Message::FallbackRequest(_));
        assert!(!net.archive.iter().any(asked), "nobody publishes seat keys");
        assert!(net.chain.contains(&txids(&first)[2]));
        net.hook = None;
        bump(&mut net);
        let once_more = requests(&net, 0).pop().unwrap();
        assert_eq!(once_more.attempt, 3);
        assert_eq!(txids(&once_more), txids(&again));
        let tx = &net.signed_txs().pop().unwrap().1;
        assert_eq!(tx.input[0].witness.len(), 1);
        for i in 0..n {
            assert_eq!(net.nodes[i].core.given().len(), 6);
        }
        resolves(&mut net, txids(&again)[0]);
    }
}

/// What the replacement signed is a ladder like the first, and above it comes another replacement, until the sessions
/// of the round or the terms' ceiling are used up.
#[test]
fn replacements_go_on_until_sessions_or_fees_end() {
    for (sessions, ceiling, last, attempts) in [
        (2, 1_000, 10, 2),
        (3, 1_000, 9, 3),
        (9, 1_000, 9, 3),
        (9, 500, 6, 2),
        (9, 50, 3, 1),
        (1, 1_000, 3, 1),
    ] {
        let mut setup = Setup::smt(2).terms(|terms| {
            terms.sessions_max = sessions;
            terms.max_fee_rate = ceiling;
        });
        setup.policy.max_fee_rate = 10_000;
        setup.policy.max_fee_sat = 1_000_000;
        let mut net = Net::new(setup);
        net.form();
        net.fund(1_000_000);
        net.register_all();
        net.queue(0, 0, "a");
        net.open();
        while net.agg.bump_refusal().is_none() {
            bump(&mut net);
        }
        assert_eq!(
            net.agg_input(AggregatorInput::Bump),
            Outcome::Ignored(Ignored::Contradiction(
                "the signal was sent at the highest fee that was signed for it".into()
            ))
        );
        let asked = requests(&net, 1);
        assert_eq!(asked.len(), attempts, "{sessions} {ceiling}");
        let all: Vec<Txid> = asked.iter().flat_map(txids).collect();
        let paid: Vec<u64> = asked.iter().flat_map(fees).collect();
        assert!(paid.is_sorted_by(|a, b| a < b), "{paid:?}");
        let (rung, of) = net.agg.unsettled()[0].rung();
        assert_eq!(rung, of);
        assert_eq!(rung, all.len());
        assert!(rung <= last, "{sessions} {ceiling}: {rung}");
        resolves(&mut net, *all.last().unwrap());
    }
}

/// A node that asks for more than the highest rung pays: a minute later all are asked to sign more.
#[test]
fn a_fee_below_what_nodes_take_is_replaced() {
    let mut net = Net::ready(roomy(CohortBeacon::Cas, 3));
    net.chain.min_fee_rate = 51;
    net.queue(0, 0, "a");
    net.open();
    assert_eq!(net.agg.unsettled()[0].rung(), (3, 3));
    net.advance(59);
    assert_eq!(requests(&net, 0).len(), 1);
    net.advance(1);
    let again = requests(&net, 0).pop().unwrap();
    assert_eq!(fees(&again)[0], 7_854);
    net.chain.min_fee_rate = 0;
    resolves(&mut net, txids(&again)[0]);
}

/// Spare nonces are lost with the process: the members say so, and the session after that is signed.
#[test]
fn members_that_restarted_sign_with_fresh_nonces() {
    for (restarted, attempt) in [(&[1][..], 3), (&[0, 1, 2], 3), (&[], 2)] {
        let (mut net, first) = stuck(roomy(CohortBeacon::Smt, 3).refunds());
        for i in restarted {
            net.restart(*i);
            net.run();
        }
        bump(&mut net);
        let again = requests(&net, 2).pop().unwrap();
        assert_eq!(again.attempt, attempt);
        let requests = requests(&net, 2);
        assert!(
            requests[1..]
                .iter()
                .all(|request| request.rungs == again.rungs)
        );
        assert_ne!(again.rungs, first.rungs);
        assert_eq!(net.nodes[1].core.given().len(), 6);
        resolves(&mut net, txids(&again)[0]);
    }
    // In the middle of it, twice.
    let (mut net, _) = stuck(roomy(CohortBeacon::Cas, 3));
    net.nodes[0].dies_at_sign = true;
    net.nodes[2].dies_at_prepare = true;
    bump(&mut net);
    let again = requests(&net, 1).pop().unwrap();
    assert_eq!(again.attempt, 3);
    resolves(&mut net, txids(&again)[0]);
}

/// Who does not sign in time is named, and the signal stays what it was. The next try signs the very same, because some
/// have signed it; whoever has no nonces for it is asked.
#[test]
fn a_replacement_that_fails_is_tried_again() {
    let (mut net, first) = stuck(roomy(CohortBeacon::Smt, 3));
    net.chain.fee_rate = Some(60);
    net.hook = Some(Box::new(|mail| match (&mail.to, &mail.message) {
        (Dest::Member(2), Message::SignRequest(_)) => Vec::new(),
        _ => vec![mail],
    }));
    let top = txids(&first)[2];
    wait_blocks(&mut net, 6);
    let absent = net.agg.waiting_for();
    assert_eq!(absent.len(), 1);
    assert_eq!(net.agg.open_round_now().map(|open| open.attempt), Some(2));
    assert_eq!(
        net.agg.bump_refusal(),
        Some("the members are being asked to sign it at a higher fee")
    );
    net.advance(u64::from(net.agg.terms().signing_seconds) + 1);
    let cause = RoundCause::NoSignature { absent };
    assert_eq!(failed(&net.agg_reports), std::slice::from_ref(&cause));
    assert_eq!(failed(&net.nodes[0].reports), [cause]);
    assert_eq!(net.agg.open_round_now(), None);
    assert!(net.chain.contains(&top), "it is still on its way");
    net.hook = None;
    // Not with every block.
    wait_blocks(&mut net, 5);
    assert_eq!(opened(&net.agg_reports).len(), 1);
    wait_blocks(&mut net, 1);
    assert_eq!(opened(&net.agg_reports), [(2, 9_240), (3, 9_240)]);
    let asked = requests(&net, 0);
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[1].rungs, asked[2].rungs);
    let Message::NonceRequest(nonces) = net.last_sent("nonce_request").message else {
        unreachable!()
    };
    assert_eq!((nonces.attempt, nonces.seats.len()), (3, 1));
    for node in &net.nodes {
        assert_eq!(node.core.given().len(), 6);
    }
    net.chain.fee_rate = Some(5);
    let again = txids(&asked[2])[0];
    resolves(&mut net, again);
}

/// What confirms while it is replaced needs no replacement; what was signed for it may still come after a reorg.
#[test]
fn a_replacement_ends_with_a_confirmation_and_with_the_money_gate() {
    let (mut net, first) = stuck(roomy(CohortBeacon::Cas, 3));
    net.hold = Some("partial_signature");
    bump(&mut net);
    net.mine(1);
    assert_eq!(failed(&net.agg_reports), [RoundCause::TipMoved]);
    net.release();
    assert_eq!(net.agg.unsettled()[0].rung(), (3, 3), "nothing was added");
    resolves_after_confirmation(&mut net, txids(&first)[2]);

    let (mut net, first) = stuck(roomy(CohortBeacon::Smt, 2));
    net.hold = Some("partial_signature");
    bump(&mut net);
    net.agg_input(AggregatorInput::Money { permitted: false });
    assert_eq!(failed(&net.agg_reports), [RoundCause::Operator]);
    net.release();
    assert_eq!(net.agg.unsettled()[0].txid(), txids(&first)[2]);
    assert!(net.agg.bump_refusal().is_some(), "money is stopped");
    net.agg_input(AggregatorInput::Money { permitted: true });
    bump(&mut net);
    let again = requests(&net, 0).pop().unwrap();
    assert_eq!(again.attempt, 3);
    resolves(&mut net, txids(&again)[0]);
}

fn resolves_after_confirmation(net: &mut Net, expected: Txid) {
    assert_eq!(confirmed(&net.agg_reports), [expected]);
    assert!(net.agg.bump_refusal().is_some());
    let next = net.round();
    assert_eq!(next.input[0].previous_output, OutPoint::new(expected, 0));
}

/// The aggregator's process dies while partial signatures of a replacement come in: its log makes it again.
#[test]
fn an_aggregator_made_again_from_its_log_finishes_the_replacement() {
    for delivered in 0..3 {
        let (mut net, _) = stuck(roomy(CohortBeacon::Smt, 3).refunds());
        net.hold = Some("partial_signature");
        bump(&mut net);
        for _ in 0..delivered {
            let mail = net.held.remove(0);
            assert_eq!(
                net.deliver(mail.from, mail.to, mail.message),
                Outcome::Accepted
            );
        }
        let mut again = Aggregator::new(net.agg.terms().clone());
        for (at, input, step) in &net.agg_log {
            assert_eq!(again.handle(*at, input.clone()), *step);
        }
        assert_eq!(format!("{again:?}"), format!("{:?}", net.agg));
        net.agg = again;
        net.release();
        let asked = requests(&net, 0).pop().unwrap();
        assert_eq!(asked.attempt, 2);
        resolves(&mut net, txids(&asked)[0]);
    }
}

// ---- a lying aggregator ----------------------------------------------------------------------------------

/// A replacement whose request to member 0 is kept back; what was signed before, and the request.
fn at_request(setup: Setup, further: &[u64]) -> (Net, SignRequest, SignRequest) {
    let mut net = Net::new(setup);
    net.form();
    net.fund(100_000);
    net.register_all();
    let script = net.script();
    for sat in further {
        net.chain.fund(&script, *sat);
    }
    net.mine(1);
    net.queue(0, 0, "a");
    net.open();
    exhaust(&mut net);
    let first = requests(&net, 0).pop().unwrap();
    net.hold = Some("sign_request");
    bump(&mut net);
    let Message::SignRequest(good) = net.keep_back(Dest::Member(0)).message else {
        unreachable!()
    };
    (net, first, good)
}

/// The member says no for good, and signs nothing.
fn refuses(net: &mut Net, bad: SignRequest, words: &str) {
    let outcome = net.tell(0, Message::SignRequest(bad));
    let Outcome::Ignored(Ignored::WillNotSign(reason)) = outcome else {
        panic!("{words}: {outcome:?}")
    };
    assert!(reason.contains(words), "{reason:?} is not about {words:?}");
    let given = net.nodes[0].core.given();
    assert_eq!(given.len(), 3, "{words}: nothing was signed");
}

fn each(request: &SignRequest, change: impl Fn(&mut Transaction)) -> SignRequest {
    let mut changed = request.clone();
    for rung in &mut changed.rungs {
        change(&mut rung.tx.0);
    }
    changed
}

#[test]
fn a_member_replaces_only_the_same_bytes_and_inputs_at_a_higher_fee() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut setup = roomy(beacon, 3);
        setup.policy.max_fee_sat = 100_000;
        let (mut net, first, good) = at_request(setup, &[40_000, 30_000]);
        assert_eq!(good.prevouts.len(), 3);
        let other = net.chain.fund(&net.script(), 100_000);
        net.chain.mine_empty(1);
        net.sync();

        let bytes = each(&good, |tx| {
            let script = [&[0x6a, 0x20][..], &[7; 32]].concat();
            tx.output[1].script_pubkey = ScriptBuf::from_bytes(script);
        });
        refuses(&mut net, bytes, "must announce what the signal announces");
        let tip = each(&good, |tx| tx.input[0].previous_output = other);
        refuses(&mut net, tip, "rung 1: it spends");
        let top_up = each(&good, |tx| tx.input[2].previous_output = other);
        refuses(&mut net, top_up, "rung 1: ");
        let order = each(&good, |tx| tx.input.swap(1, 2));
        refuses(&mut net, order, "must spend what the signal spends");
        let tip_last = each(&good, |tx| tx.input.swap(0, 2));
        refuses(&mut net, tip_last, "rung 1: it spends");
        let mut fewer = each(&good, |tx| {
            tx.input.truncate(2);
            tx.output[0].value -= Amount::from_sat(30_000);
        });
        // The third would be over what two inputs may cost.
        fewer.rungs.truncate(1);
        refuses(&mut net, fewer, "must spend what the signal spends");

        let highest = fees(&first)[2];
        let paying = |request: &SignRequest, fee: u64| {
            let mut changed = request.clone();
            changed.rungs.truncate(1);
            let tx = &mut changed.rungs[0].tx.0;
            tx.output[0].value = Amount::from_sat(170_000 - fee);
            changed
        };
        for fee in [fees(&first)[0], highest - 1, highest] {
            refuses(&mut net, paying(&good, fee), "no more than the");
        }
        let mut same = first.clone();
        same.attempt = good.attempt;
        refuses(&mut net, same, "no more than the");
        // 270 vB at 201 sat/vB is more than the terms allow.
        refuses(&mut net, paying(&good, 56_000), "rung 1: the fee");

        let mut later = good.clone();
        later.attempt = 99;
        assert_ne!(
            net.tell(0, Message::SignRequest(later)),
            Outcome::Accepted,
            "it has no nonces for that"
        );
        let earlier = net.tell(0, Message::SignRequest(first.clone()));
        assert_eq!(earlier, Outcome::Ignored(Ignored::Duplicate));
        assert_eq!(net.nodes[0].core.given().len(), 3);

        let outcome = net.tell(0, Message::SignRequest(good.clone()));
        assert_eq!(outcome, Outcome::Accepted, "{:?}", net.nodes[0].refusals());
        net.run();
        assert_eq!(net.nodes[0].core.given().len(), 6);
        resolves(&mut net, txids(&good)[0]);
    }
}

#[test]
fn a_member_keeps_to_its_own_fee_limits() {
    let mut setup = roomy(CohortBeacon::Smt, 2);
    setup.policy.max_fee_rate = 60;
    let (mut net, first, good) = at_request(setup, &[]);
    refuses(&mut net, good, "rung 2: the fee");
    net.run();
    assert!(net.chain.contains(&txids(&first)[2]));
    net.mine(1);
    resolves_after_confirmation(&mut net, txids(&first)[2]);
}

/// Once anything of the round is in a block, or a later round was opened, nothing of it is signed any more.
#[test]
fn a_confirmed_signal_is_not_replaced() {
    for depth in [1, 3] {
        let setup = roomy(CohortBeacon::Cas, 2).terms(|terms| terms.depth = depth);
        let (mut net, first, good) = {
            let mut net = Net::ready(setup);
            net.mine(3);
            net.queue(0, 0, "a");
            net.open();
            exhaust(&mut net);
            let first = requests(&net, 0).pop().unwrap();
            net.hold = Some("sign_request");
            bump(&mut net);
            let Message::SignRequest(good) = net.keep_back(Dest::Member(0)).message else {
                unreachable!()
            };
            (net, first, good)
        };
        net.mine(1);
        let outcome = net.tell(0, Message::SignRequest(good.clone()));
        if depth == 1 {
            assert_eq!(outcome, Outcome::Ignored(Ignored::WrongRound), "settled");
        } else {
            let Outcome::Ignored(Ignored::WillNotSign(reason)) = outcome else {
                panic!("{outcome:?}")
            };
            assert!(reason.contains("confirmed transaction"), "{reason}");
        }
        assert_eq!(net.nodes[0].core.given().len(), 3);
        net.mine(2);
        resolves_after_confirmation(&mut net, txids(&first)[2]);
        assert_eq!(
            net.tell(0, Message::SignRequest(good)),
            Outcome::Ignored(Ignored::WrongRound)
        );
    }
}

/// A failed replacement blames nobody for absence and is no failed round; one that never was is no news.
#[test]
fn a_failure_nobody_asked_for_is_ignored() {
    let (mut net, first) = stuck(roomy(CohortBeacon::Smt, 2));
    let failed_message = Message::RoundFailed(btcr2_agent::protocol::message::RoundFailed {
        round: Round(1),
        why: RoundCause::NoSignature {
            absent: vec![Seat(0)],
        },
        blamed: Vec::new(),
    });
    assert_eq!(
        net.tell(0, failed_message),
        Outcome::Ignored(Ignored::WrongRound)
    );
    assert_eq!(failed(&net.nodes[0].reports), []);
    resolves(&mut net, txids(&first)[2]);
}
