//! The life of a DID: made in three ways, updated, its keys changed, moved between beacons, deactivated; and each
//! time resolved from the chain and what its controller would hand out.

mod bad_input;
mod leaving;
mod states;

use btcr2_agent::agent::FreshResolution;
use btcr2_agent::agent::dids::{Change, Disclosure, NewBeacon, QueuedUpdate, Via, update_state};
use btcr2_agent::chain::ChainBackend;
use btcr2_agent::demo::DemoError;
use btcr2_agent::did::{BeaconKind, Did, Document, KeyAddress, SignedUpdate};
use btcr2_agent::lookup::{ChainSource, Lookup};
use btcr2_agent::network::Network;
use btcr2_agent::protocol::aggregator::FINAL_DEPTH;
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::protocol::terms::CohortBeacon;
use btcr2_agent::resolver::{Resolution, ResolutionOptions, Sidecar, Strictness};
use btcr2_agent::store::{Role, StoreError, UpdateRow};
use serde_json::json;

use super::company::Company;
use super::play::{PATIENCE, Play, eventually};

const BEACONS: [CohortBeacon; 2] = [CohortBeacon::Smt, CohortBeacon::Cas];

fn service(id: &str) -> Change {
    Change::AddService {
        id: id.to_owned(),
        kind: "LinkedDomains".to_owned(),
        endpoint: json!("https://example.com/"),
    }
}

fn in_round(company: &Company) -> Via {
    Via::Cohort(Some(company.id))
}

const SINGLY: Via = Via::Singleton { service: None };

impl Play {
    async fn try_update(
        &self,
        actor: usize,
        did: &Did,
        changes: Vec<Change>,
        via: Via,
    ) -> Result<QueuedUpdate, String> {
        let queued = self.stage.update(actor, did, changes, via).await;
        queued.map_err(|error| match error {
            DemoError::Agent { error, .. } => error.to_string(),
            other => panic!("{other}"),
        })
    }

    /// An update that must be refused, and why.
    async fn refused(&self, actor: usize, did: &Did, change: Change, via: Via, why: &str) {
        let error = self.try_update(actor, did, vec![change], via).await;
        let error = error.expect_err("it is refused");
        assert!(error.contains(why), "{error:?} for {why:?}");
    }

    /// Queues an update as soon as nothing earlier is in the way.
    async fn updated(
        &self,
        actor: usize,
        did: &Did,
        changes: Vec<Change>,
        via: Via,
    ) -> QueuedUpdate {
        let search = async {
            loop {
                match self
                    .try_update(actor, did, changes.clone(), via.clone())
                    .await
                {
                    Ok(queued) => return queued,
                    Err(why) if why.contains("not final yet") => {
                        tokio::time::sleep(super::play::POLL).await;
                    }
                    Err(why) => panic!("{why}"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, search)
            .await
            .expect("in time")
    }

    /// A round that announces what is queued, with so many blocks on top.
    async fn announce_round(&mut self, company: &mut Company, blocks: u32) {
        let mark = self.mark();
        let round = self.open_round(company).await;
        self.broadcast(company, round, mark).await;
        self.stage.mine(blocks).unwrap();
    }

    fn row(&self, actor: usize, did: &Did, version: u64) -> Option<UpdateRow> {
        let store = self.file(actor);
        store.view().update(did.as_str(), version).unwrap()
    }

    /// Waits until the update is stored in this state.
    async fn settled(&self, actor: usize, did: &Did, version: u64, state: &str) -> UpdateRow {
        eventually(&format!("version {version} being {state}"), || {
            self.row(actor, did, version)
                .is_some_and(|row| row.state == state)
        })
        .await;
        self.row(actor, did, version).unwrap()
    }

    fn document(&self, actor: usize, did: &Did) -> (u64, Document) {
        let row = self.file(actor).view().did(did.as_str()).unwrap().unwrap();
        (row.version, Document::parse(row.document).unwrap())
    }

    async fn fresh(&self, actor: usize, did: &Did) -> FreshResolution {
        let handle = self.stage.actors[actor].handle.clone();
        handle.resolve_fresh(did).await.unwrap()
    }

    /// What anybody else sees who has the sidecar as text and a chain server.
    async fn looked_up(&self, actor: usize, did: &Did) -> Resolution {
        let of = did.clone();
        let (sidecar, missing) = self.ask(actor, move |agent| agent.sidecar_of(&of)).await;
        assert_eq!(missing, [], "the sidecar is complete");
        let sidecar = Sidecar::parse(sidecar.canonical_bytes()).unwrap();
        let backend = ChainBackend::esplora(&self.stage.chain.url(), PATIENCE).unwrap();
        let options = ResolutionOptions::default();
        Lookup::new(ChainSource::Backend(backend))
            .resolve(did, options, sidecar, Strictness::default())
            .await
            .unwrap()
    }

    /// Resolved by somebody else to this version; gives the document.
    async fn resolves(&self, actor: usize, did: &Did, version: u64) -> Document {
        let resolution = self.looked_up(actor, did).await;
        let resolved = resolution
            .outcome
            .unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(resolved.metadata.version_id, version);
        resolved.document
    }
}

/// Route (a), to its resolution, and two updates through the cohort: the second is refused until the first is
/// final, with what it waits for.
#[tokio::test]
async fn an_update_resolves_and_the_next_one_waits_for_it() {
    for beacon in BEACONS {
        let mut play = Play::open(3).await;
        let mut company = play.found(beacon, 0, &[1, 2]).await;
        let dids = play.create_dids(&mut company, &[1, 2]).await;
        let did = company.dids[dids[0]].did.clone();
        let silent = company.dids[dids[1]].did.clone();
        assert_eq!(play.fresh(1, &did).await.version(), 1);

        let via = in_round(&company);
        let queued = play
            .updated(1, &did, vec![service("one")], via.clone())
            .await;
        assert_eq!(
            (queued.target_version, &queued.before),
            (2, &play.document(1, &did).1)
        );
        let waits = "an update to version 2 exists and is queued";
        play.refused(1, &did, service("two"), via.clone(), waits)
            .await;

        play.announce_round(&mut company, 1).await;
        let row = play.settled(1, &did, 2, update_state::CONFIRMED).await;
        assert!(row.pinned && row.height.is_some() && row.txid.is_some());
        // The chain shows it, and nobody else counts it yet.
        assert_eq!(play.document(1, &did).0, 2);
        assert_eq!(play.fresh(1, &did).await.version(), 1);
        let waits = "confirmed in round 1 by";
        play.refused(1, &did, service("two"), via.clone(), waits)
            .await;
        let handle = play.stage.actors[1].handle.clone();
        let dry = handle
            .propose_update(
                &did,
                vec![service("two")],
                via.clone(),
                Disclosure::HashOnly,
            )
            .await;
        let dry = dry.unwrap_err().to_string();
        assert!(
            dry.contains("not final yet: wait for 5 more blocks"),
            "{dry}"
        );

        play.stage.mine(FINAL_DEPTH - 1).unwrap();
        play.settled(1, &did, 2, update_state::FINAL).await;
        let fresh = play.fresh(1, &did).await;
        assert_eq!((fresh.version(), fresh.document()), (2, &queued.after));
        assert_eq!(fresh.confirmations(), FINAL_DEPTH);
        let document = play.resolves(1, &did, 2).await;
        assert_eq!(document, queued.after);
        play.resolves(2, &silent, 1).await;

        play.updated(1, &did, vec![service("two")], via).await;
        play.announce_round(&mut company, FINAL_DEPTH).await;
        play.settled(1, &did, 3, update_state::FINAL).await;
        let document = play.resolves(1, &did, 3).await;
        assert!(document.value().to_string().contains("#two"));
        play.resolves(2, &silent, 1).await;
        play.close().await;
    }
}

/// A rotated key signs nothing any more, the new one signs the next update, and the DID resolves through both.
#[tokio::test]
async fn a_rotated_key_hands_over_to_the_new_one() {
    let mut play = Play::open(3).await;
    let mut company = play.found(CohortBeacon::Smt, 0, &[1, 2]).await;
    play.create_dids(&mut company, &[1, 2]).await;
    let (did, via) = (company.dids[0].did.clone(), in_round(&company));
    let rotate = Change::RotateKey {
        id: "initialKey".into(),
        new_id: None,
    };
    let keys = |play: &Play| {
        let rows = play.file(1).view().did_keys(did.as_str()).unwrap();
        rows.into_iter().map(|row| row.name).collect::<Vec<_>>()
    };
    let name = |fragment: &str| format!("{did}#{fragment}");

    // Said first, stored later.
    let handle = play.stage.actors[1].handle.clone();
    let proposed = handle
        .propose_update(
            &did,
            vec![rotate.clone()],
            via.clone(),
            Disclosure::HashOnly,
        )
        .await
        .unwrap();
    assert!(
        proposed
            .notes
            .iter()
            .any(|note| note.contains("#initialKey still spends from"))
    );
    assert_eq!(keys(&play), [name("initialKey")]);
    assert_eq!(play.row(1, &did, 2), None);

    let queued = play.updated(1, &did, vec![rotate], via.clone()).await;
    assert_eq!(queued.after, proposed.after, "the same key is derived");
    assert_eq!(keys(&play), [name("initialKey"), name("key-2")]);
    play.announce_round(&mut company, FINAL_DEPTH).await;
    play.updated(1, &did, vec![service("after")], via.clone())
        .await;
    play.announce_round(&mut company, FINAL_DEPTH).await;
    play.settled(1, &did, 3, update_state::FINAL).await;

    let signers: Vec<String> = [2, 3]
        .into_iter()
        .map(|version| {
            let update = SignedUpdate::parse(play.row(1, &did, version).unwrap().bytes).unwrap();
            update.value()["proof"]["verificationMethod"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(signers, [name("initialKey"), name("key-2")]);
    let document = play.resolves(1, &did, 3).await;
    let authorised: Vec<&str> = document
        .invocation_methods()
        .map(|m| m.id.as_str())
        .collect();
    assert_eq!(authorised, [name("key-2")]);
    play.close().await;
}

#[tokio::test]
async fn a_deactivated_did_resolves_as_such_and_is_never_updated_again() {
    for beacon in BEACONS {
        let mut play = Play::open(3).await;
        let mut company = play.found(beacon, 0, &[1, 2]).await;
        play.create_dids(&mut company, &[1, 2]).await;
        let (did, via) = (company.dids[0].did.clone(), in_round(&company));
        play.updated(1, &did, vec![Change::Deactivate], via.clone())
            .await;
        play.announce_round(&mut company, FINAL_DEPTH).await;
        play.settled(1, &did, 2, update_state::FINAL).await;
        let row = play.file(1).view().did(did.as_str()).unwrap().unwrap();
        assert_eq!((row.version, row.state.as_str()), (2, "deactivated"));
        let resolved = play.looked_up(1, &did).await.outcome.unwrap();
        assert!(resolved.metadata.deactivated);
        assert_eq!(resolved.metadata.version_id, 2);
        play.refused(1, &did, service("late"), via, "deactivated")
            .await;
        play.close().await;
    }
}

/// Route (c): DIDs that no cohort has to do with resolve from the moment on at which they are made, and are
/// updated through a beacon of their own only.
#[tokio::test]
async fn dids_without_a_cohort() {
    let mut play = Play::open(3).await;
    let company = play.found(CohortBeacon::Smt, 0, &[1, 2]).await;
    let k1 = play
        .ask(1, |agent| agent.create_key_did(Network::Regtest))
        .await;
    let x1 = play
        .ask(1, |agent| agent.create_external_did(Network::Regtest))
        .await;
    for did in [&k1, &x1] {
        let document = play.resolves(1, did, 1).await;
        assert_eq!(document.beacons().len(), 3);
        let elsewhere = "does not list the beacon of";
        play.refused(1, did, service("a"), in_round(&company), elsewhere)
            .await;
        play.refused(1, did, service("a"), Via::Cohort(None), elsewhere)
            .await;
        let nowhere = Via::Singleton {
            service: Some("#nowhere".into()),
        };
        play.refused(
            1,
            did,
            service("a"),
            nowhere,
            "no singleton beacon #nowhere",
        )
        .await;
        let handle = play.stage.actors[1].handle.clone();
        let proposed = handle
            .propose_update(did, vec![service("a")], SINGLY, Disclosure::HashOnly)
            .await
            .unwrap();
        // Taproot costs least.
        assert_eq!(
            proposed.route.service(),
            Some(&*format!("{did}#initialP2TR"))
        );
        assert_eq!(play.row(1, did, 2), None);
    }
    // Its beacons are spent from by another key than the one that signs updates.
    let document = play.document(1, &x1).1;
    let key = document.verification_methods()[0].key.unwrap();
    let of_key = KeyAddress::P2tr.of(Network::Regtest, &key);
    assert!(
        document
            .beacons()
            .iter()
            .all(|beacon| beacon.address != of_key)
    );
    assert_eq!(play.file(1).view().did_keys(x1.as_str()).unwrap().len(), 2);
    play.close().await;
}

/// Route (b), up to the signal: the beacon of a cohort may be added only when it covers the DID completely, and
/// from then on no signal is signed without it.
#[tokio::test]
async fn a_cohort_s_beacon_is_added_when_it_covers_the_did() {
    for beacon in BEACONS {
        let mut play = Play::open(3).await;
        let mut company = play.found(beacon, 0, &[1, 2]).await;
        play.create_dids(&mut company, &[2]).await;
        play.round(&mut company, &[0]).await;
        let did = play
            .ask(1, |agent| agent.create_key_did(Network::Regtest))
            .await;
        let id = company.id;
        let add = || Change::AddBeacon {
            id: Some("cohort".into()),
            beacon: NewBeacon::Cohort(id),
        };
        play.refused(1, &did, add(), SINGLY, "is not registered with cohort")
            .await;

        let mark = play.mark();
        let of = did.clone();
        play.ask(1, move |agent| agent.register_did(&of, id)).await;
        play.reported("the history", mark, id, Role::Participant, &[1], |r| {
            matches!(r, Report::MayBind { .. })
        })
        .await;
        play.refused(
            1,
            &did,
            add(),
            in_round(&company),
            "does not list the beacon",
        )
        .await;
        let kind = match beacon {
            CohortBeacon::Smt => BeaconKind::Cas,
            CohortBeacon::Cas => BeaconKind::Smt,
        };
        let wrong = Change::AddBeacon {
            id: None,
            beacon: NewBeacon::Address {
                kind,
                address: company.address.clone(),
            },
        };
        play.refused(1, &did, wrong, SINGLY, "is the beacon of cohort")
            .await;

        let index = did.smt_index();
        let told_bound = |play: &Play| {
            let mut told = false;
            let store = play.file(1);
            let look = |entry: btcr2_agent::store::LogEntry| {
                told |= entry.kind == "bound";
                Ok::<_, StoreError>(())
            };
            store.view().replay(id, Role::Participant, look).unwrap();
            told
        };
        assert!(!told_bound(&play));
        let queued = play.updated(1, &did, vec![add()], SINGLY).await;
        assert!(told_bound(&play), "before it is announced");
        assert_eq!(queued.after.beacons().len(), 4);
        let binding = &play.file(1).view().bindings_of(index).unwrap()[0];
        assert_eq!(binding.state, "pending");
        let of = did.clone();
        play.ask(1, move |agent| agent.withdraw_update(&of, 2))
            .await;
        let binding = &play.file(1).view().bindings_of(index).unwrap()[0];
        assert_eq!(binding.state, "may_bind");
        play.close().await;
    }
}
