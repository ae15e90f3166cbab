//! Happy paths: both beacon types, several sizes and networks, who updates and who does not.

use btcr2_agent::network::Network;
use btcr2_agent::protocol::Round;
use btcr2_agent::protocol::aggregator::{AggregatorInput, OpenRefusal, Phase};
use btcr2_agent::protocol::effect::{AdvertStatus, Outcome, Report};
use btcr2_agent::protocol::message::{Message, RefusalCode};
use btcr2_agent::protocol::participant::{
    BindingState, Decline, IndexState, MemberPhase, ParticipantInput,
};
use btcr2_agent::protocol::terms::{CohortBeacon, EmptyRounds};

use super::net::{Net, Setup};
use super::node::{MyDid, update};

const BEACONS: [CohortBeacon; 2] = [CohortBeacon::Smt, CohortBeacon::Cas];

#[test]
fn all_update_smt_and_cas_for_several_sizes_and_networks() {
    let networks = [
        Network::Regtest,
        Network::Signet,
        Network::Testnet4,
        Network::Mutinynet,
    ];
    for beacon in BEACONS {
        for (n, network) in [2, 3, 5, 7].into_iter().zip(networks) {
            let mut net = Net::ready(Setup::new(beacon, n).terms(|terms| terms.network = network));
            for i in 0..n {
                net.queue(i, 0, &format!("{i}"));
            }
            let tx = net.round();
            assert_eq!(tx.input.len(), 1);
            assert_eq!(net.chain.verified, 1);
            for i in 0..n {
                assert_eq!(net.proved(i, 0), [Some(Some(update(&format!("{i}"))))]);
                let index = net.nodes[i].dids[0].index;
                assert_eq!(
                    net.nodes[i].core.update_state(&index),
                    Some((update(&format!("{i}")), true))
                );
                assert_eq!(net.nodes[i].alarms(), [""; 0]);
            }
        }
    }
}

#[test]
fn a_cohort_of_one_signs_too() {
    let mut net = Net::ready(Setup::smt(1).terms(|terms| terms.seats_min = 1));
    net.queue(0, 0, "alone");
    net.round();
    assert_eq!(net.proved(0, 0), [Some(Some(update("alone")))]);
}

#[test]
fn when_all_are_idle_the_round_is_empty_and_the_next_one_works() {
    for beacon in BEACONS {
        let mut net = Net::ready(Setup::new(beacon, 3).decline(Decline::Idle));
        net.open();
        assert_eq!(net.agg.signals_signed(), 0);
        assert!(
            net.agg_reports
                .contains(&Report::RoundEmpty { round: Round(1) })
        );
        for node in &net.nodes {
            assert!(
                node.reports
                    .contains(&Report::RoundEmpty { round: Round(1) })
            );
            assert_eq!(node.core.open_round(), None);
            assert!(node.saved.is_empty());
        }
        net.queue(1, 0, "later");
        net.round();
        assert_eq!(net.proved(1, 0), [Some(Some(update("later")))]);
        assert_eq!(net.proved(0, 0), [Some(None)]);
    }
}

#[test]
fn an_explicit_no_update_is_signalled() {
    for beacon in BEACONS {
        let mut net = Net::ready(Setup::new(beacon, 3).decline(Decline::NoUpdate));
        net.round();
        for i in 0..3 {
            assert_eq!(net.proved(i, 0), [Some(None)]);
        }
    }
}

#[test]
fn idle_rounds_are_signalled_where_the_terms_say_so() {
    for beacon in BEACONS {
        let setup = Setup::new(beacon, 2)
            .decline(Decline::Idle)
            .terms(|terms| terms.empty_rounds = EmptyRounds::Signal);
        let mut net = Net::ready(setup);
        net.round();
        net.round();
        for i in 0..2 {
            assert_eq!(net.proved(i, 0), [Some(None), Some(None)]);
        }
    }
}

#[test]
fn some_decline() {
    for beacon in BEACONS {
        for decline in [Decline::Idle, Decline::NoUpdate] {
            let mut net = Net::ready(Setup::new(beacon, 5).decline(decline));
            net.queue(1, 0, "one");
            net.queue(4, 0, "four");
            net.round();
            let proved: Vec<_> = (0..5).map(|i| net.proved(i, 0)).collect();
            assert_eq!(
                proved,
                [
                    [Some(None)],
                    [Some(Some(update("one")))],
                    [Some(None)],
                    [Some(None)],
                    [Some(Some(update("four")))]
                ]
            );
        }
    }
}

#[test]
fn a_member_with_three_dids_and_one_with_none() {
    for beacon in BEACONS {
        let mut net = Net::ready(Setup::new(beacon, 3).dids(&[3, 0, 1]));
        assert_eq!(net.agg.registered(), 4);
        net.queue(0, 0, "a");
        net.queue(0, 2, "c");
        net.round();
        assert_eq!(net.proved(0, 0), [Some(Some(update("a")))]);
        assert_eq!(net.proved(0, 1), [Some(None)]);
        assert_eq!(net.proved(0, 2), [Some(Some(update("c")))]);
        assert_eq!(net.proved(2, 0), [Some(None)]);
        assert_eq!(net.nodes[1].rounds_signed(), 1, "it signed all the same");
    }
}

#[test]
fn rounds_chain_and_a_did_that_comes_between_gets_its_history_first() {
    for beacon in BEACONS {
        // The second time, one round of history fits into an answer.
        for history_bytes in [usize::MAX, 1] {
            let mut net = Net::ready(Setup::new(beacon, 3));
            net.history_bytes = history_bytes;
            for i in 0..3 {
                net.queue(i, 0, &format!("first {i}"));
            }
            let first = net.round();
            net.queue(2, 0, "too early");
            let second = net.round();
            assert_eq!(
                second.input[0].previous_output.txid,
                first.compute_txid(),
                "the second signal spends the change of the first"
            );

            // An x1 DID whose genesis document lists the beacon: all signals ever sent count for it.
            let did = MyDid::x1(&net, "late did");
            let index = did.index;
            net.nodes[1].dids.push(did);
            net.nodes[1].binds = false;
            net.register(1, &[1]);
            let before = net.nodes[1].saved.len();
            net.run();
            let node = &net.nodes[1];
            assert_eq!(
                node.core.index_state(&index),
                Some(IndexState::Covered(Round(3)))
            );
            assert_eq!(
                node.core.binding_state(&index),
                Some(BindingState::MayBind),
                "{beacon}: {:?}",
                node.reports
            );
            assert!(node.reports.contains(&Report::MayBind { index, proofs: 2 }));
            assert_eq!(
                node.saved.len(),
                before + 2,
                "one proof for each past signal"
            );
            assert_eq!(net.proved(1, 1), [Some(None), Some(None)]);
            let answers = net
                .archive
                .iter()
                .filter(|mail| matches!(mail.message, Message::History(_)));
            assert_eq!(answers.count(), if history_bytes == 1 { 2 } else { 1 });

            assert_eq!(
                net.input(1, ParticipantInput::Bound { index }),
                Outcome::Accepted
            );
            net.queue(1, 1, "late");
            let third = net.round();
            assert_eq!(third.input[0].previous_output.txid, second.compute_txid());
            assert_eq!(
                net.proved(1, 1),
                [Some(None), Some(None), Some(Some(update("late")))]
            );
            // Rule 10: the second update of DID 2 waits until the first is final.
            assert_eq!(
                net.proved(2, 0),
                [Some(Some(update("first 2"))), Some(None), Some(None)]
            );
            assert_eq!(net.chain.verified, 3);
        }
    }
}

#[test]
fn a_did_registered_during_a_round_binds_after_that_round_and_its_history() {
    for beacon in BEACONS {
        let mut net = Net::ready(Setup::new(beacon, 2).dids(&[2, 1]));
        // Two of two DIDs are registered by `ready`; a third comes while the round is open.
        let did = MyDid::k1(Network::Regtest, "during");
        let index = did.index;
        net.nodes[0].dids.push(did);
        net.queue(1, 0, "one");
        net.agg_input(AggregatorInput::OpenRound);
        net.run_until("response");
        net.register(0, &[2]);
        let is_bound =
            move |net: &Net| net.nodes[0].core.binding_state(&index) == Some(BindingState::Bound);
        // Until the result is there, it does not bind, although the registration is acknowledged.
        let mut acknowledged = false;
        while net.on_its_way("round_result").is_none() {
            assert!(net.step());
            acknowledged |=
                net.nodes[0].core.index_state(&index) == Some(IndexState::Covered(Round(2)));
            assert!(!is_bound(&net));
        }
        assert!(acknowledged);
        net.run();
        assert!(is_bound(&net));
        net.mine(1);
        assert_eq!(net.proved(0, 2), [Some(None)]);
        net.queue(0, 2, "third");
        net.round();
        assert_eq!(net.proved(0, 2), [Some(None), Some(Some(update("third")))]);
    }
}

#[test]
fn a_did_registered_during_a_round_that_ends_empty_may_bind() {
    let mut net = Net::ready(Setup::smt(2).dids(&[2, 1]).decline(Decline::Idle));
    let did = MyDid::k1(Network::Regtest, "during");
    let index = did.index;
    net.nodes[0].dids.push(did);
    net.agg_input(AggregatorInput::OpenRound);
    net.run_until("response");
    net.register(0, &[2]);
    net.run();
    assert_eq!(net.agg.signals_signed(), 0);
    assert_eq!(
        net.nodes[0].core.binding_state(&index),
        Some(BindingState::Bound)
    );
}

#[test]
fn no_did_binds_while_the_opening_of_the_round_in_flight_is_on_its_way() {
    let mut net = Net::ready(Setup::smt(2).dids(&[1, 1]));
    let did = MyDid::k1(Network::Regtest, "during");
    let index = did.index;
    net.nodes[0].dids.push(did);
    net.agg_input(AggregatorInput::OpenRound);
    net.register(0, &[1]);
    // The acknowledgement overtakes the opening.
    net.hold = Some("round_open");
    net.run();
    let node = &net.nodes[0];
    assert_eq!(
        node.core.index_state(&index),
        Some(IndexState::Covered(Round(2)))
    );
    assert_eq!(node.core.binding_state(&index), Some(BindingState::NotYet));
    net.release();
    net.mine(1);
    assert_eq!(net.agg.signals_signed(), 1, "the round is signed");
    assert_eq!(
        net.nodes[0].core.binding_state(&index),
        Some(BindingState::Bound)
    );
    assert_eq!(net.proved(0, 1), [Some(None)]);
}

#[test]
fn the_pending_count_opens_a_round() {
    let mut net = Net::ready(Setup::smt(3).terms(|terms| terms.pending_trigger = 2));
    net.queue(0, 0, "a");
    net.run();
    assert_eq!(net.agg.last_round(), 0, "one update waits");
    net.queue(2, 0, "b");
    net.run();
    assert_eq!(net.agg.signals_signed(), 1);
    net.mine(1);
    assert_eq!(net.agg.last_round(), 1, "nothing waits any more");
    assert_eq!(net.proved(0, 0), [Some(Some(update("a")))]);
    assert_eq!(net.proved(1, 0), [Some(None)]);
}

#[test]
fn the_cadence_opens_rounds() {
    let mut net = Net::ready(Setup::cas(2).terms(|terms| terms.cadence_seconds = 1_000));
    net.advance(999);
    assert_eq!(net.agg.last_round(), 0);
    net.advance(1);
    assert_eq!(net.agg.signals_signed(), 1);
    // The previous signal is not confirmed when the next round is due: it opens as soon as it is.
    net.advance(1_500);
    assert_eq!(net.agg.last_round(), 1);
    net.mine(1);
    assert_eq!(net.agg.signals_signed(), 2);
    net.mine(1);
    net.advance(1_000);
    assert_eq!(net.agg.signals_signed(), 3);
}

#[test]
fn a_depth_of_three_is_waited_for() {
    let mut net = Net::new(Setup::smt(2).terms(|terms| terms.depth = 3));
    net.form();
    net.fund(50_000);
    net.register_all();
    assert_eq!(net.agg.open_refusal(), Some(OpenRefusal::NoTip));
    net.mine(2);
    let first = net.round();
    for _ in 0..2 {
        assert_eq!(
            net.agg.open_refusal(),
            Some(OpenRefusal::PreviousUnconfirmed(first.compute_txid()))
        );
        net.mine(1);
    }
    net.round();
}

#[test]
fn when_the_money_is_used_up_new_funds_start_a_new_chain() {
    let mut net = Net::new(Setup::smt(2));
    net.form();
    // 154 vB with change and 111 vB without, at 5 sat/vB: two signals, the second leaves dust.
    net.fund(770 + 555 + 300);
    net.register_all();
    assert_eq!(net.round().output.len(), 2);
    assert_eq!(net.round().output.len(), 1, "no change");
    assert_eq!(net.agg.open_refusal(), Some(OpenRefusal::NoTip));
    net.fund(10_000);
    let third = net.round();
    assert_eq!(third.output.len(), 2);
    assert_eq!(net.proved(0, 0).len(), 3);
    assert!(net.proved(0, 0).iter().all(|proof| *proof == Some(None)));
}

#[test]
fn a_tip_that_can_not_pay_opens_no_round() {
    let mut net = Net::new(Setup::smt(2));
    net.form();
    net.chain.fee_rate = Some(40);
    net.fund(4_439);
    net.register_all();
    assert_eq!(
        net.agg.open_refusal(),
        Some(OpenRefusal::TipTooSmall {
            have_sat: 4_439,
            need_sat: 4_440
        })
    );
}

#[test]
fn rounds_wait_for_as_many_dids_as_the_terms_ask() {
    let mut net = Net::new(Setup::smt(3).dids(&[2, 1, 2]).terms(|terms| {
        terms.dids_min = 2;
    }));
    net.form();
    net.fund(10_000);
    assert_eq!(net.agg.open_refusal(), Some(OpenRefusal::NothingRegistered));
    net.register_all();
    assert!(matches!(
        net.agg.open_refusal(),
        Some(OpenRefusal::TooFewDids(_))
    ));
    let did = MyDid::k1(Network::Regtest, "the missing one");
    net.nodes[1].dids.push(did);
    net.register(1, &[1]);
    net.run();
    net.round();
}

#[test]
fn an_invited_cohort_is_never_advertised_and_seats_the_invited_only() {
    let mut net = Net::new(Setup::smt(3).terms(|terms| {
        terms.invite_only = true;
        terms.seats_min = 2;
    }));
    let invited = vec![net.nodes[0].me(), net.nodes[1].me()];
    net.agg_input(AggregatorInput::Advertise {
        invited,
        relays: vec!["wss://relay.example".into()],
        payee: None,
    });
    let invitations: Vec<_> = net.mail.iter().map(|mail| mail.to).collect();
    assert_eq!(invitations.len(), 2);
    let Message::Invite(invite) = &net.mail[0].message else {
        panic!("an invitation")
    };
    assert_eq!(invite.terms, net.agg.terms().canonical());
    for i in 0..3 {
        net.input(i, ParticipantInput::Join { payee: None });
    }
    net.run();
    assert_eq!(
        *net.nodes[2].core.phase(),
        MemberPhase::Refused(RefusalCode::NotInvited)
    );
    assert_eq!(net.agg_input(AggregatorInput::Close), Outcome::Accepted);
    net.run();
    assert_eq!(*net.agg.phase(), Phase::Active);
    assert_eq!(net.adverts, [], "not even when it fills or freezes");
    net.agg_input(AggregatorInput::Cancel);
    assert_eq!(net.adverts, []);
}

#[test]
fn the_advert_follows_the_cohort() {
    let mut net = Net::new(Setup::smt(2));
    net.form();
    net.agg_input(AggregatorInput::Cancel);
    assert_eq!(
        net.adverts,
        [
            AdvertStatus::Open,
            AdvertStatus::Full,
            AdvertStatus::Active,
            AdvertStatus::Closed
        ]
    );
}
