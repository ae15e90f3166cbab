//! Where signed transactions are: every state, back again with a reorganisation, and who sends what nobody sent.

use btcr2_agent::protocol::Round;
use btcr2_agent::protocol::confirmation::{FINAL_DEPTH, PATIENCE_BLOCKS, WatchState};
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::protocol::terms::CohortBeacon;

use super::net::{Net, Setup};
use super::rounds::rogue;

impl Net {
    /// Where the aggregator and all members, which agree, have the last signal of a round.
    fn state(&mut self, round: u32) -> WatchState {
        // Whoever looked first may have sent something since.
        self.sync();
        let of = |watch: &btcr2_agent::protocol::confirmation::ConfirmationWatch, chain| {
            watch.foremost(Round(round), chain).unwrap().1
        };
        let state = of(self.agg.watch(), self.agg.chain());
        for node in &self.nodes {
            assert_eq!(of(node.core.watch(), node.core.chain()), state);
        }
        state
    }
}

/// The members have the complete transaction. The aggregator, which forgot to send it or lost its chain, does not.
#[test]
fn members_send_the_signal_that_the_aggregator_does_not() {
    for (beacon, n) in [(CohortBeacon::Smt, 2), (CohortBeacon::Cas, 3)] {
        let mut net = Net::ready(Setup::new(beacon, n));
        net.broadcasts = false;
        net.open();
        let (_, tx) = net.signed_txs().pop().unwrap();
        let txid = tx.compute_txid();
        for node in &mut net.nodes {
            node.sees_chain = true;
        }
        net.mine(1);
        assert_eq!(net.state(1), WatchState::Signed);
        for _ in 0..PATIENCE_BLOCKS {
            assert!(!net.chain.contains(&txid), "the aggregator is given time");
            net.mine(1);
        }
        assert!(net.chain.contains(&txid));
        // One of them was first; the others saw it in the mempool, or were told that it is known already.
        assert_eq!(net.nodes[0].sent, [tx]);
        let broadcast = Report::SignalBroadcast {
            round: Round(1),
            txid,
        };
        assert!(net.nodes[0].reports.contains(&broadcast));
        assert_eq!(net.state(1), WatchState::Mempool);
        net.mine(1);
        let height = net.chain.height;
        assert_eq!(net.state(1), WatchState::Confirmed { height });
        net.broadcasts = true;
        net.next_round_works();
    }
}

/// A member that was not told the result has nothing to send, and one that was restarted has.
#[test]
fn a_member_sends_only_what_it_has_whole() {
    let mut net = Net::ready(Setup::smt(2));
    net.broadcasts = false;
    net.hold = Some("round_result");
    net.open();
    net.mine(PATIENCE_BLOCKS + 3);
    assert!(net.nodes.iter().all(|node| node.sent.is_empty()));
    net.release();
    net.restart(0);
    net.mine(1);
    net.mine(PATIENCE_BLOCKS);
    assert_eq!(net.nodes[0].sent.len(), 1);
}

#[test]
fn a_signal_that_leaves_the_chain_long_after_it_was_final_is_sent_again() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut net = Net::ready(Setup::new(beacon, 2));
        net.mine(1);
        net.open();
        let (_, tx) = net.signed_txs().pop().unwrap();
        let txid = tx.compute_txid();
        assert_eq!(net.state(1), WatchState::Mempool);
        net.mine(1);
        let height = net.chain.height;
        net.mine(FINAL_DEPTH - 2);
        assert_eq!(net.state(1), WatchState::Confirmed { height });
        net.mine(1);
        assert_eq!(net.state(1), WatchState::Final { height });
        assert!(net.agg.unsettled().is_empty());
        net.mine(4);
        net.chain.reorg(10);
        net.chain.drop_tx(&txid);
        net.sync();
        assert_eq!(net.state(1), WatchState::ReorgedOut { height });
        net.mine(PATIENCE_BLOCKS);
        assert!(net.chain.contains(&txid), "somebody sent it again");
        assert_eq!(net.state(1), WatchState::Mempool);
        net.mine(1);
        let height = net.chain.height;
        assert_eq!(net.state(1), WatchState::Confirmed { height });
        net.next_round_works();
    }
}

/// The chain takes another transaction in the signal's place: seen by all, and back when that one is gone.
#[test]
fn a_displaced_signal_is_conflicted_until_its_rival_is_gone() {
    let mut net = Net::ready(Setup::smt(2));
    net.broadcasts = false;
    net.open();
    let (_, tx) = net.signed_txs().pop().unwrap();
    let by = rogue(&mut net, None);
    net.mine(1);
    let height = Some(net.chain.height);
    assert_eq!(net.state(1), WatchState::Conflicted { by, height });
    net.mine(3);
    assert!(net.nodes.iter().all(|node| node.sent.is_empty()));
    net.chain.reorg(4);
    net.sync();
    assert_eq!(net.state(1), WatchState::Conflicted { by, height: None });
    net.chain.drop_tx(&by);
    net.sync();
    net.broadcasts = true;
    net.mine(PATIENCE_BLOCKS);
    assert!(net.chain.contains(&tx.compute_txid()));
    assert_eq!(net.state(1), WatchState::Mempool);
}
