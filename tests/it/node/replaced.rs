//! Signals that another transaction takes the place of, in the mempool or by a reorganisation, on a real node.

use bitcoin::absolute::LockTime;
use bitcoin::key::Keypair;
use bitcoin::secp256k1::{Message, SECP256K1, SecretKey};
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::transaction::Version;
use bitcoin::{OutPoint, ScriptBuf, Sequence, Transaction, TxIn, Txid, Witness};
use btcr2_agent::agent::AgentBackend;
use btcr2_agent::agent::control::Backend as _;
use btcr2_agent::agent::control::request::{CohortRef, NoArgs, OneCohort, ShowCohort};
use btcr2_agent::agent::control::views::RoundState;
use btcr2_agent::config::Config;
use btcr2_agent::keys::keystore;
use btcr2_agent::protocol::aggregator::AggregatorInput;
use btcr2_agent::protocol::confirmation::WatchState;
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::protocol::terms::CohortBeacon;
use btcr2_agent::store::Role;

use super::cohort::stage_with;
use crate::chain::{pay, signal_output};
use crate::e2e::company::Company;
use crate::e2e::play::Play;
use crate::e2e::replacing::{Replaced, a_stuck_ladder};

/// Everybody in a cohort.
fn everybody(company: &Company) -> Vec<usize> {
    let mut all = vec![company.aggregator];
    all.extend(&company.members);
    all
}

/// The last event of the kind after `mark`: the transaction of a broadcast.
fn last_broadcast(play: &Play, mark: usize) -> Txid {
    let mut events = play.seen[mark..].iter().rev();
    events
        .find_map(|(_, event)| match &event.what {
            btcr2_agent::agent::What::Report(Report::SignalBroadcast { txid, .. }) => Some(*txid),
            _ => None,
        })
        .expect("a broadcast was reported")
}

fn backend_of(play: &Play, actor: usize) -> AgentBackend {
    let actor = &play.stage.actors[actor];
    AgentBackend::new(actor.handle.clone(), actor.home.clone(), Config::default())
}

fn reference(company: &Company) -> CohortRef {
    company.id.to_string().parse().unwrap()
}

/// A reorganisation takes the signal out, and the branch that wins has its next rung in its place.
#[tokio::test]
async fn a_reorganisation_replaces_a_signal_by_its_next_rung() {
    for (beacon, members) in [(CohortBeacon::Smt, 2), (CohortBeacon::Cas, 3)] {
        let Some(mut play) = stage_with(members + 1, &[]).await else {
            return;
        };
        let seats: Vec<usize> = (1..=members).collect();
        let mut company = play.found(beacon, 0, &seats).await;
        let dids = play.create_dids(&mut company, &seats).await;
        play.round(&mut company, &dids[..1]).await;
        let first = company.signals.last().unwrap().txid;

        let mark = play.mark();
        play.node().undo(1).unwrap();
        play.reorganised(&company, mark).await;
        let id = company.id;
        let mark = play.mark();
        play.expects_trouble = true;
        play.ask(0, move |agent| {
            agent.command_aggregator(id, AggregatorInput::Bump)
        })
        .await;
        let another = |report: &Report| matches!(report, Report::SignalBroadcast { txid, .. } if *txid != first);
        play.reported("a bump", mark, id, Role::Aggregator, &[0], another)
            .await;
        let second = last_broadcast(&play, mark);
        let bumped = |report: &Report| matches!(report, Report::SignalBumped { txid, .. } if *txid == second);
        play.reported("a result", mark, id, Role::Participant, &seats, bumped)
            .await;
        let height = play.stage.mine(1).unwrap();
        let confirmed = |report: &Report| matches!(report, Report::SignalConfirmed { txid, height: at, .. } if *txid == second && *at == height);
        play.reported(
            "a confirmation",
            mark,
            id,
            Role::Aggregator,
            &[0],
            confirmed,
        )
        .await;
        play.reported(
            "a confirmation",
            mark,
            id,
            Role::Participant,
            &seats,
            confirmed,
        )
        .await;
        play.expects_trouble = false;

        // Nobody is alarmed, and everybody says which of the transactions it is.
        for actor in everybody(&company) {
            let show = ShowCohort {
                cohort: reference(&company),
                rounds: None,
            };
            let view = backend_of(&play, actor).cohort_show(show).await.unwrap();
            assert!(view.alarms.is_empty(), "{:?}", view.alarms);
            let round = &view.past_rounds[0];
            assert_eq!(
                (round.state, round.txid),
                (RoundState::Confirmed, Some(second))
            );
            let state = |txid: Txid| {
                let mut signed = round.signed.iter();
                signed.find(|tx| tx.txid == txid).unwrap().state
            };
            assert_eq!(state(second), WatchState::Confirmed { height });
            let by = WatchState::Conflicted {
                by: second,
                height: Some(height),
            };
            assert_eq!(state(first), by);
        }

        // The cohort goes on from there.
        let signal = company.signals.last_mut().unwrap();
        signal.txid = second;
        signal.height = height;
        signal.tx = play.node().transaction(&second).unwrap().unwrap();
        company.tip = OutPoint::new(second, 0);
        play.round(&mut company, &dids[1..2]).await;
        assert_eq!(company.signals.len(), 2);
        play.close().await;
    }
}

/// The node's mempool asks for more than the first rungs pay: the next ones follow by themselves.
#[tokio::test]
async fn a_mempool_that_rejects_a_rung_gets_the_next() {
    // 15 sat/vB; without estimates a round pays 2, its rungs 2, 6 and 20.
    let Some(mut play) = stage_with(3, &["-minrelaytxfee=0.00015"]).await else {
        return;
    };
    let mut company = play.found(CohortBeacon::Smt, 0, &[1, 2]).await;
    let dids = play.create_dids(&mut company, &[1, 2]).await;
    play.expects_trouble = true;
    let mark = play.mark();
    play.queue(&company, &dids[..1]).await;
    let round = play.open_round(&mut company).await;
    let id = company.id;
    play.broadcast(&company, round, mark).await;
    let rejected = |event: &btcr2_agent::agent::AgentEvent| {
        matches!(&event.what, btcr2_agent::agent::What::Report(Report::BroadcastFailed { reason, .. })
            if reason.contains("min relay fee not met") && event.cohort == Some(id))
    };
    let rejections = play.seen[mark..]
        .iter()
        .filter(|(_, event)| rejected(event));
    assert_eq!(rejections.count(), 2);
    let txid = last_broadcast(&play, mark);
    let height = play.stage.mine(1).unwrap();
    let confirmed = |report: &Report| {
        matches!(report, Report::SignalConfirmed { txid: of, height: at, .. }
            if *of == txid && *at == height)
    };
    play.reported("a block", mark, id, Role::Aggregator, &[0], confirmed)
        .await;
    play.reported("a block", mark, id, Role::Participant, &[1, 2], confirmed)
        .await;
    let tx = play.node().transaction(&txid).unwrap().unwrap();
    let paid = 100_000 - tx.output[0].value.to_sat();
    assert!(paid >= 15 * tx.vsize() as u64, "{paid} sat");
    // What went wrong on the way needs nobody any more.
    let status = backend_of(&play, 0).status(NoArgs {}).await.unwrap();
    assert!(status.alarms.is_empty(), "{:?}", status.alarms);
    play.close().await;
}

/// All rungs wait in the mempool of a node that nobody mines for; all members sign again, one of them after a restart.
#[tokio::test]
async fn a_ladder_that_is_stuck_in_the_mempool_is_replaced() {
    let Some(mut play) = stage_with(3, &[]).await else {
        return;
    };
    a_stuck_ladder(&mut play, CohortBeacon::Cas, 2, None).await;
    play.close().await;
}

/// The node asks for more than the highest rung pays, and for more than the first rung of what replaces it: 2, 6 and 20
/// sat/vB are signed, then 21 and 50, and 40 are asked for.
#[tokio::test]
async fn a_ladder_that_a_node_rejects_is_replaced() {
    let Some(mut play) = stage_with(3, &["-minrelaytxfee=0.0004"]).await else {
        return;
    };
    let mut company = play.found(CohortBeacon::Smt, 0, &[1, 2]).await;
    let dids = play.create_dids(&mut company, &[1, 2]).await;
    play.expects_trouble = true;
    let mark = play.mark();
    let updates = play.queue(&company, &dids[..1]).await;
    let round = play.open_round(&mut company).await;
    let id = company.id;
    let rejections = |seen: &[(usize, btcr2_agent::agent::AgentEvent)]| {
        let rejected = seen.iter().filter(|(_, event)| {
            matches!(&event.what, btcr2_agent::agent::What::Report(Report::BroadcastFailed { reason, .. })
                if reason.contains("min relay fee not met") && event.cohort == Some(id))
        });
        rejected.count()
    };
    play.until("three rejections", mark, |seen| rejections(seen) == 3)
        .await;
    let status = backend_of(&play, 0).status(NoArgs {}).await.unwrap();
    assert_eq!(status.alarms[0].code, "broadcast_failed");
    let first = play.seen[mark..]
        .iter()
        .find_map(|(_, event)| match &event.what {
            btcr2_agent::agent::What::Report(Report::SignalSigned { txid, .. }) => Some(*txid),
            _ => None,
        })
        .unwrap();

    // What agents would do a minute later.
    let again = play.mark();
    play.bump(&company).await;
    play.until("a fourth rejection", again, |seen| rejections(seen) == 1)
        .await;
    play.broadcast(&company, round, again).await;
    let txid = last_broadcast(&play, again);
    play.told(&company, again, &[1, 2], txid).await;
    let tx = play.node().transaction(&txid).unwrap().unwrap();
    let paid = 100_000 - tx.output[0].value.to_sat();
    assert_eq!(paid, 50 * tx.vsize() as u64);
    let replaced = Replaced {
        round,
        mark,
        updates,
        sent: vec![first, txid],
    };
    play.mine_replaced(&mut company, replaced).await;
    // What went wrong on the way needs nobody any more.
    let status = backend_of(&play, 0).status(NoArgs {}).await.unwrap();
    assert!(status.alarms.is_empty(), "{:?}", status.alarms);
    play.close().await;
}

/// A spend of `input` by the key that all seats make up, which whoever has all their secrets can sign alone.
fn theft(play: &Play, company: &Company, input: OutPoint) -> Transaction {
    let prevout = {
        let tx = play.node().transaction(&input.txid).unwrap().unwrap();
        tx.output[usize::try_from(input.vout).unwrap()].clone()
    };
    let secrets: Vec<musig2::secp::Scalar> = company
        .members
        .iter()
        .map(|member| {
            let home = &play.stage.actors[*member].home;
            let text = std::fs::read_to_string(home.keystore_path()).unwrap();
            let seat = keystore::open(&text, None).unwrap().seat(&company.id);
            let pair = seat.keypair();
            // A seat's public key has even Y: the secret is the one of that point.
            let secret = match pair.x_only_public_key().1 {
                bitcoin::secp256k1::Parity::Even => pair.secret_key(),
                bitcoin::secp256k1::Parity::Odd => pair.secret_key().negate(),
            };
            musig2::secp::Scalar::from_slice(&secret.secret_bytes()).unwrap()
        })
        .collect();
    let mut pairs: Vec<_> = secrets
        .iter()
        .map(|secret| (secret.base_point_mul(), *secret))
        .collect();
    pairs.sort_by_key(|(point, _)| point.serialize());
    let keys = musig2::KeyAggContext::new(pairs.iter().map(|(point, _)| *point))
        .unwrap()
        .with_unspendable_taproot_tweak()
        .unwrap();
    let all: musig2::secp::Scalar = keys
        .aggregated_seckey(pairs.iter().map(|(_, secret)| *secret))
        .unwrap();
    let all =
        Keypair::from_secret_key(SECP256K1, &SecretKey::from_slice(&all.serialize()).unwrap());
    let mut tx = Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: input,
            script_sig: ScriptBuf::new(),
            sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
            witness: Witness::new(),
        }],
        output: vec![
            pay(
                prevout.script_pubkey.clone(),
                prevout.value.to_sat() - 20_000,
            ),
            signal_output([7; 32]),
        ],
    };
    let prevouts = [prevout];
    let sighash = SighashCache::new(&tx)
        .taproot_key_spend_signature_hash(0, &Prevouts::All(&prevouts), TapSighashType::Default)
        .unwrap();
    let signature = SECP256K1.sign_schnorr(&Message::from(sighash), &all);
    tx.input[0].witness = Witness::from_slice(&[signature.as_ref().to_vec()]);
    tx
}

/// Somebody has the keys of all seats, and replaces a confirmed signal by an own one: everybody is alarmed, until the
/// user has seen it, and the signal is where the chain says it is.
#[tokio::test]
async fn a_reorganisation_that_replaces_a_signal_by_a_strangers_alarms_everybody() {
    let Some(mut play) = stage_with(3, &[]).await else {
        return;
    };
    let mut company = play.found(CohortBeacon::Smt, 0, &[1, 2]).await;
    let dids = play.create_dids(&mut company, &[1, 2]).await;
    let input = company.tip;
    play.round(&mut company, &dids[..1]).await;
    let signal = company.signals.last().unwrap().txid;

    play.expects_trouble = true;
    let mark = play.mark();
    let thief = theft(&play, &company, input);
    let stolen = thief.compute_txid();
    play.node().undo(1).unwrap();
    let raw = bitcoin::consensus::encode::serialize_hex(&thief);
    let taken: Txid = play
        .node()
        .call("sendrawtransaction", serde_json::json!([raw]))
        .unwrap();
    assert_eq!(taken, stolen);
    let height = play.stage.mine(1).unwrap();
    play.stage.mine(1).unwrap();
    let unknown =
        |report: &Report| matches!(report, Report::UnknownSpend { txid } if *txid == stolen);
    let id = company.id;
    play.reported("an alarm", mark, id, Role::Aggregator, &[0], unknown)
        .await;
    play.reported("an alarm", mark, id, Role::Participant, &[1, 2], unknown)
        .await;

    for actor in everybody(&company) {
        let show = || ShowCohort {
            cohort: reference(&company),
            rounds: None,
        };
        let view = backend_of(&play, actor).cohort_show(show()).await.unwrap();
        assert_eq!(view.alarms[0].code, "unknown_spend");
        assert!(view.alarms[0].text.as_str().contains(&stolen.to_string()));
        let round = &view.past_rounds[0];
        assert_eq!(round.state, RoundState::Conflicted);
        let by = WatchState::Conflicted {
            by: stolen,
            height: Some(height),
        };
        let place = round.signed.iter().find(|tx| tx.txid == signal).unwrap();
        assert_eq!(place.state, by);
        let status = backend_of(&play, actor).status(NoArgs {}).await.unwrap();
        assert_eq!(status.alarms[0].code, "unknown_spend");

        // It outlives a restart until it was acknowledged, and then does not.
        play.stage.kill(actor).await.unwrap();
        play.resume(&[actor]).await;
        let status = backend_of(&play, actor).status(NoArgs {}).await.unwrap();
        assert_eq!(status.alarms[0].code, "unknown_spend");
        let cohort = reference(&company);
        let backend = backend_of(&play, actor);
        let view = backend.cohort_acknowledge(OneCohort { cohort }).await;
        assert!(view.unwrap().alarms.is_empty());
        play.stage.kill(actor).await.unwrap();
        play.resume(&[actor]).await;
        let view = backend_of(&play, actor).cohort_show(show()).await.unwrap();
        assert!(view.alarms.is_empty(), "{:?}", view.alarms);
    }
    play.close().await;
}
