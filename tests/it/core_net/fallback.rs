//! The output policy `k-of-n`: a round that stalls is signed through the leaf, whoever is away can explain it later,
//! and nothing changes while all are there.

use std::cell::RefCell;
use std::rc::Rc;

use bitcoin::Transaction;
use btcr2_agent::protocol::Seat;
use btcr2_agent::protocol::aggregator::AggregatorInput;
use btcr2_agent::protocol::chain_view::TipView;
use btcr2_agent::protocol::effect::{Artifact, Ignored, Outcome, Report};
use btcr2_agent::protocol::message::{Message, RoundCause};
use btcr2_agent::protocol::participant::{Decline, ParticipantInput};
use btcr2_agent::protocol::terms::{CohortBeacon, OutputPolicy};

use super::net::{Dest, HOUR, Mail, Net, Setup};
use super::node::update;

pub const BEACONS: [CohortBeacon; 2] = [CohortBeacon::Smt, CohortBeacon::Cas];

/// A cohort of n whose terms have a leaf for k, with a minute for each step.
pub fn setup(beacon: CohortBeacon, n: usize, k: u16) -> Setup {
    Setup::new(beacon, n).terms(|terms| {
        terms.seats_min = terms.seats_max;
        terms.output_policy = OutputPolicy::KOfN(k);
        terms.response_seconds = 60;
        terms.signing_seconds = 60;
    })
}

/// Mail to members that are away, in its order.
pub type Kept = Rc<RefCell<Vec<Mail>>>;

/// These members see and hear nothing from now on.
pub fn leave(net: &mut Net, away: &[usize]) -> Kept {
    let kept = Kept::default();
    let (keep, gone) = (Rc::clone(&kept), away.to_vec());
    for i in away {
        net.nodes[*i].sees_chain = false;
    }
    net.hook = Some(Box::new(move |mail| {
        if matches!(mail.to, Dest::Member(i) if gone.contains(&i)) {
            keep.borrow_mut().push(mail);
            return Vec::new();
        }
        vec![mail]
    }));
    kept
}

/// They are back: first they read their mail, then the chain.
pub fn come_back(net: &mut Net, away: &[usize], kept: &Kept) {
    net.hook = None;
    net.mail.extend(kept.borrow_mut().drain(..));
    net.run();
    for i in away {
        net.nodes[*i].sees_chain = true;
    }
    net.sync();
    net.run();
}

/// Through which of the two ways the transaction is signed, all inputs alike.
fn is_through_leaf(tx: &Transaction) -> bool {
    let by_leaf = tx.input.iter().filter(|input| input.witness.len() > 1);
    let by_leaf = by_leaf.count();
    assert!(by_leaf == 0 || by_leaf == tx.input.len());
    by_leaf > 0
}

/// The transaction of the latest signal; it is in the chain model's mempool or in a block.
fn last_tx(net: &Net) -> Transaction {
    let (_, tx) = net.signed_txs().pop().unwrap();
    assert!(net.chain.contains(&tx.compute_txid()));
    tx
}

fn no_alarms(net: &Net) {
    for node in &net.nodes {
        assert_eq!(node.alarms(), [""; 0]);
        let unknown = |report: &&Report| matches!(report, Report::UnknownSpend { .. });
        assert_eq!(node.reports.iter().find(unknown), None);
    }
}

/// Two rounds with everybody, by the key of all; one without some; one with everybody again.
fn a_life(beacon: CohortBeacon, n: usize, k: u16) {
    let mut net = Net::ready(setup(beacon, n, k));
    net.queue(0, 0, "first");
    assert!(!is_through_leaf(&net.round()), "while all are there");
    net.mine(6);

    // As many are away as may be: the last ones. One of them has something to announce.
    let present = usize::from(k);
    let away: Vec<usize> = (present..n).collect();
    net.queue(0, 0, "second");
    net.queue(n - 1, 0, "waits");
    let kept = leave(&mut net, &away);
    net.open();
    let absent: Vec<Seat> = net.agg.waiting_for();
    assert_eq!(absent.len(), n - present);
    net.advance(60);
    assert_eq!(net.agg.signals_signed(), 1, "until it is over");
    net.advance(1);
    let opened = net.agg_reports.iter().find_map(|report| match report {
        Report::FallbackOpened {
            absent, threshold, ..
        } => Some((absent.clone(), *threshold)),
        _ => None,
    });
    assert_eq!(opened, Some((absent, k)));
    assert_eq!(net.agg.signals_signed(), 2, "{k} of {n}");
    let tx = last_tx(&net);
    assert!(is_through_leaf(&tx));
    assert_eq!(tx.input[0].witness.len(), n + 2);
    // Exactly the rate that was asked for, for what the transaction weighs in the end.
    let spent = net.chain.output(&tx.input[0].previous_output).unwrap();
    let fee = spent.value - tx.output[0].value;
    assert_eq!(net.agg.fee_rate().fee_wu(tx.weight()), Some(fee));
    net.mine(1);
    assert_eq!(net.proved(0, 0)[1], Some(Some(update("second"))));
    for i in 1..present {
        assert_eq!(net.proved(i, 0)[1], Some(None));
    }
    for i in &away {
        assert_eq!(net.proved(*i, 0)[1], None, "it was not there");
    }

    come_back(&mut net, &away, &kept);
    for i in &away {
        assert_eq!(
            net.proved(*i, 0)[1],
            Some(None),
            "out of what was published"
        );
        let index = net.nodes[*i].dids[0].index;
        assert_eq!(net.nodes[*i].core.proof_counts(&index).1, 0);
        assert!(!net.nodes[*i].core.given().is_empty(), "it is followed");
    }
    assert!(
        net.archive
            .iter()
            .all(|mail| !matches!(mail.message, Message::HistoryRequest(_))),
        "nobody had to ask"
    );
    net.mine(5);
    assert!(!is_through_leaf(&net.round()), "all are there again");
    let expected = if away.is_empty() {
        None
    } else {
        Some(update("waits"))
    };
    assert_eq!(net.proved(n - 1, 0)[2], Some(expected));
    net.next_round_works();
    no_alarms(&net);
}

#[test]
fn a_stalled_round_is_signed_by_k_and_explained_to_all() {
    for beacon in BEACONS {
        for (n, k) in [(2, 1), (3, 1), (3, 2), (5, 2), (5, 4), (7, 4)] {
            a_life(beacon, n, k);
        }
    }
}

/// What everybody has to know is in the channel before a signature exists, and kept by each member before it signs.
#[test]
fn everything_is_published_before_the_first_signature() {
    for beacon in BEACONS {
        let mut net = Net::ready(setup(beacon, 4, 2));
        net.queue(1, 0, "a");
        leave(&mut net, &[3]);
        net.open();
        net.hold = Some("fallback_signature");
        net.advance(61);
        // Three are there; all three signed, and the aggregator has no signature yet.
        assert_eq!(net.held.len(), 3);
        let requests = net.archive.iter().filter(|mail| {
            matches!(mail.message, Message::FallbackRequest(_)) && mail.from == net.agg_key.public()
        });
        assert_eq!(requests.count(), 4, "to all, the absent one too");
        for i in 0..3 {
            let whole = net.nodes[i].saved.iter().any(|artifact| match artifact {
                Artifact::LeafSet { leaves, .. } => leaves.len() == 3,
                Artifact::Announcement { announcement, .. } => {
                    announcement.contains(net.nodes[1].dids[0].did.as_str())
                }
                _ => false,
            });
            assert!(whole, "member {i} keeps all of it");
            assert_eq!(net.nodes[i].core.given().len(), 1, "it counts as given");
        }
        assert_eq!(net.agg.waiting_for().len(), 4);
        // Two are enough; the third comes too late to matter.
        net.release();
        assert_eq!(net.agg.signals_signed(), 1);
        assert_eq!(
            net.agg_outcomes.last().unwrap(),
            &("fallback_signature", Outcome::Ignored(Ignored::WrongRound))
        );
        net.mine(1);
        for i in 0..3 {
            let index = net.nodes[i].dids[0].index;
            assert_eq!(net.nodes[i].core.proof_counts(&index), (1, 0));
        }
        assert_eq!(net.proved(1, 0), [Some(Some(update("a")))]);
    }
}

/// All responded, and somebody does not sign: the same 32 bytes, by those who do.
#[test]
fn who_does_not_sign_is_not_waited_for_any_longer() {
    for beacon in BEACONS {
        let mut net = Net::ready(setup(beacon, 5, 3));
        net.queue(4, 0, "mine");
        net.queue(0, 0, "a");
        let silent = net.nodes[4].me();
        net.hook = Some(Box::new(move |mail| {
            let mute = matches!(
                mail.message,
                Message::PartialSignature(_) | Message::FallbackSignature(_)
            );
            if mute && mail.from == silent {
                return Vec::new();
            }
            vec![mail]
        }));
        net.open();
        let fixed: Vec<_> = signals(&net);
        assert_eq!(fixed.len(), 1);
        net.advance(61);
        assert_eq!(net.agg.signals_signed(), 1);
        let tx = last_tx(&net);
        assert!(is_through_leaf(&tx));
        let both = signals(&net);
        assert_eq!(both.len(), 2);
        assert_eq!(both[0], both[1], "one 32-byte value per round");
        net.mine(1);
        // It had responded: what it submitted is announced, and it can explain that.
        assert_eq!(net.proved(4, 0), [Some(Some(update("mine")))]);
        assert_eq!(net.proved(0, 0), [Some(Some(update("a")))]);
        let index = net.nodes[4].dids[0].index;
        let state = net.nodes[4].core.update_state(&index);
        assert_eq!(state, Some((update("mine"), true)));
        net.hook = None;
        net.next_round_works();
        no_alarms(&net);
    }
}

/// The 32 bytes that the aggregator fixed, one per transaction.
fn signals(net: &Net) -> Vec<btcr2_agent::hash::SignalBytes> {
    let fixed = net.agg_reports.iter().filter_map(|report| match report {
        Report::SignalFixed { signal, .. } => Some(*signal),
        _ => None,
    });
    fixed.collect()
}

/// The last partial signature comes after all, before enough sign through the leaf: the key of all ends the round,
/// and the seat keys stay unpublished.
#[test]
fn a_late_partial_signature_ends_the_round_after_all() {
    for beacon in BEACONS {
        let mut net = Net::ready(setup(beacon, 3, 2));
        net.queue(0, 0, "a");
        net.hold = Some("partial_signature");
        net.open();
        let late = net.keep_back(Dest::Aggregator);
        net.hold = Some("fallback_signature");
        net.advance(61);
        assert_eq!(net.held.len(), 3);
        let outcome = net.deliver(late.from, late.to, late.message);
        assert_eq!(outcome, Outcome::Accepted);
        assert!(!is_through_leaf(&last_tx(&net)));
        net.release();
        net.mine(1);
        assert_eq!(net.proved(0, 0), [Some(Some(update("a")))]);
        net.next_round_works();
        no_alarms(&net);
    }
}

#[test]
fn too_few_or_nothing_to_announce_fails_as_ever() {
    for beacon in BEACONS {
        // One of three is there, two have to sign.
        let mut net = Net::ready(setup(beacon, 3, 2));
        net.queue(0, 0, "a");
        let kept = leave(&mut net, &[1, 2]);
        net.open();
        net.advance(61);
        let failed = |net: &Net, absent: Vec<Seat>| {
            let why = RoundCause::NoResponse { absent };
            let found = net.agg_reports.iter().any(
                |report| matches!(report, Report::RoundFailed { why: cause, .. } if *cause == why),
            );
            assert!(found, "{:?}", net.agg_reports);
        };
        let seats = |net: &Net, members: &[usize]| {
            let (set, _) = net.agg.set().unwrap();
            let mut seats: Vec<Seat> = members
                .iter()
                .map(|i| set.seat_of(&net.nodes[*i].me()).unwrap())
                .collect();
            seats.sort();
            seats
        };
        failed(&net, seats(&net, &[1, 2]));
        come_back(&mut net, &[1, 2], &kept);
        net.next_round_works();
        assert_eq!(net.proved(0, 0), [Some(Some(update("a")))]);

        // Whoever is there has nothing to say: nothing is spent for that.
        let mut net = Net::ready(setup(beacon, 3, 2).decline(Decline::Idle));
        leave(&mut net, &[2]);
        net.open();
        net.advance(61);
        failed(&net, seats(&net, &[2]));
        assert_eq!(net.agg.signals_signed(), 0);
    }
}

/// A fallback that too few sign ends the round. What was signed for stays locked, and the next round announces it.
#[test]
fn a_fallback_that_too_few_sign() {
    for beacon in BEACONS {
        let mut net = Net::ready(setup(beacon, 4, 3));
        net.queue(0, 0, "a");
        leave(&mut net, &[3]);
        net.open();
        let mute = [net.nodes[1].me(), net.nodes[2].me()];
        net.hook = Some(Box::new(move |mail| {
            let lost =
                mute.contains(&mail.from) && matches!(mail.message, Message::FallbackSignature(_));
            let away = mail.to == Dest::Member(3);
            if lost || away { Vec::new() } else { vec![mail] }
        }));
        net.advance(61);
        assert_eq!(net.agg.signals_signed(), 0);
        net.advance(61);
        let failed = net.agg_reports.iter().any(|report| {
            matches!(report, Report::RoundFailed { why: RoundCause::NoSignature { absent }, .. }
                if absent.len() == 3)
        });
        assert!(failed, "{:?}", net.agg_reports);
        // Rules 4 and 10: signatures left, so the bytes may confirm still.
        let index = net.nodes[0].dids[0].index;
        assert!(net.nodes[0].core.queue_refusal(&index).is_some());
        assert_eq!(net.nodes[0].core.live_signals().count(), 1);
        net.hook = None;
        net.nodes[3].sees_chain = true;
        net.sync();
        net.round();
        let rounds = net.proved(0, 0);
        assert_eq!(rounds, [Some(Some(update("a")))]);
        net.mine(5);
        assert_eq!(net.nodes[0].core.live_signals().count(), 0);
        assert_eq!(net.nodes[0].core.queue_refusal(&index), None);
        net.next_round_works();
    }
}

/// The process dies between the order and the signature: it signs after the restart, and no nonce is missed.
#[test]
fn a_member_that_dies_at_the_signature_signs_after_its_restart() {
    let mut net = Net::ready(setup(CohortBeacon::Smt, 3, 2));
    net.queue(0, 0, "a");
    leave(&mut net, &[2]);
    net.open();
    net.nodes[0].dies_at_sign = true;
    net.advance(61);
    assert!(!net.nodes[0].dies_at_sign, "it died");
    assert_eq!(net.agg.signals_signed(), 1);
    assert!(is_through_leaf(&last_tx(&net)));
}

/// A member that missed the whole round may still sign, if it comes back in time.
#[test]
fn who_comes_back_in_time_signs_for_the_others() {
    for beacon in BEACONS {
        let mut net = Net::ready(setup(beacon, 3, 2));
        net.queue(0, 0, "a");
        net.queue(2, 0, "later");
        let kept = leave(&mut net, &[2]);
        net.open();
        let mute = net.nodes[1].me();
        net.hold = Some("fallback_signature");
        net.advance(61);
        net.held.retain(|mail| mail.from != mute);
        net.release();
        assert_eq!(net.agg.signals_signed(), 0, "one of two");
        come_back(&mut net, &[2], &kept);
        assert_eq!(net.agg.signals_signed(), 1);
        net.mine(1);
        assert_eq!(net.proved(2, 0), [Some(None)]);
        net.next_round_works();
        assert_eq!(net.proved(2, 0)[1], Some(Some(update("later"))));
        no_alarms(&net);
    }
}

/// Mail comes in any order: the result before the request, the opening last.
#[test]
fn a_result_before_its_request() {
    for beacon in BEACONS {
        let mut net = Net::ready(setup(beacon, 3, 2));
        net.queue(0, 0, "a");
        let kept = leave(&mut net, &[2]);
        net.open();
        net.advance(61);
        assert_eq!(net.agg.signals_signed(), 1);
        kept.borrow_mut().reverse();
        come_back(&mut net, &[2], &kept);
        net.mine(1);
        assert_eq!(net.proved(2, 0), [Some(None)]);
        let signed = |artifact: &Artifact| matches!(artifact, Artifact::SignedTransaction { .. });
        assert!(net.nodes[2].saved.iter().any(signed), "it may broadcast it");
        net.next_round_works();
        no_alarms(&net);
    }
}

/// A request may come days late: its round is settled by then, and was explained by the history.
#[test]
fn a_request_for_what_is_settled_and_explained_is_no_alarm() {
    for beacon in BEACONS {
        let mut net = Net::ready(setup(beacon, 3, 2));
        net.queue(2, 0, "mine");
        net.hold = Some("sign_request");
        net.open();
        let kept = leave(&mut net, &[2]);
        net.release();
        net.advance(61);
        assert_eq!(net.agg.signals_signed(), 1);
        net.mine(6);
        let mut late: Vec<Mail> = kept.take();
        late.retain(|mail| mail.message.type_name() == "fallback_request");
        assert_eq!(late.len(), 1);
        come_back(&mut net, &[2], &kept);
        let explained = [Some(Some(update("mine")))];
        assert_eq!(net.proved(2, 0), explained, "by the history");

        net.queue(0, 0, "later");
        net.round();
        net.mine(6);
        net.mail.extend(late);
        net.run();
        assert_eq!(net.proved(2, 0)[..1], explained);
        no_alarms(&net);
        net.next_round_works();
    }
}

/// A member that sees the spend before it hears of it waits with its alarm; one that never hears of it raises it.
#[test]
fn a_spend_that_nobody_explains_is_an_alarm_after_an_hour() {
    let mut net = Net::ready(setup(CohortBeacon::Smt, 3, 2));
    net.queue(0, 0, "a");
    let kept = leave(&mut net, &[2]);
    net.nodes[2].sees_chain = true;
    net.open();
    net.advance(61);
    net.mine(1);
    let unknown = |net: &Net| {
        let reports = net.nodes[2].reports.iter();
        reports
            .filter(|report| matches!(report, Report::UnknownSpend { .. }))
            .count()
    };
    net.advance(HOUR - 1);
    assert_eq!(unknown(&net), 0, "its message may be on its way");
    net.advance(2);
    assert_eq!(unknown(&net), 1);
    // It was explained after all: the member can go on.
    come_back(&mut net, &[2], &kept);
    assert_eq!(net.proved(2, 0), [Some(None)]);
    net.next_round_works();
    assert_eq!(unknown(&net), 1);
}

/// The chain's tip moves while signatures are awaited: nobody would sign, and the round ends.
#[test]
fn the_tip_moves_under_a_fallback() {
    let mut net = Net::ready(setup(CohortBeacon::Cas, 3, 2));
    net.queue(0, 0, "a");
    leave(&mut net, &[2]);
    net.open();
    net.hold = Some("fallback_signature");
    net.advance(61);
    let TipView::Ready { outpoint, .. } = net.agg.chain().tip else {
        panic!("the tip is there")
    };
    let mut view = net.agg.chain().clone();
    view.tip = TipView::Ready {
        outpoint: bitcoin::OutPoint::new(outpoint.txid, outpoint.vout + 1),
        value_sat: 50_000,
        height: 100,
    };
    let update = net.agg.chain().diff(&view).unwrap();
    net.agg_input(AggregatorInput::Chain(update));
    let moved = net.agg_reports.iter().any(|report| {
        matches!(
            report,
            Report::RoundFailed {
                why: RoundCause::TipMoved,
                ..
            }
        )
    });
    assert!(moved);
}

/// Cancelling is too late once a signature through the leaf is there.
#[test]
fn no_cancelling_after_a_signature_through_the_leaf() {
    let mut net = Net::ready(setup(CohortBeacon::Smt, 4, 3));
    net.queue(0, 0, "a");
    leave(&mut net, &[3]);
    net.open();
    net.hold = Some("fallback_signature");
    net.advance(61);
    let first = net.held.remove(0);
    net.deliver(first.from, first.to, first.message);
    assert_eq!(
        net.agg_input(AggregatorInput::Cancel),
        Outcome::Ignored(Ignored::TooLate)
    );
    net.release();
    assert_eq!(net.agg.signals_signed(), 1);
}

/// Signatures that nobody asked the driver for count for nothing.
#[test]
fn signatures_that_nobody_asked_for() {
    let mut net = Net::ready(setup(CohortBeacon::Smt, 3, 2));
    let round = btcr2_agent::protocol::Round(1);
    let unasked = ParticipantInput::FallbackSigned {
        round,
        signatures: Vec::new(),
    };
    assert_eq!(net.input(0, unasked), Outcome::Ignored(Ignored::Unasked));
}
