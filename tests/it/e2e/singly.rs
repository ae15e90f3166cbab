//! Updates that a DID announces by a transaction of its own: what it costs, what the chain may do with it, and what a
//! stop in between leaves.

use bitcoin::{Address, Amount, FeeRate, Transaction, Txid};
use btcr2_agent::agent::dids::{Change, QueuedUpdate, Via};
use btcr2_agent::agent::singleton::{Announce, Announced, SignedSpend};
use btcr2_agent::agent::{AgentError, What};
use btcr2_agent::beacon::signal::{BeaconOutput, signal_of};
use btcr2_agent::beacon::singleton::{Coins, FeeOffer, SingletonBeacon, SpendError};
use btcr2_agent::chain::{ChainBackend, TxStatus};
use btcr2_agent::did::{Did, IdKind, KeyAddress};
use btcr2_agent::hash::SignalBytes;
use btcr2_agent::keys::keystore;
use btcr2_agent::lookup::Lookup;
use btcr2_agent::network::Network;
use btcr2_agent::protocol::aggregator::FINAL_DEPTH;
use btcr2_agent::protocol::money::{MoneyGate, MoneyRefused, MoneyRules};
use btcr2_agent::resolver::{Resolution, ResolutionOptions, Strictness};
use btcr2_agent::store::{DidRow, SpendRow, SpendStanding, SpendState, Store, StoreError};

use super::play::{PATIENCE, Play, eventually};

impl Play {
    pub async fn key_did(&self, actor: usize) -> Did {
        self.ask(actor, |agent| agent.create_key_did(Network::Regtest))
            .await
    }

    /// Pays an address and has it confirmed.
    pub fn pay(&self, address: &Address, sat: u64) {
        self.stage.fund(address, Amount::from_sat(sat)).unwrap();
    }

    /// Signs an update that adds a service, to be announced singly.
    pub async fn update_singly(&self, actor: usize, did: &Did, service: &str) -> QueuedUpdate {
        let changes = vec![add_service(service)];
        let via = Via::Singleton { service: None };
        let handle = &self.stage.actors[actor].handle;
        handle.update_did(did, changes, via).await.unwrap()
    }

    pub async fn announce_singly(
        &self,
        actor: usize,
        did: &Did,
        announce: &Announce,
    ) -> Result<Announced, AgentError> {
        self.stage.actors[actor]
            .handle
            .announce_did(did, announce)
            .await
    }

    /// Signs and stores an announcement; nothing is sent.
    async fn sign_only(&self, actor: usize, did: &Did) -> SignedSpend {
        let handle = self.stage.actors[actor].handle.clone();
        let fresh = handle.resolve_fresh(did).await.unwrap();
        let document = fresh.document().clone();
        let question = self
            .ask(actor, move |agent| agent.funds_question(&document, None))
            .await;
        let funds = question.ask().await.unwrap();
        self.ask(actor, move |agent| {
            agent.sign_announcement(&fresh, &funds, &Announce::default())
        })
        .await
    }

    /// Waits until a signal stands there.
    pub async fn stands(&mut self, actor: usize, mark: usize, txid: Txid, state: SpendState) {
        self.until(&format!("{state:?}"), mark, |seen| {
            seen.iter().any(|(by, event)| {
                *by == actor
                    && matches!(&event.what, What::Announcement { txid: of, standing, .. }
                        if *of == txid && standing.state == state)
            })
        })
        .await;
    }

    /// Waits until an agent says that a DID is at a version.
    pub async fn reaches(&mut self, actor: usize, mark: usize, did: &Did, version: u64) {
        self.until(&format!("version {version}"), mark, |seen| {
            seen.iter().any(|(by, event)| {
                *by == actor
                    && matches!(&event.what, What::DidUpdated { did: of, version: at }
                        if of == did.as_str() && *at == version)
            })
        })
        .await;
    }

    /// What somebody else resolves, with the chain and the sidecar that the controller exports.
    pub async fn resolved_elsewhere(&self, actor: usize, did: &Did) -> Resolution {
        let of = did.clone();
        let (sidecar, _) = self.ask(actor, move |agent| agent.sidecar_of(&of)).await;
        let backend = ChainBackend::esplora(&self.stage.chain.url(), PATIENCE).unwrap();
        let options = ResolutionOptions::default();
        Lookup::new(backend)
            .resolve(did, options, sidecar, Strictness::default())
            .await
            .unwrap()
    }

    /// The version, and the services that are no beacons.
    pub async fn shown_elsewhere(&self, actor: usize, did: &Did) -> (u64, Vec<String>) {
        let resolution = self.resolved_elsewhere(actor, did).await;
        let resolved = resolution.outcome.unwrap();
        let services = resolved.document.value()["service"]
            .as_array()
            .unwrap()
            .clone();
        let links = services
            .iter()
            .filter(|service| service["type"] == "LinkedDomains")
            .map(|service| service["id"].as_str().unwrap().replace(did.as_str(), ""))
            .collect();
        (resolved.metadata.version_id, links)
    }

    pub fn tx_status(&self, txid: &Txid) -> TxStatus {
        let chain = self.stage.chain.in_process().unwrap();
        let chain = chain.lock().unwrap();
        chain.tx_status(txid)
    }

    pub fn in_mempool(&self, txid: &Txid) -> bool {
        self.tx_status(txid) == TxStatus::Mempool
    }
}

pub fn add_service(id: &str) -> Change {
    Change::AddService {
        id: id.to_owned(),
        kind: "LinkedDomains".into(),
        endpoint: serde_json::json!("https://example.com/"),
    }
}

/// An address of a k1 DID.
pub fn address_of(did: &Did, form: KeyAddress) -> Address {
    let IdKind::Key(key) = did.kind() else {
        panic!("{did} has no key of its own");
    };
    form.of(did.network(), &key)
}

pub fn at_rate(sat_per_vb: u64) -> Announce {
    Announce {
        service: None,
        fee_rate: FeeRate::from_sat_per_vb(sat_per_vb),
    }
}

fn assert_announces(tx: &Transaction, update: &QueuedUpdate) {
    let signal = signal_of(tx).unwrap();
    assert_eq!(signal.as_bytes(), update.hash.as_bytes());
}

/// Each address form in turn, always the one that holds something; then the DID is deactivated.
#[tokio::test]
async fn a_key_s_did_lives_by_its_own_beacons() {
    let mut play = Play::open(1).await;
    let did = play.key_did(0).await;
    for (version, form) in (2..).zip(KeyAddress::ALL) {
        // Too little for a signal at the other addresses never stands in the way.
        play.pay(&address_of(&did, KeyAddress::P2tr), 400);
        play.pay(&address_of(&did, form), 5_000 + 100 * version);
        let mark = play.mark();
        let update = play.update_singly(0, &did, &format!("#s{version}")).await;
        assert_eq!(update.target_version, version);
        let announced = play.announce_singly(0, &did, &at_rate(10)).await.unwrap();
        assert_eq!(announced.refused, None);
        let tx = &announced.spend.tx;
        assert_announces(tx, &update);
        assert_eq!(
            announced.spend.row.address,
            address_of(&did, form).to_string()
        );
        let txid = tx.compute_txid();
        assert!(play.in_mempool(&txid));
        let height = play.stage.mine(1).unwrap();
        play.reaches(0, mark, &did, version).await;
        let stored = play.file(0).view().update(did.as_str(), version).unwrap();
        let stored = stored.unwrap();
        assert_eq!((stored.txid, stored.height), (Some(txid), Some(height)));
        assert!(stored.pinned);
        // Not a second one before the first is final.
        let early = play.announce_singly(0, &did, &Announce::default()).await;
        let error = early.unwrap_err().to_string();
        assert!(error.contains("5 more blocks"), "{error}");
        play.stage.mine(FINAL_DEPTH - 1).unwrap();
        play.stands(0, mark, txid, SpendState::Final).await;
        let (shown, services) = play.shown_elsewhere(0, &did).await;
        assert_eq!(shown, version);
        assert_eq!(services.last().unwrap(), &format!("#s{version}"));
    }
    let handle = play.stage.actors[0].handle.clone();
    let via = Via::Singleton { service: None };
    handle
        .update_did(&did, vec![Change::Deactivate], via)
        .await
        .unwrap();
    let announced = play.announce_singly(0, &did, &at_rate(1)).await.unwrap();
    assert_eq!(announced.refused, None);
    play.stage.mine(FINAL_DEPTH).unwrap();
    let resolution = play.resolved_elsewhere(0, &did).await;
    let metadata = resolution.outcome.unwrap().metadata;
    assert_eq!((metadata.version_id, metadata.deactivated), (5, true));
    play.close().await;
}

#[tokio::test]
async fn what_lacks_is_said_and_nothing_is_signed() {
    let play = Play::open(1).await;
    let did = play.key_did(0).await;
    let handle = play.stage.actors[0].handle.clone();
    // Without an update there is a price, and nothing to announce.
    let quote = handle.quote_announcement(&did, &at_rate(3)).await.unwrap();
    assert_eq!(
        quote.address,
        address_of(&did, KeyAddress::P2tr),
        "the cheapest"
    );
    let error = play
        .announce_singly(0, &did, &at_rate(3))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("nothing to announce"), "{error}");

    play.update_singly(0, &did, "#s").await;
    let error = play
        .announce_singly(0, &did, &at_rate(3))
        .await
        .unwrap_err();
    let address = address_of(&did, KeyAddress::P2tr);
    assert_eq!(
        error.to_string(),
        format!(
            "send at least 333 sat to {address}: 0 sat are there to spend, a signal costs more"
        )
    );
    let AgentError::Spend(SpendError::Insufficient { send, .. }) = error else {
        panic!("{error}");
    };
    // One satoshi less is not enough, and exactly that is.
    let view = |play: &Play| {
        play.file(0)
            .view()
            .spends_of(did.as_str(), 2)
            .unwrap()
            .len()
    };
    play.pay(&address, send.to_sat() - 1);
    play.announce_singly(0, &did, &at_rate(3))
        .await
        .unwrap_err();
    assert_eq!(view(&play), 0);
    // Over the owner's limit (50 in this play).
    let error = play
        .announce_singly(0, &did, &at_rate(51))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("limit of 50 sat/vB"), "{error}");
    let other = address_of(&did, KeyAddress::P2wpkh);
    let named = Announce {
        service: Some("initialP2WPKH".into()),
        ..at_rate(3)
    };
    let error = play.announce_singly(0, &did, &named).await.unwrap_err();
    assert!(error.to_string().contains(&other.to_string()), "{error}");
    // What waits for a block is said, not spent.
    let chain = play.stage.chain.in_process().unwrap();
    let paid = Amount::from_sat(10_000);
    chain
        .lock()
        .unwrap()
        .fund(&other.script_pubkey(), paid)
        .unwrap();
    let quote = handle.quote_announcement(&did, &named).await.unwrap();
    assert_eq!((quote.spendable, quote.waiting), (Amount::ZERO, paid));
    assert_eq!(view(&play), 0);
    play.stage.mine(1).unwrap();
    play.announce_singly(0, &did, &named).await.unwrap();
    assert_eq!(view(&play), 1);
    play.close().await;
}

#[tokio::test]
async fn money_does_not_move_on_mainnet() {
    let play = Play::open(1).await;
    let error = play
        .stage
        .ask(0, |agent| {
            let did = Did::from_key(Network::Bitcoin, &agent.identity_key().even_point());
            let document = btcr2_agent::did::initial_key_document(&did).unwrap();
            match agent.funds_question(&document, None) {
                Err(AgentError::Money(refused)) => Ok(refused),
                other => panic!("{other:?}"),
            }
        })
        .await
        .unwrap();
    assert_eq!(error, MoneyRefused::Mainnet);
    play.close().await;
}

/// Stopped after it was stored and before it was sent: the next start sends it, the same bytes, without being asked.
#[tokio::test]
async fn what_was_stored_is_sent_by_the_next_start() {
    let mut play = Play::open(1).await;
    let did = play.key_did(0).await;
    play.pay(&address_of(&did, KeyAddress::P2tr), 20_000);
    let update = play.update_singly(0, &did, "#s").await;
    let signed = play.sign_only(0, &did).await;
    assert_announces(&signed.tx, &update);
    play.stage.kill(0).await.unwrap();
    assert_eq!(play.tx_status(&signed.row.txid), TxStatus::NotFound);

    let mark = play.mark();
    play.resume(&[0]).await;
    play.stands(0, mark, signed.row.txid, SpendState::Broadcast)
        .await;
    assert!(play.in_mempool(&signed.row.txid));
    // Asked again it gives the same, and nothing new.
    let again = play
        .announce_singly(0, &did, &Announce::default())
        .await
        .unwrap();
    assert_eq!((again.spend.tx, again.refused), (signed.tx, None));
    // Nodes may forget it.
    let chain = play.stage.chain.in_process().unwrap();
    assert!(chain.lock().unwrap().evict(&signed.row.txid));
    let mark = play.mark();
    play.stands(0, mark, signed.row.txid, SpendState::Signed)
        .await;
    play.stands(0, mark, signed.row.txid, SpendState::Broadcast)
        .await;
    assert!(play.in_mempool(&signed.row.txid));
    play.stage.mine(FINAL_DEPTH).unwrap();
    play.stands(0, mark, signed.row.txid, SpendState::Final)
        .await;
    assert_eq!(play.shown_elsewhere(0, &did).await.0, 2);
    play.close().await;
}

/// A higher fee replaces the transaction: the same 32 bytes, the same inputs.
#[tokio::test]
async fn a_higher_fee_replaces_it() {
    let mut play = Play::open(1).await;
    let did = play.key_did(0).await;
    play.pay(&address_of(&did, KeyAddress::P2wpkh), 20_000);
    let update = play.update_singly(0, &did, "#s").await;
    let first = play
        .announce_singly(0, &did, &at_rate(1))
        .await
        .unwrap()
        .spend;
    let error = play
        .announce_singly(0, &did, &at_rate(1))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("use --fee-rate 2"), "{error}");
    let mark = play.mark();
    let second = play.announce_singly(0, &did, &at_rate(9)).await.unwrap();
    assert_eq!(second.refused, None);
    let second = second.spend;
    assert_eq!(second.quote.unwrap().replaces, Some(first.row.txid));
    assert_announces(&second.tx, &update);
    let inputs = |tx: &Transaction| -> Vec<_> {
        tx.input.iter().map(|input| input.previous_output).collect()
    };
    assert_eq!(inputs(&first.tx), inputs(&second.tx));
    assert_eq!(second.row.fee, 9 * 153);
    assert_eq!(play.tx_status(&first.row.txid), TxStatus::NotFound);
    assert!(play.in_mempool(&second.row.txid));
    play.stands(0, mark, first.row.txid, SpendState::Conflicted)
        .await;
    play.stage.mine(FINAL_DEPTH).unwrap();
    play.stands(0, mark, second.row.txid, SpendState::Final)
        .await;
    play.stands(0, mark, first.row.txid, SpendState::Dead).await;
    let store = play.file(0);
    let stored = store.view().update(did.as_str(), 2).unwrap().unwrap();
    assert_eq!(stored.txid, Some(second.row.txid));
    assert!(stored.pinned, "one of them is on the chain");
    assert_eq!(play.shown_elsewhere(0, &did).await.0, 2);
    play.close().await;
}

/// A block goes, and its version with it; the transaction comes again.
#[tokio::test]
async fn a_reorg_moves_it_back_and_it_confirms_again() {
    let mut play = Play::open(1).await;
    let did = play.key_did(0).await;
    play.pay(&address_of(&did, KeyAddress::P2pkh), 20_000);
    play.update_singly(0, &did, "#s").await;
    let spend = play
        .announce_singly(0, &did, &at_rate(2))
        .await
        .unwrap()
        .spend;
    let mark = play.mark();
    play.stage.mine(1).unwrap();
    play.reaches(0, mark, &did, 2).await;
    let mark = play.mark();
    {
        let chain = play.stage.chain.in_process().unwrap();
        let mut chain = chain.lock().unwrap();
        chain.invalidate_tip(1);
        chain.mine_empty(2);
    }
    play.stands(0, mark, spend.row.txid, SpendState::Broadcast)
        .await;
    play.reaches(0, mark, &did, 1).await;
    let mark = play.mark();
    let height = play.stage.mine(1).unwrap();
    play.reaches(0, mark, &did, 2).await;
    let stored = play.file(0).view().update(did.as_str(), 2).unwrap();
    assert_eq!(stored.unwrap().height, Some(height));
    play.stage.mine(FINAL_DEPTH - 1).unwrap();
    assert_eq!(play.shown_elsewhere(0, &did).await.0, 2);
    play.close().await;
}

/// The same key in another wallet spends what the signal spends: that is shown, the chain's refusal is kept, and the
/// same bytes are announced from what is left.
#[tokio::test]
async fn what_another_wallet_spends_is_announced_anew() {
    let mut play = Play::open(1).await;
    let did = play.key_did(0).await;
    let address = address_of(&did, KeyAddress::P2tr);
    play.pay(&address, 20_000);
    let update = play.update_singly(0, &did, "#s").await;
    let signed = play.sign_only(0, &did).await;
    let foreign = play.spent_elsewhere(&signed.tx, &address);
    let mark = play.mark();
    let refused = play
        .announce_singly(0, &did, &Announce::default())
        .await
        .unwrap();
    assert_eq!(refused.spend.tx, signed.tx);
    let reason = refused.refused.unwrap();
    assert!(reason.contains("insufficient fee"), "{reason}");
    let stored = play.file(0).view().spend(signed.row.txid).unwrap();
    assert_eq!(stored.unwrap().standing.reason, Some(reason));

    play.stage.mine(1).unwrap();
    play.stands(0, mark, signed.row.txid, SpendState::Conflicted)
        .await;
    // In the mempool the conflict could be outbid; in a block it can not, and another transaction has to announce.
    let standing = || {
        let stored = play.file(0).view().spend(signed.row.txid).unwrap();
        stored.unwrap().standing
    };
    eventually("the conflict in a block", || standing().height.is_some()).await;
    assert_eq!(standing().conflict, Some(foreign));
    let permit = MoneyGate::without_switch(MoneyRules::default()).permit(Network::Regtest);
    let error = signed.send(permit.unwrap()).await.unwrap_err().to_string();
    assert!(error.contains("missingorspent"), "{error}");

    let anew = play
        .announce_singly(0, &did, &Announce::default())
        .await
        .unwrap();
    assert_eq!(anew.refused, None);
    assert_announces(&anew.spend.tx, &update);
    assert_eq!(anew.spend.tx.input[0].previous_output.txid, foreign);
    play.stage.mine(FINAL_DEPTH).unwrap();
    play.stands(0, mark, anew.spend.row.txid, SpendState::Final)
        .await;
    play.stands(0, mark, signed.row.txid, SpendState::Dead)
        .await;
    assert_eq!(
        play.shown_elsewhere(0, &did).await,
        (2, vec!["#s".to_owned()])
    );
    play.close().await;
}

/// Outputs that another announcement spends are not spent again, whatever the chain shows: here by another DID with
/// the same address.
#[tokio::test]
async fn outputs_of_another_announcement_are_left_alone() {
    let mut play = Play::open(1).await;
    let did = play.key_did(0).await;
    let address = address_of(&did, KeyAddress::P2tr);
    play.pay(&address, 20_000);
    play.update_singly(0, &did, "#s").await;
    let signed = play.sign_only(0, &did).await;
    play.stage.kill(0).await.unwrap();
    // The transaction becomes the other DID's. It never reaches the chain: it is not valid any more.
    let mut theirs = signed.tx.clone();
    theirs.output[0].value -= Amount::from_sat(1);
    let secret = secp256k1::SecretKey::from_slice(&[5; 32]).unwrap();
    let other = Did::from_key(Network::Regtest, &secret.public_key(secp256k1::SECP256K1));
    let home = play.stage.actors[0].home.store_path();
    let mut store = Store::open(&home).unwrap();
    let row = store.view().did(did.as_str()).unwrap().unwrap();
    let dead = SpendStanding {
        state: SpendState::Dead,
        ..SpendStanding::signed()
    };
    store
        .transaction::<_, StoreError>(|tx| {
            tx.set_spend(signed.row.txid, &dead)?;
            tx.put_did(&DidRow {
                did: other.to_string(),
                key_index: None,
                ..row
            })?;
            tx.insert_spend(&SpendRow {
                txid: theirs.compute_txid(),
                did: other.to_string(),
                raw: bitcoin::consensus::encode::serialize(&theirs),
                ..signed.row.clone()
            })
        })
        .unwrap();
    drop(store);
    play.resume(&[0]).await;
    let handle = play.stage.actors[0].handle.clone();
    let quote = handle.quote_announcement(&did, &at_rate(2)).await.unwrap();
    assert_eq!(quote.spendable, Amount::ZERO, "20 000 sat are taken");
    play.pay(&address, 3_000);
    let mine = play
        .announce_singly(0, &did, &at_rate(2))
        .await
        .unwrap()
        .spend
        .tx;
    assert_eq!(mine.input.len(), 1);
    let taken = signed.tx.input[0].previous_output;
    assert_ne!(mine.input[0].previous_output, taken);
    assert_eq!(mine.output[0].value.to_sat(), 3_000 - 2 * 154);
    play.close().await;
}

impl Play {
    /// A wallet with the same words pays itself with the outputs of `tx`, at a higher fee and without a signal.
    fn spent_elsewhere(&self, tx: &Transaction, address: &Address) -> Txid {
        let sealed = std::fs::read_to_string(self.stage.actors[0].home.keystore_path()).unwrap();
        let root = keystore::open(&sealed, None).unwrap();
        let key = root.did_key(Network::Regtest, 0).unwrap();
        let beacon = SingletonBeacon::new(address.clone()).unwrap();
        let chain = self.stage.chain.in_process().unwrap();
        let mut chain = chain.lock().unwrap();
        let input = tx.input[0].previous_output;
        let coin = BeaconOutput {
            outpoint: input,
            value: chain.unspent(&input).unwrap().value,
            height: Some(1),
        };
        let rate = FeeRate::from_sat_per_vb(40).unwrap();
        let offer = FeeOffer {
            rate,
            max_rate: rate,
            replaces: None,
        };
        let coins = Coins {
            required: &[],
            others: &[coin],
        };
        let plan = beacon.plan(coins, offer).unwrap();
        let mut spend = beacon.build(&plan, SignalBytes::from_bytes([0; 32]));
        spend.tx.output.truncate(1);
        chain.submit(&spend.sign(&key).unwrap()).unwrap()
    }
}
