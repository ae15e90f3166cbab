//! Results that come when nothing can come of them any more.

use bitcoin::Transaction;
use btcr2_agent::protocol::Round;
use btcr2_agent::protocol::effect::{Ignored, Outcome, Report};
use btcr2_agent::protocol::message::{Message, RoundResult, TxHex};
use btcr2_agent::protocol::terms::CohortBeacon;

use super::net::{Net, Setup};

/// Confirmations after which a member forgets what it signed.
const SETTLED: u32 = 100;

fn result(round: u32, tx: &Transaction) -> Message {
    Message::RoundResult(RoundResult {
        round: Round(round),
        tx: Some(TxHex(tx.clone())),
    })
}

/// A transaction that nobody signed, with what it spends and something else of another.
fn unknown(of: &Transaction) -> Transaction {
    let mut tx = of.clone();
    tx.input[0].sequence = bitcoin::Sequence(7);
    tx.input[0].witness.clear();
    tx
}

#[test]
fn a_result_of_what_is_settled_is_late_and_no_alarm() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut net = Net::ready(Setup::new(beacon, 2));
        net.hold = Some("round_result");
        let tx = net.round();
        // While the signal is young a result that is not it contradicts what this member signed.
        let foreign = unknown(&tx);
        let outcome = net.tell(1, result(1, &foreign));
        assert!(matches!(
            outcome,
            Outcome::Ignored(Ignored::Contradiction(_))
        ));
        assert_eq!(net.nodes[1].alarms().len(), 1);

        // What pays the tip is followed as long as it does: another round spends that.
        net.round();
        let followed = |net: &Net| {
            let mut given = net.nodes[1].core.given().iter();
            given.any(|given| given.txid == tx.compute_txid())
        };
        net.mine(SETTLED - 10);
        assert!(followed(&net));
        let outcome = net.tell(1, result(1, &foreign));
        assert!(matches!(
            outcome,
            Outcome::Ignored(Ignored::Contradiction(_))
        ));
        assert_eq!(net.nodes[1].alarms().len(), 2);

        net.mine(10);
        assert!(!followed(&net), "forgotten");
        for late in [&tx, &foreign] {
            let outcome = net.tell(1, result(1, late));
            assert_eq!(outcome, Outcome::Ignored(Ignored::WrongRound));
        }
        assert_eq!(net.nodes[1].alarms().len(), 2, "nothing can come of it");
        let signed = |report: &&Report| matches!(report, Report::SignalSigned { .. });
        assert_eq!(net.nodes[1].reports.iter().find(signed), None);
        // What came late for good reasons keeps nobody from anything.
        net.held.clear();
        net.hold = None;
        net.next_round_works();
    }
}

#[test]
fn a_result_that_spends_nothing_of_the_beacon_is_none() {
    let mut net = Net::ready(Setup::smt(2));
    let tx = net.round();
    let mut elsewhere = tx.clone();
    elsewhere.input[0].previous_output.vout = 9;
    for strange in [
        elsewhere,
        Transaction {
            input: Vec::new(),
            ..tx.clone()
        },
    ] {
        let told = net.nodes[0].core.handle(
            net.now,
            btcr2_agent::protocol::participant::ParticipantInput::Message {
                from: net.agg_key.public(),
                message: result(2, &strange),
            },
        );
        assert_eq!(told.outcome, Outcome::Ignored(Ignored::WrongRound));
        assert_eq!(told.effects, []);
    }
    assert_eq!(net.nodes[0].alarms(), [""; 0]);
}
