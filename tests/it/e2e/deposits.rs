//! Members that show the aggregator what they announce, beside members that do not, over a relay.

use std::collections::BTreeMap;

use btcr2_agent::agent::AgentError;
use btcr2_agent::agent::dids::{Change, Disclosure, QueuedUpdate, Via};
use btcr2_agent::did::SignedUpdate;
use btcr2_agent::hash::{UpdateHash, sha256};
use btcr2_agent::protocol::aggregator::FINAL_DEPTH;
use btcr2_agent::protocol::deposit::DepositCode;
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::protocol::participant::Decline;
use btcr2_agent::protocol::terms::{CohortBeacon, Deposits};
use btcr2_agent::store::{ArtifactKind, Role, Subject};
use tokio::time::Instant;

use super::acts::service_name;
use super::company::Company;
use super::play::{PATIENCE, Play};

const BEACONS: [CohortBeacon; 2] = [CohortBeacon::Smt, CohortBeacon::Cas];

impl Play {
    /// A cohort of agents 1 and 2 with agent 0 under these terms, and a DID each.
    async fn depositors(beacon: CohortBeacon, deposits: Deposits) -> (Self, Company) {
        let mut play = Self::open(3).await;
        let mut company = play
            .found_with(beacon, 0, &[1, 2], &[], move |terms| {
                terms.deposits = deposits;
            })
            .await;
        play.create_dids(&mut company, &[1, 2]).await;
        (play, company)
    }

    /// Updates a DID, with so much text beside the service that is looked for.
    async fn disclose(
        &self,
        company: &Company,
        place: usize,
        disclosure: Disclosure,
        text: usize,
    ) -> Result<QueuedUpdate, AgentError> {
        let known = &company.dids[place];
        let version = known.version + 1;
        let service = |id: String, endpoint: String| Change::AddService {
            id,
            kind: "LinkedDomains".into(),
            endpoint: endpoint.into(),
        };
        let changes = vec![
            service(service_name(version), "https://example.com/".into()),
            service(
                format!("text-{version}"),
                format!("https://example.com/{}", "x".repeat(text)),
            ),
        ];
        let via = Via::Cohort(Some(company.id));
        let handle = &self.stage.actors[known.member].handle;
        handle
            .disclose_update(&known.did, changes, via, disclosure)
            .await
    }

    /// The same, as soon as the update before is final.
    async fn disclosed(
        &self,
        company: &Company,
        place: usize,
        disclosure: Disclosure,
        text: usize,
    ) -> UpdateHash {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.disclose(company, place, disclosure, text).await {
                Ok(queued) => return queued.hash,
                Err(AgentError::Refused(why))
                    if why.contains("not final yet") && Instant::now() < deadline => {}
                Err(error) => panic!("not queued: {error}"),
            }
        }
    }

    async fn verified(&mut self, company: &Company, mark: usize, hash: UpdateHash) -> bool {
        let members = [1];
        self.reported(
            "a verdict",
            mark,
            company.id,
            Role::Participant,
            &members,
            |report| matches!(report, Report::MyDepositAccepted { update, .. } if *update == hash),
        )
        .await;
        self.seen[mark..].iter().any(|(_, event)| {
            matches!(&event.what, btcr2_agent::agent::What::Report(
                Report::MyDepositAccepted { update, anchored: true, .. }) if *update == hash)
        })
    }

    /// The bytes that the aggregator keeps of an update.
    fn kept(&self, hash: UpdateHash) -> Option<Vec<u8>> {
        let store = self.file(0);
        let subject = Subject::Update(hash);
        let kept = store
            .view()
            .artifact(ArtifactKind::SignedUpdate, &subject, None);
        kept.unwrap().map(|artifact| artifact.bytes)
    }

    fn stored_state(&self, company: &Company, place: usize) -> (String, Option<String>) {
        let known = &company.dids[place];
        let updates = self.file(known.member);
        let updates = updates.view().updates_of(known.did.as_str()).unwrap();
        let last = updates.last().unwrap();
        (last.state.clone(), last.reason.clone())
    }
}

/// Agent 1 deposits, once so much that it travels in chunks; agent 2 announces hashes. Between the rounds the
/// aggregator starts again.
#[tokio::test]
async fn a_member_that_deposits_beside_one_that_does_not() {
    for beacon in BEACONS {
        let (mut play, mut company) = Play::depositors(beacon, Deposits::Accepted).await;
        for text in [60_000, 0] {
            let mark = play.mark();
            if company.dids[0].version > 1 {
                play.stage.mine(FINAL_DEPTH - 1).unwrap();
            }
            let shown = play
                .disclosed(&company, 0, Disclosure::DepositWhereTaken, text)
                .await;
            let hidden = play.disclosed(&company, 1, Disclosure::HashOnly, 0).await;
            assert!(play.verified(&company, mark, shown).await, "anchored");
            let bytes = play.kept(shown).expect("the update is kept");
            assert_eq!(sha256(&bytes), shown.to_bytes());
            assert!(bytes.len() > text);
            let update = SignedUpdate::parse(&bytes).unwrap();
            assert_eq!(update.target_version(), company.dids[0].version + 1);
            assert_eq!(play.kept(hidden), None);

            let updates = BTreeMap::from([
                (company.dids[0].did.to_string(), shown),
                (company.dids[1].did.to_string(), hidden),
            ]);
            let round = play.open_round(&mut company).await;
            play.finish_round(&mut company, round, mark, updates).await;
            play.stage.kill(0).await.unwrap();
            play.resume(&[0]).await;
        }
        // The genesis document came with the first update; that of agent 2 did not.
        let of = |place: usize| {
            let store = play.file(0);
            let subject = Subject::Did(company.dids[place].did.to_string());
            let kind = ArtifactKind::GenesisDocument;
            store.view().artifact(kind, &subject, None).unwrap()
        };
        assert!(of(0).is_some());
        assert!(of(1).is_none());
        play.close().await;
    }
}

/// Both processes stop while a deposit is on its way.
#[tokio::test]
async fn a_deposit_survives_restarts_on_both_sides() {
    for beacon in BEACONS {
        let (mut play, mut company) = Play::depositors(beacon, Deposits::Required).await;
        let mark = play.mark();
        play.stage.kill(0).await.unwrap();
        let hash = play
            .disclosed(&company, 0, Disclosure::Deposit, 40_000)
            .await;
        play.stage.kill(1).await.unwrap();
        play.resume(&[0, 1]).await;
        assert!(play.verified(&company, mark, hash).await);
        play.stage.kill(0).await.unwrap();
        play.resume(&[0]).await;
        let round = play.open_round(&mut company).await;
        let updates = BTreeMap::from([(company.dids[0].did.to_string(), hash)]);
        play.finish_round(&mut company, round, mark, updates).await;
        play.close().await;
    }
}

/// What does not go with the terms is refused before anything is signed, stored or sent.
#[tokio::test]
async fn nothing_is_disclosed_or_signed_against_the_terms() {
    for (deposits, disclosure, words) in [
        (Deposits::None, Disclosure::Deposit, "take no deposits"),
        (Deposits::Required, Disclosure::HashOnly, "add --deposit"),
    ] {
        let (play, company) = Play::depositors(CohortBeacon::Smt, deposits).await;
        let refused = play.disclose(&company, 0, disclosure, 0).await.unwrap_err();
        assert!(refused.to_string().contains(words), "{refused}");
        let store = play.file(1);
        let did = company.dids[0].did.as_str();
        assert_eq!(store.view().updates_of(did).unwrap(), []);
        play.close().await;
    }
    // Too large: said before it is signed; by its hash alone it goes.
    let (play, company) = Play::depositors(CohortBeacon::Smt, Deposits::Accepted).await;
    let refused = play
        .disclose(&company, 0, Disclosure::Deposit, 200_000)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("131072"), "{refused}");
    let did = company.dids[0].did.as_str();
    assert_eq!(play.file(1).view().updates_of(did).unwrap(), []);
    play.disclose(&company, 0, Disclosure::HashOnly, 200_000)
        .await
        .unwrap();
    play.close().await;
}

/// The aggregator refuses a deposit (here: one too many within the hour). The update goes back with the reason, the
/// round goes on without it, and its controller announces the hash alone.
#[tokio::test]
async fn a_refused_update_goes_back_to_its_controller() {
    let (mut play, mut company) = Play::depositors(CohortBeacon::Cas, Deposits::Accepted).await;
    let did = company.dids[0].did.clone();
    for _ in 0..10 {
        let mark = play.mark();
        let hash = play.disclosed(&company, 0, Disclosure::Deposit, 0).await;
        play.verified(&company, mark, hash).await;
        let did = did.clone();
        play.ask(1, move |agent| agent.withdraw_update(&did, 2))
            .await;
    }
    let mark = play.mark();
    let refused = play.disclosed(&company, 0, Disclosure::Deposit, 0).await;
    let (id, members) = (company.id, [1]);
    play.reported(
        "a refusal",
        mark,
        id,
        Role::Participant,
        &members,
        |report| {
            matches!(report, Report::MyDepositRefused { update, code: DepositCode::TooMany, .. }
            if *update == refused)
        },
    )
    .await;
    let (state, reason) = play.stored_state(&company, 0);
    assert_eq!(state, "refused");
    let reason = reason.unwrap();
    assert!(
        reason.contains("too many deposits within an hour"),
        "{reason}"
    );
    // Nobody waits for it.
    let other = play.disclosed(&company, 1, Disclosure::HashOnly, 0).await;
    let round = play.open_round(&mut company).await;
    let updates = BTreeMap::from([(company.dids[1].did.to_string(), other)]);
    play.finish_round(&mut company, round, mark, updates).await;
    let (state, kept) = play.stored_state(&company, 0);
    assert_eq!((state.as_str(), kept), ("refused", Some(reason)));

    let mark = play.mark();
    let hash = play.disclosed(&company, 0, Disclosure::HashOnly, 0).await;
    assert_eq!(play.stored_state(&company, 0), ("queued".into(), None));
    let round = play.open_round(&mut company).await;
    let updates = BTreeMap::from([(did.to_string(), hash)]);
    play.finish_round(&mut company, round, mark, updates).await;
    play.close().await;
}

/// A member that never says whether it has an update says so to the aggregator where deposits are required, and to
/// nobody else.
#[tokio::test]
async fn required_deposits_beside_private_declines() {
    let mut private = btcr2_agent::demo::stage::Part::new(super::play::POLL);
    private.policy.decline = Decline::NoUpdate;
    let plain = btcr2_agent::demo::stage::Part::new(super::play::POLL);
    let mut play = Play::with_parts(&[plain.clone(), plain, private]).await;
    let mut company = play
        .found_with(CohortBeacon::Smt, 0, &[1, 2], &[], |terms| {
            terms.deposits = Deposits::Required;
        })
        .await;
    play.create_dids(&mut company, &[1, 2]).await;
    let mark = play.mark();
    let hash = play.disclosed(&company, 0, Disclosure::Deposit, 0).await;
    let round = play.open_round(&mut company).await;
    let updates = BTreeMap::from([(company.dids[0].did.to_string(), hash)]);
    play.finish_round(&mut company, round, mark, updates).await;
    play.close().await;
}
