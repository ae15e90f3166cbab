//! A signal that was signed through the k-of-n leaf and is stuck: the same is signed again at a higher fee.

use bitcoin::{Amount, OutPoint, Transaction, Txid};
use btcr2_agent::beacon::signal::signal_of;
use btcr2_agent::protocol::aggregator::{Aggregator, AggregatorInput, OpenRefusal};
use btcr2_agent::protocol::effect::{Artifact, Ignored, Outcome, Report};
use btcr2_agent::protocol::message::{FallbackRequest, Message, RoundCause};
use btcr2_agent::protocol::terms::{CohortBeacon, Funding};

use super::fallback::{BEACONS, Kept, come_back, leave, setup};
use super::net::{Dest, HOUR, Mail, Net, Setup};
use super::node::update;

/// Terms and policies that allow 200 sat/vB.
fn roomy(beacon: CohortBeacon, n: usize, k: u16) -> Setup {
    let mut setup = setup(beacon, n, k).terms(|terms| terms.max_fee_rate = 200);
    setup.policy.max_fee_rate = 200;
    setup
}

/// What a member was asked to sign through the leaf, oldest first.
fn requests(net: &Net, i: usize) -> Vec<FallbackRequest> {
    let mail = net.archive.iter().filter(|mail| mail.to == Dest::Member(i));
    mail.filter_map(|mail| match &mail.message {
        Message::FallbackRequest(request) => Some(request.clone()),
        _ => None,
    })
    .collect()
}

fn fee(request: &FallbackRequest) -> u64 {
    let spent: u64 = request.prevouts.iter().map(|spent| spent.value_sat).sum();
    let paid = request.tx.0.output.iter().map(|o| o.value.to_sat());
    spent - paid.sum::<u64>()
}

fn txid(request: &FallbackRequest) -> Txid {
    request.tx.0.compute_txid()
}

fn spends(request: &FallbackRequest) -> Vec<OutPoint> {
    let inputs = request.tx.0.input.iter();
    inputs.map(|input| input.previous_output).collect()
}

/// A signal through the leaf that is in the mempool: all but the first k are away.
fn stuck(setup: Setup, k: u16) -> (Net, Kept) {
    let mut net = Net::ready(setup);
    let kept = stall(&mut net, k);
    (net, kept)
}

/// A round that all but the first k miss.
fn stall(net: &mut Net, k: u16) -> Kept {
    net.queue(0, 0, "a");
    let away: Vec<usize> = (usize::from(k)..net.nodes.len()).collect();
    let kept = leave(net, &away);
    net.open();
    net.advance(61);
    assert_eq!(net.agg.signals_signed(), 1);
    let first = requests(net, 0).pop().unwrap();
    assert!(net.chain.contains(&txid(&first)));
    net.sync();
    net.run();
    kept
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

fn bumped(reports: &[Report]) -> Vec<(Txid, u64)> {
    let bumped = reports.iter().filter_map(|report| match report {
        Report::SignalBumped { txid, fee_sat, .. } => Some((*txid, *fee_sat)),
        _ => None,
    });
    bumped.collect()
}

/// It confirms, is one signal that everybody can explain, those that were away too, and is built upon.
fn resolves(mut net: Net, away: &[usize], kept: &Kept, expected: Txid) {
    assert!(net.chain.contains(&expected));
    assert_eq!(net.agg.unsettled()[0].txid(), expected);
    net.mine(1);
    assert!(net.chain.height_of(&expected).is_some());
    come_back(&mut net, away, kept);
    assert_eq!(net.agg.signals_signed(), 1, "it is one signal");
    for i in 0..net.nodes.len() {
        let node = &net.nodes[i];
        assert_eq!(node.alarms(), [""; 0]);
        let unknown = |report: &&Report| matches!(report, Report::UnknownSpend { .. });
        assert_eq!(node.reports.iter().find(unknown), None);
        let announced = (i == 0).then(|| update("a"));
        assert_eq!(net.proved(i, 0), [Some(announced)]);
        let confirmed = node.core.given().iter().any(|given| given.txid == expected);
        assert!(confirmed, "member {i} follows it");
        assert_eq!(node.core.live_signals().count(), 0);
    }
    let next = net.round();
    assert_eq!(next.input[0].previous_output, OutPoint::new(expected, 0));
    net.next_round_works();
}

#[test]
fn a_stuck_fallback_is_signed_again_and_resolves() {
    for (beacon, n, k, by_operator) in [
        (CohortBeacon::Smt, 3, 2, true),
        (CohortBeacon::Cas, 3, 1, false),
        (CohortBeacon::Cas, 5, 3, true),
        (CohortBeacon::Smt, 4, 4 - 2, false),
    ] {
        let (mut net, kept) = stuck(roomy(beacon, n, k), k);
        let first = requests(&net, 0).pop().unwrap();
        if by_operator {
            bump(&mut net);
        } else {
            net.chain.fee_rate = Some(60);
            wait_blocks(&mut net, 5);
            assert_eq!(opened(&net.agg_reports), [], "five blocks are not six");
            wait_blocks(&mut net, 1);
        }
        let [_, again] = &requests(&net, 0)[..] else {
            panic!("asked twice")
        };
        // Three times as much without word from the chain, else what it asks.
        let paid = fee(&first);
        let expected = if by_operator { 3 * paid } else { 12 * paid };
        assert!(
            fee(again).abs_diff(expected) <= 12,
            "{} of {expected}",
            fee(again)
        );
        assert_eq!(spends(again), spends(&first));
        assert_eq!(signal_of(&again.tx.0), signal_of(&first.tx.0));
        assert_eq!(again.announced, first.announced);
        assert_eq!(again.absent, first.absent);
        assert_eq!(opened(&net.agg_reports), [(1, fee(again))]);
        assert_eq!(bumped(&net.agg_reports), [(txid(again), fee(again))]);
        assert!(!net.chain.contains(&txid(&first)));
        for i in 0..usize::from(k) {
            let node = &net.nodes[i];
            assert_eq!(opened(&node.reports), [(1, fee(again))]);
            assert_eq!(bumped(&node.reports), [(txid(again), fee(again))]);
            let given: Vec<Txid> = node.core.given().iter().map(|given| given.txid).collect();
            assert_eq!(given, [txid(&first), txid(again)]);
            assert!(node.core.given()[0].rung < node.core.given()[1].rung);
            // One leaf set or announcement and one proof: the bytes are the same.
            let whole = node.saved.iter().filter(|artifact| {
                matches!(
                    artifact,
                    Artifact::LeafSet { .. } | Artifact::Announcement { .. }
                )
            });
            assert_eq!(whole.count(), 1);
        }
        let away: Vec<usize> = (usize::from(k)..n).collect();
        let again = txid(again);
        net.chain.fee_rate = Some(5);
        resolves(net, &away, &kept, again);
    }
}

/// Any of them may confirm: also the one that was replaced.
#[test]
fn what_was_replaced_may_confirm_all_the_same() {
    for beacon in BEACONS {
        let (mut net, kept) = stuck(roomy(beacon, 3, 2), 2);
        let first = txid(&requests(&net, 0)[0]);
        let (_, signed) = net.signed_txs().pop().unwrap();
        bump(&mut net);
        // A miner never saw the replacement.
        net.chain.replace(&signed).unwrap();
        net.sync();
        net.mine(1);
        assert!(net.chain.height_of(&first).is_some());
        assert!(net.agg.bump_refusal().is_some());
        come_back(&mut net, &[2], &kept);
        for i in 0..3 {
            assert_eq!(net.nodes[i].alarms(), [""; 0]);
            assert_eq!(net.proved(i, 0).len(), 1);
            assert!(net.proved(i, 0)[0].is_some());
            assert_eq!(net.nodes[i].core.live_signals().count(), 0);
        }
        net.next_round_works();
    }
}

/// One replacement after the other, up to the terms' ceiling or the number of sessions; BIP-125 is kept by each.
#[test]
fn replacements_go_on_until_sessions_or_fees_end() {
    for (sessions, ceiling, times) in [(8, 200, 4), (2, 200, 2), (8, 5, 0), (8, 14, 1)] {
        let mut setup = roomy(CohortBeacon::Smt, 3, 2).terms(|terms| {
            terms.sessions_max = sessions;
            terms.max_fee_rate = ceiling;
        });
        setup.policy.max_fee_sat = 1_000_000;
        let (mut net, kept) = stuck(setup, 2);
        while net.agg.bump_refusal().is_none() {
            bump(&mut net);
        }
        let asked = requests(&net, 1);
        assert_eq!(asked.len(), 1 + times, "{sessions} {ceiling}");
        let paid: Vec<u64> = asked.iter().map(fee).collect();
        assert!(paid.is_sorted_by(|a, b| a < b), "{paid:?}");
        assert_eq!(net.agg.unsettled()[0].rung(), (1 + times, 1 + times));
        let last = txid(asked.last().unwrap());
        resolves(net, &[2], &kept, last);
    }
}

/// Too few sign in time: the signal stays what it was. The next try asks for the very same, and signatures that came for
/// it count, late ones too.
#[test]
fn a_replacement_that_too_few_sign_is_tried_again() {
    for late in [false, true] {
        let (mut net, kept) = stuck(roomy(CohortBeacon::Cas, 3, 2), 2);
        let first = txid(&requests(&net, 0)[0]);
        net.hold = Some("fallback_signature");
        bump(&mut net);
        let lost = net.keep_back(Dest::Aggregator);
        assert_eq!(
            net.agg.bump_refusal(),
            Some("the members are being asked to sign it at a higher fee")
        );
        let waits = net.agg.waiting_for();
        assert_eq!(waits.len(), 2, "one that is away, one whose mail is");
        net.advance(61);
        let cause = RoundCause::NoSignature { absent: waits };
        assert_eq!(failed(&net.agg_reports), std::slice::from_ref(&cause));
        assert_eq!(failed(&net.nodes[0].reports), [cause]);
        assert_eq!(net.agg.open_round_now(), None);
        assert!(net.chain.contains(&first), "it is still on its way");
        let expected = txid(&requests(&net, 0)[1]);
        if late {
            let outcome = net.deliver(lost.from, lost.to, lost.message);
            assert_eq!(outcome, Outcome::Accepted);
            net.run();
        } else {
            bump(&mut net);
            assert_eq!(opened(&net.agg_reports).len(), 2);
            let asked = requests(&net, 0);
            assert_eq!(txid(&asked[2]), expected, "some may have signed it");
            assert!(asked[2].sign_by > asked[1].sign_by);
            let outcome = net.deliver(lost.from, lost.to, lost.message);
            assert_eq!(outcome, Outcome::Accepted);
            net.run();
        }
        resolves(net, &[2], &kept, expected);
    }
}

/// Whoever comes back signs what replaces a signal that it did not sign, if one of those who did is away.
#[test]
fn who_did_not_sign_the_first_signs_the_next() {
    for beacon in BEACONS {
        for signs in [true, false] {
            let (mut net, kept) = stuck(roomy(beacon, 3, 2), 2);
            come_back(&mut net, &[2], &kept);
            assert_eq!(
                net.nodes[2].core.given().len(),
                1,
                "the chain shows the first"
            );
            let gone = leave(&mut net, &[1]);
            if !signs {
                net.nodes[2].sees_chain = false;
                // What it spends is nowhere to be seen.
                let update = {
                    let mut view = net.nodes[2].core.chain().clone();
                    view.tip = btcr2_agent::protocol::chain_view::TipView::NoFunds;
                    net.nodes[2].core.chain().diff(&view).unwrap()
                };
                net.input(
                    2,
                    btcr2_agent::protocol::participant::ParticipantInput::Chain(update),
                );
            }
            bump(&mut net);
            let expected = txid(&requests(&net, 0)[1]);
            if signs {
                resolves(net, &[1], &gone, expected);
            } else {
                assert!(!net.chain.contains(&expected));
                let refusals = net.nodes[2].refusals();
                assert!(refusals.last().unwrap().contains("no spendable tip"));
            }
        }
    }
}

/// A node that asks for more than it pays: a minute later more is asked for.
#[test]
fn a_fee_below_what_nodes_take_is_replaced() {
    let mut net = Net::ready(roomy(CohortBeacon::Smt, 3, 2));
    net.chain.min_fee_rate = 14;
    net.queue(0, 0, "a");
    let kept = leave(&mut net, &[2]);
    net.open();
    net.advance(61);
    let first = requests(&net, 0).pop().unwrap();
    assert!(!net.chain.contains(&txid(&first)));
    net.advance(59);
    assert_eq!(requests(&net, 0).len(), 1);
    net.advance(1);
    let again = requests(&net, 0).pop().unwrap();
    assert!(fee(&again) >= 3 * fee(&first));
    net.chain.min_fee_rate = 0;
    resolves(net, &[2], &kept, txid(&again));
}

/// Mail comes in any order: what replaces before what is replaced, results before requests.
#[test]
fn replacements_in_any_order_of_mail() {
    let is_result = |mail: &Mail| matches!(mail.message, Message::RoundResult(_));
    for order in 0..12 {
        let (mut net, kept) = stuck(roomy(CohortBeacon::Smt, 3, 2), 2);
        bump(&mut net);
        bump(&mut net);
        match order {
            0 => {}
            1 => kept.borrow_mut().reverse(),
            // All results before all requests, and the other way.
            2 => kept.borrow_mut().sort_by_key(|mail| !is_result(mail)),
            3 => kept.borrow_mut().sort_by_key(is_result),
            seed => net.shuffle = Some(seed),
        }
        let asked: Vec<Txid> = requests(&net, 0).iter().map(txid).collect();
        come_back(&mut net, &[2], &kept);
        net.shuffle = None;
        // Whoever was away can send each of them.
        let saved = net.nodes[2].saved.iter();
        let mut complete: Vec<Txid> = saved
            .filter_map(|artifact| match artifact {
                Artifact::SignedTransaction { tx, .. } => Some(tx.compute_txid()),
                _ => None,
            })
            .collect();
        complete.sort_by_key(|of| asked.iter().position(|txid| txid == of));
        assert_eq!(complete, asked, "order {order}");
        resolves(net, &[2], &kept, asked[2]);
    }
}

/// Nothing above the cap is asked for, and nothing at all while money is stopped.
#[test]
fn the_gate_holds_for_what_replaces_a_fallback() {
    let (mut net, kept) = stuck(roomy(CohortBeacon::Cas, 3, 2), 2);
    let first = requests(&net, 0).pop().unwrap();
    let cap = |net: &mut Net, sat| net.agg_input(AggregatorInput::MaxFee { sat });
    cap(&mut net, fee(&first) + 100);
    assert!(net.agg.bump_refusal().is_some(), "BIP-125 asks for more");
    cap(&mut net, 2 * fee(&first));
    net.hold = Some("fallback_signature");
    bump(&mut net);
    let again = requests(&net, 0).pop().unwrap();
    assert!(fee(&again) <= 2 * fee(&first) && fee(&again) + 10 > 2 * fee(&first));
    net.agg_input(AggregatorInput::Money { permitted: false });
    assert_eq!(failed(&net.agg_reports), [RoundCause::Operator]);
    net.release();
    assert_eq!(net.agg.unsettled()[0].txid(), txid(&first));
    assert!(net.agg.bump_refusal().is_some(), "money is stopped");
    net.agg_input(AggregatorInput::Money { permitted: true });
    assert_eq!(net.agg.bump_refusal(), None);
    net.mine(1);
    come_back(&mut net, &[2], &kept);
    net.next_round_works();

    // The first is within the cap too, or is not asked for.
    let mut net = Net::ready(roomy(CohortBeacon::Cas, 3, 2));
    cap(&mut net, 500);
    net.queue(0, 0, "a");
    leave(&mut net, &[2]);
    net.open();
    net.advance(61);
    let request = requests(&net, 0).pop().unwrap();
    assert!((490..=500).contains(&fee(&request)), "{}", fee(&request));
}

/// The aggregator's process dies while signatures come in: its log makes it again.
#[test]
fn an_aggregator_made_again_from_its_log_finishes_it() {
    for delivered in 0..2 {
        let (mut net, kept) = stuck(roomy(CohortBeacon::Smt, 3, 2), 2);
        net.hold = Some("fallback_signature");
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
        let asked = txid(&requests(&net, 0)[1]);
        resolves(net, &[2], &kept, asked);
    }
}

/// A member dies before it signs the replacement, and signs after its restart.
#[test]
fn a_member_that_dies_at_the_signature_signs_after_its_restart() {
    let (mut net, kept) = stuck(roomy(CohortBeacon::Smt, 3, 2), 2);
    net.nodes[0].dies_at_sign = true;
    bump(&mut net);
    assert!(!net.nodes[0].dies_at_sign, "it died");
    let asked = txid(&requests(&net, 0)[1]);
    resolves(net, &[2], &kept, asked);
}

// ---- a lying aggregator ----------------------------------------------------------------------------------

/// A replacement whose request to member 0 is kept back; what was signed before, and the request.
fn at_request(setup: Setup) -> (Net, FallbackRequest, FallbackRequest) {
    let (mut net, _) = stuck(setup, 2);
    let first = requests(&net, 0).pop().unwrap();
    net.hold = Some("fallback_request");
    bump(&mut net);
    let Message::FallbackRequest(good) = net.keep_back(Dest::Member(0)).message else {
        unreachable!()
    };
    (net, first, good)
}

fn paying(request: &FallbackRequest, fee: u64) -> FallbackRequest {
    let mut changed = request.clone();
    let spent: u64 = request.prevouts.iter().map(|spent| spent.value_sat).sum();
    changed.tx.0.output[0].value = Amount::from_sat(spent - fee);
    changed
}

#[test]
fn a_member_replaces_only_the_same_bytes_and_inputs_at_a_higher_fee() {
    for beacon in BEACONS {
        let contradicts = |change: &dyn Fn(&mut FallbackRequest), words: &str| {
            let (mut net, _, good) = at_request(roomy(beacon, 3, 2));
            let mut bad = good.clone();
            change(&mut bad);
            let outcome = net.tell(0, Message::FallbackRequest(bad));
            let Outcome::Ignored(Ignored::Contradiction(text)) = outcome else {
                panic!("{words}: {outcome:?}")
            };
            assert!(text.contains(words), "{text:?} is not about {words:?}");
            assert_eq!(net.nodes[0].core.given().len(), 1, "nothing was signed");
            // The good one is signed after all.
            net.tell(0, Message::FallbackRequest(good.clone()));
            net.run();
            assert_eq!(net.agg.unsettled()[0].txid(), txid(&good));
        };
        contradicts(
            &|bad| {
                let script = [&[0x6a, 0x20][..], &[7; 32]].concat();
                bad.tx.0.output[1].script_pubkey = script.into();
            },
            "does not hash to its signal",
        );
        contradicts(
            &|bad| bad.tx.0.input[0].previous_output.vout += 1,
            "spends something else",
        );

        // Also none of them afterwards: what is over stays over, and nothing was signed twice.
        let refuses = |fee_sat: u64, words: Option<&str>| {
            let mut setup = roomy(beacon, 3, 2);
            setup.policy.max_fee_sat = 1_000_000;
            let (mut net, _, good) = at_request(setup);
            net.tell(0, Message::FallbackRequest(paying(&good, fee_sat)));
            net.run();
            assert_eq!(net.nodes[0].core.given().len(), 1, "{fee_sat}");
            match words {
                None => assert_eq!(net.nodes[0].refusals(), [""; 0], "it is old news"),
                Some(words) => {
                    let refusals = net.nodes[0].refusals();
                    assert!(refusals.last().unwrap().contains(words), "{refusals:?}");
                }
            }
        };
        let paid = {
            let (_, first, _) = at_request(roomy(beacon, 3, 2));
            fee(&first)
        };
        refuses(paid - 1, None);
        // The same fee makes the same transaction; 200 sat/vB are forty times five.
        refuses(41 * paid, Some("fee"));
    }
}

/// A member does not sign a second one before the first is signed by enough.
#[test]
fn nothing_is_replaced_that_was_not_signed() {
    let mut net = Net::ready(roomy(CohortBeacon::Smt, 4, 3));
    net.queue(0, 0, "a");
    leave(&mut net, &[3]);
    net.open();
    net.hold = Some("fallback_signature");
    net.advance(61);
    let first = requests(&net, 0).pop().unwrap();
    let outcome = net.tell(0, Message::FallbackRequest(paying(&first, 2 * fee(&first))));
    assert_eq!(outcome, Outcome::Accepted);
    assert_eq!(net.nodes[0].core.given().len(), 1);
    let refusals = net.nodes[0].refusals();
    assert!(refusals.last().unwrap().contains("not signed yet"));
    net.hold = None;
    net.held.clear();
}

#[test]
fn a_member_keeps_to_its_own_fee_limits() {
    let mut setup = roomy(CohortBeacon::Smt, 3, 2);
    setup.policy.max_fee_rate = 14;
    let (mut net, first, good) = at_request(setup);
    net.tell(0, Message::FallbackRequest(good));
    net.run();
    let refusals = net.nodes[0].refusals();
    assert!(refusals.last().unwrap().contains("fee"), "{refusals:?}");
    assert_eq!(net.nodes[0].core.given().len(), 1);
    assert!(net.chain.contains(&txid(&first)));
}

// ---- what a fallback spends ------------------------------------------------------------------------------

/// The tip and what was paid besides, each input through the leaf; the replacement spends the same.
#[test]
fn a_fallback_spends_a_top_up() {
    for (beacon, n, k) in [(CohortBeacon::Smt, 3, 2), (CohortBeacon::Cas, 4, 2)] {
        let mut net = Net::new(roomy(beacon, n, k));
        net.form();
        net.fund(5_000);
        net.register_all();
        let script = net.script();
        let further: Vec<OutPoint> = [40_000, 30_000]
            .map(|sat| net.chain.fund(&script, sat))
            .to_vec();
        net.mine(1);
        let tip = net.agg.chain().ready_tip(1).unwrap().0;
        let kept = stall(&mut net, k);
        let first = requests(&net, 0).pop().unwrap();
        let expected = [&[tip][..], &further].concat();
        assert_eq!(spends(&first), expected);
        let (_, signed) = net.signed_txs().pop().unwrap();
        let through_leaf = |tx: &Transaction| tx.input.iter().all(|i| i.witness.len() == n + 2);
        assert!(through_leaf(&signed));
        assert_eq!(
            net.agg.fee_rate().fee_wu(signed.weight()),
            Some(Amount::from_sat(fee(&first)))
        );
        bump(&mut net);
        let again = requests(&net, 0).pop().unwrap();
        assert_eq!(spends(&again), expected);
        assert!(through_leaf(&net.signed_txs().pop().unwrap().1));
        let away: Vec<usize> = (usize::from(k)..n).collect();
        resolves(net, &away, &kept, txid(&again));
    }
}

/// Where members fund, nothing is spent whose refund they do not hold, through the leaf either: what is paid while
/// somebody is away stays where it is, and nobody signs to spend it.
#[test]
fn a_fallback_spends_nothing_that_members_funded_and_can_not_get_back() {
    let terms = |setup: Setup| {
        setup.refunds().terms(|terms| {
            terms.funding = Funding::Members;
            terms.sessions_max = 8;
        })
    };
    let mut net = Net::ready(terms(roomy(CohortBeacon::Smt, 3, 2)));
    let tip = net.agg.chain().ready_tip(1).unwrap().0;
    assert!(net.agg.refund_of(&tip).is_some());
    net.queue(0, 0, "a");
    let kept = leave(&mut net, &[2]);
    let script = net.script();
    let unprotected = net.chain.fund(&script, 60_000);
    // Below what could be refunded to three.
    let dust = net.chain.fund(&script, 900);
    net.mine(1);
    net.hold = Some("fallback_request");
    net.open();
    net.advance(61);
    let Message::FallbackRequest(good) = net.keep_back(Dest::Member(0)).message else {
        unreachable!()
    };
    assert_eq!(spends(&good), [tip, dust]);

    // The aggregator spends it all the same.
    let mut bad = good.clone();
    bad.tx.0.input[1].previous_output = unprotected;
    bad.prevouts[1].value_sat = 60_000;
    bad.tx.0.output[0].value += Amount::from_sat(60_000 - 900);
    net.tell(0, Message::FallbackRequest(bad));
    let refusals = net.nodes[0].refusals();
    let expected = format!("the refund of {unprotected}, which it spends, is not complete");
    assert_eq!(refusals.last(), Some(&expected.as_str()));
    assert!(net.nodes[0].core.given().is_empty());
    assert_eq!(net.agg.signals_signed(), 0);
    drop(net);
    drop(kept);

    // An honest one: the signal and what replaces it go out, and its change waits for a refund by all.
    let mut net = Net::ready(terms(roomy(CohortBeacon::Cas, 3, 2)));
    let script = net.script();
    let dust = net.chain.fund(&script, 900);
    net.mine(1);
    let kept = stall(&mut net, 2);
    bump(&mut net);
    let again = requests(&net, 0).pop().unwrap();
    assert_eq!(spends(&again)[1], dust);
    let expected = txid(&again);
    assert!(net.chain.contains(&expected));
    net.mine(1);
    let change = OutPoint::new(expected, 0);
    assert_eq!(
        net.agg.open_refusal(),
        Some(OpenRefusal::TipUnprotected(change))
    );
    come_back(&mut net, &[2], &kept);
    net.advance(HOUR + 120);
    assert!(net.agg.refund_of(&change).is_some());
    net.next_round_works();
}
