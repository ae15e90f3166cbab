//! Refunds on a real node: a member vanishes, and what lies at the beacon comes back to who paid it, once the lock is
//! over and not one block before.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bitcoin::consensus::encode::deserialize_hex;
use bitcoin::hashes::Hash as _;
use bitcoin::key::TapTweak as _;
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::{Address, Amount, Psbt, ScriptBuf, Transaction, TxIn, TxOut, Witness};
use btcr2_agent::agent::What;
use btcr2_agent::agent::backend::AgentBackend;
use btcr2_agent::agent::control::request::{FundPsbt, Recover, ShowCohort};
use btcr2_agent::agent::control::views::{Protection, RefundState, RefundsView};
use btcr2_agent::agent::control::{Backend as _, ErrorCode};
use btcr2_agent::config::Config;
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::protocol::terms::{CohortBeacon, Funding};
use btcr2_agent::store::Role;
use secp256k1::{Keypair, Message, SECP256K1};

use super::cohort::stage;
use crate::e2e::company::Company;
use crate::e2e::play::Play;

impl Play {
    fn commands(&self, actor: usize) -> AgentBackend {
        let actor = &self.stage.actors[actor];
        AgentBackend::new(actor.handle.clone(), actor.home.clone(), Config::default())
    }

    /// What `cohort recover` says and does.
    async fn recover(&self, actor: usize, company: &Company, look: bool) -> RefundsView {
        let recover = Recover {
            cohort: company.id.to_string().parse().unwrap(),
            look,
        };
        self.commands(actor).cohort_recover(recover).await.unwrap()
    }

    /// How `cohort show` calls the outputs of the beacon.
    async fn protections(&self, actor: usize, company: &Company) -> Vec<Protection> {
        let show = ShowCohort {
            cohort: company.id.to_string().parse().unwrap(),
            rounds: None,
        };
        let view = self.commands(actor).cohort_show(show).await.unwrap();
        let outputs = view.beacon.unwrap().outputs;
        outputs
            .into_iter()
            .map(|output| output.protection)
            .collect()
    }
}

fn scripts(tx: &Transaction) -> BTreeSet<ScriptBuf> {
    tx.output.iter().map(|o| o.script_pubkey.clone()).collect()
}

async fn it_comes_back(beacon: CohortBeacon, members: usize, funding: Funding, lock: u16) {
    let Some(mut play) = stage(members + 1).await else {
        return;
    };
    let seats: Vec<usize> = (1..=members).collect();
    let mark = play.mark();
    let company = play
        .found_with(beacon, 0, &seats, &[], move |terms| {
            terms.refund_blocks = lock;
            terms.funding = funding;
        })
        .await;
    let complete = |report: &Report| matches!(report, Report::RefundComplete { .. });
    let (id, node) = (company.id, [0]);
    play.reported("a refund", mark, id, Role::Aggregator, &node, complete)
        .await;
    let holders: Vec<usize> = match funding {
        Funding::Aggregator => vec![0],
        Funding::Members => seats.clone(),
    };
    if funding == Funding::Members {
        play.reported("refunds", mark, id, Role::Participant, &seats, complete)
            .await;
    }
    assert_eq!(play.protections(0, &company).await, [Protection::Protected]);
    let seen = play.protections(1, &company).await;
    match funding {
        Funding::Aggregator => assert_eq!(seen, [Protection::WithPayees]),
        Funding::Members => assert_eq!(seen, [Protection::Protected]),
    }

    // One is gone for good: nothing can be signed by all any more.
    play.stage.kill(members).await.unwrap();
    let holder = holders[0];
    let backend = play.node().backend(crate::node::PATIENCE).unwrap();
    let found = play.recover(holder, &company, false).await;
    let refund = &found.refunds[0];
    assert_eq!(found.without_refund_sat, 0);
    assert_eq!(refund.outpoint, company.tip.to_string());
    assert_eq!(refund.state, RefundState::Locked);
    assert_eq!(refund.blocks_missing, Some(u32::from(lock) - 1));
    assert_eq!(refund.matures_at, Some(found.height + u32::from(lock)));
    let tx: Transaction = deserialize_hex(&refund.tx).unwrap();
    assert_eq!(tx.compute_txid(), refund.txid);
    assert_eq!(scripts(&tx).len(), holders.len(), "everybody's own address");

    // One block before: neither the node nor the command takes it.
    play.stage.mine(u32::from(lock) - 2).unwrap();
    let refused = backend.broadcast(&tx).await.unwrap_err().to_string();
    assert!(refused.contains("non-BIP68-final"), "{refused}");
    let found = play.recover(holder, &company, false).await;
    assert_eq!(found.refunds[0].blocks_missing, Some(1));
    assert_eq!(found.refunds[0].state, RefundState::Locked);

    // When the next block may hold it, it goes.
    let height = play.stage.mine(1).unwrap();
    let found = play.recover(holder, &company, true).await;
    assert_eq!(found.refunds[0].state, RefundState::Ready, "only looked");
    let found = play.recover(holder, &company, false).await;
    assert_eq!(found.refunds[0].state, RefundState::Sent);
    assert_eq!(found.refunds[0].matures_at, Some(height + 1));
    play.stage.mine(1).unwrap();
    let mut paid = 0;
    for script in scripts(&tx) {
        let history = play.stage.chain.history(&script).unwrap();
        assert_eq!(history.len(), 1);
        assert_eq!(history[0].height, Some(height + 1));
        assert_eq!(history[0].tx.compute_txid(), tx.compute_txid());
        paid += 1;
    }
    assert_eq!(paid, holders.len());
    let sum: u64 = tx.output.iter().map(|output| output.value.to_sat()).sum();
    assert_eq!(sum, refund.pays_sat);
    assert_eq!(sum + refund.fee_sat, 100_000);
    // Nothing lies there any more, and those who are left are not alarmed: `dismay` would say so.
    assert!(
        play.recover(holder, &company, true)
            .await
            .refunds
            .is_empty()
    );
    let left: Vec<usize> = (1..members).collect();
    let gone = |report: &Report| {
        matches!(
            report,
            Report::TipChanged {
                value_sat: 0,
                ready: false
            }
        )
    };
    play.reported("the refund", 0, id, Role::Aggregator, &node, gone)
        .await;
    play.reported("the refund", 0, id, Role::Participant, &left, gone)
        .await;
    play.close().await;
}

#[tokio::test]
async fn the_aggregator_gets_its_money_back_when_a_member_vanishes() {
    it_comes_back(CohortBeacon::Smt, 3, Funding::Aggregator, 6).await;
}

#[tokio::test]
async fn members_get_their_shares_back_when_one_of_them_vanishes() {
    it_comes_back(CohortBeacon::Cas, 2, Funding::Members, 9).await;
}

/// The aggregator itself vanishes: members that funded do not need it.
#[tokio::test]
async fn members_get_their_shares_back_without_the_aggregator() {
    let Some(mut play) = stage(3).await else {
        return;
    };
    let mark = play.mark();
    let company = play
        .found_with(CohortBeacon::Smt, 0, &[1, 2], &[], |terms| {
            terms.refund_blocks = 3;
            terms.funding = Funding::Members;
        })
        .await;
    let complete = |report: &Report| matches!(report, Report::RefundComplete { .. });
    let members = [1, 2];
    play.reported(
        "refunds",
        mark,
        company.id,
        Role::Participant,
        &members,
        complete,
    )
    .await;
    play.stage.kill(0).await.unwrap();
    play.stage.kill(2).await.unwrap();
    play.stage.mine(2).unwrap();
    let found = play.recover(1, &company, false).await;
    assert_eq!(found.refunds[0].state, RefundState::Sent);
    play.stage.mine(1).unwrap();
    let tx: Transaction = deserialize_hex(&found.refunds[0].tx).unwrap();
    for output in &tx.output {
        let address = Address::from_script(&output.script_pubkey, bitcoin::Network::Regtest);
        assert!(address.unwrap().to_string().starts_with("bcrt1p"));
        let history = play.stage.chain.history(&output.script_pubkey).unwrap();
        assert_eq!(history.len(), 1);
    }
    play.close().await;
}

/// A transaction that pays the beacon from a taproot coin, as a wallet gives it: PSBT, signed.
fn funding_psbt(play: &Play, company: &Company, sat: u64) -> (Psbt, Psbt) {
    let own = Keypair::from_seckey_slice(SECP256K1, &[0x21; 32]).unwrap();
    let coin = ScriptBuf::new_p2tr(SECP256K1, own.x_only_public_key().0, None);
    let value = Amount::from_sat(200_000);
    let spent = play.stage.chain.fund(&coin, value).unwrap();
    play.stage.mine(1).unwrap();
    let pay = |sat, script_pubkey| TxOut {
        value: Amount::from_sat(sat),
        script_pubkey,
    };
    let tx = Transaction {
        version: bitcoin::transaction::Version::TWO,
        lock_time: bitcoin::absolute::LockTime::ZERO,
        input: vec![TxIn {
            previous_output: spent,
            script_sig: ScriptBuf::new(),
            sequence: bitcoin::Sequence::MAX,
            witness: Witness::new(),
        }],
        output: vec![
            pay(190_000 - sat, coin.clone()),
            pay(sat, company.address.script_pubkey()),
        ],
    };
    let prevout = pay(200_000, coin);
    let mut unsigned = Psbt::from_unsigned_tx(tx).unwrap();
    unsigned.inputs[0].witness_utxo = Some(prevout.clone());
    let digest = SighashCache::new(&unsigned.unsigned_tx)
        .taproot_key_spend_signature_hash(0, &Prevouts::All(&[prevout]), TapSighashType::Default)
        .unwrap();
    let message = Message::from_digest(digest.to_byte_array());
    let tweaked = own.tap_tweak(SECP256K1, None).to_keypair();
    let signature = SECP256K1.sign_schnorr_no_aux_rand(&message, &tweaked);
    let mut signed = unsigned.clone();
    signed.inputs[0].final_script_witness = Some(Witness::from_slice(&[signature.serialize()]));
    (unsigned, signed)
}

/// The funding transaction is held back until everybody has signed its refund: before it is on the chain.
#[tokio::test]
async fn a_funding_psbt_is_given_back_when_its_refund_is_complete() {
    let Some(mut play) = stage(3).await else {
        return;
    };
    let company = play.found(CohortBeacon::Smt, 0, &[1, 2]).await;
    let (unsigned, signed) = funding_psbt(&play, &company, 80_000);
    let txid = unsigned.unsigned_tx.compute_txid();
    let fund = |psbt: &Psbt, wait_s: Option<u64>, broadcast: bool| FundPsbt {
        cohort: company.id.to_string().parse().unwrap(),
        psbt: STANDARD.encode(psbt.serialize()),
        wait_s,
        broadcast,
    };
    // A member is away: nothing is given back, nothing is sent.
    play.stage.kill(2).await.unwrap();
    let commands = play.commands(0);
    let failure = commands
        .cohort_fund_psbt(fund(&signed, Some(1), true))
        .await
        .unwrap_err();
    assert_eq!(failure.code, ErrorCode::Timeout);
    assert_eq!(play.stage.chain.transaction(&txid).unwrap(), None);
    // It is back: the refund is signed, and only then the transaction is there for the taking.
    play.resume(&[2]).await;
    let given = commands
        .cohort_fund_psbt(fund(&unsigned, None, false))
        .await
        .unwrap();
    assert_eq!((given.txid, given.sent, given.signed), (txid, false, false));
    assert_eq!(given.outputs.len(), 1);
    assert_eq!(given.outputs[0].outpoint, format!("{txid}:1"));
    assert_eq!(given.outputs[0].protection, Protection::Protected);
    assert_eq!(given.psbt, STANDARD.encode(unsigned.serialize()));
    assert_eq!(play.stage.chain.transaction(&txid).unwrap(), None);
    // An unsigned one can not be sent; the signed one has the same id and the same refund.
    let failure = commands
        .cohort_fund_psbt(fund(&unsigned, None, true))
        .await
        .unwrap_err();
    assert_eq!(failure.code, ErrorCode::InvalidValue);
    let mark = play.mark();
    let sent = commands
        .cohort_fund_psbt(fund(&signed, None, true))
        .await
        .unwrap();
    assert!(sent.sent);
    assert_eq!(sent.outputs, given.outputs);
    play.stage.mine(1).unwrap();
    let found = play.recover(0, &company, true).await;
    let refund = found
        .refunds
        .iter()
        .find(|refund| refund.outpoint == format!("{txid}:1"));
    assert_eq!(refund.unwrap().txid, given.outputs[0].refund.unwrap());
    assert_eq!(found.without_refund_sat, 0);
    // No second session is held for it.
    let again = play.seen[mark..].iter().any(|(_, event)| {
        matches!(&event.what, What::Report(Report::RefundOpened { outpoint, .. }) if outpoint.txid == txid)
    });
    assert!(!again);
    play.close().await;
}
