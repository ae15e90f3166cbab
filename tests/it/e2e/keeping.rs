//! Members lose what they keep, and get it back: proofs over the relay, everything out of words and bundle.

use std::path::PathBuf;
use std::time::Duration;

use btcr2_agent::agent::control::views::VerifyView;
use btcr2_agent::agent::control::{Backend as _, request as r};
use btcr2_agent::agent::{AgentBackend, MissingKind, What};
use btcr2_agent::chain::ChainBackend;
use btcr2_agent::cli::local::{ImportedRoot, RecoverPlan, recover};
use btcr2_agent::cli::secret::Secret;
use btcr2_agent::config::Config;
use btcr2_agent::demo::stage::Part;
use btcr2_agent::keys::keystore;
use btcr2_agent::lookup::Lookup;
use btcr2_agent::network::Network;
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::protocol::participant::Decline;
use btcr2_agent::protocol::terms::CohortBeacon;
use btcr2_agent::resolver::{ResolutionOptions, Sidecar, Strictness};

use super::company::Company;
use super::play::{POLL, Play};

impl Play {
    fn backend(&self, actor: usize) -> AgentBackend {
        let actor = &self.stage.actors[actor];
        AgentBackend::new(actor.handle.clone(), actor.home.clone(), Config::default())
    }

    /// Deletes what explains signals from an agent's file, as nothing of ours can.
    fn forget(&self, actor: usize) {
        let path = self.stage.actors[actor].home.store_path();
        let db = rusqlite::Connection::open(path).unwrap();
        db.busy_timeout(Duration::from_secs(10)).unwrap();
        db.execute_batch(
            "BEGIN IMMEDIATE;
             DROP TRIGGER artifacts_are_never_deleted;
             DELETE FROM artifacts WHERE kind IN ('smt_proof', 'cas_announcement');
             CREATE TRIGGER artifacts_are_never_deleted BEFORE DELETE ON artifacts
                 BEGIN SELECT RAISE(ABORT, 'artifacts are never deleted'); END;
             COMMIT;",
        )
        .unwrap();
    }

    pub async fn verify(&self, actor: usize, fetch: bool) -> VerifyView {
        let verify = r::VerifyDids {
            fetch,
            wait_s: Some(60),
            ..r::VerifyDids::default()
        };
        self.backend(actor).did_verify(verify).await.unwrap()
    }

    /// Every DID resolves for anybody who has its controller's sidecar data, to the version it must have.
    pub async fn all_resolve(&self, company: &Company) {
        let chain =
            ChainBackend::esplora(&self.stage.chain.url(), Duration::from_secs(10)).unwrap();
        let lookup = Lookup::new(chain);
        for known in &company.dids {
            let did = r::SidecarOf {
                did: known.did.as_str().parse().unwrap(),
            };
            let view = self.backend(known.member).did_sidecar(did).await.unwrap();
            assert_eq!(view.missing, []);
            assert!(view.complete);
            let sidecar = Sidecar::from_value(&view.sidecar).unwrap();
            let options = ResolutionOptions {
                min_conf: 1,
                ..ResolutionOptions::default()
            };
            let resolution = lookup
                .resolve(&known.did, options, sidecar, Strictness::default())
                .await
                .unwrap();
            let resolved = resolution.outcome.unwrap();
            assert_eq!(resolved.metadata.version_id, known.version, "{}", known.did);
        }
    }

    /// Waits until an agent has saved so many proofs of the past.
    async fn fetched(&mut self, actor: usize, mark: usize, wanted: u32) {
        self.until("proofs of earlier signals", mark, |seen| {
            let mut saved = 0;
            for (by, event) in seen {
                if let What::Report(Report::HistoryFetched { proofs, .. }) = &event.what
                    && *by == actor
                {
                    saved += proofs;
                }
            }
            saved >= wanted
        })
        .await;
    }
}

/// An aggregator, and two members that never say "idle": their leaves are never empty.
fn parts() -> [Part; 3] {
    let mut private = Part::new(POLL);
    private.policy.decline = Decline::NoUpdate;
    private.bundle = true;
    [Part::new(POLL), private.clone(), private]
}

/// Two DIDs of the first member, one of the second; in each of two rounds one is updated.
async fn two_rounds(play: &mut Play, beacon: CohortBeacon) -> (Company, Vec<usize>) {
    let mut company = play.found(beacon, 0, &[1, 2]).await;
    let dids = play.create_dids(&mut company, &[1, 2, 1]).await;
    play.round(&mut company, &dids[..1]).await;
    play.round(&mut company, &dids[1..2]).await;
    (company, dids)
}

#[tokio::test]
async fn proofs_lost_from_the_store_come_back_at_the_next_start() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut play = Play::with_parts(&parts()).await;
        let (mut company, dids) = two_rounds(&mut play, beacon).await;
        play.stage.stop(1).await.unwrap();
        play.forget(1);
        let mark = play.mark();
        play.resume(&[1]).await;
        play.fetched(1, mark, 4).await;
        play.check(&company);
        play.all_resolve(&company).await;
        play.round(&mut company, &dids).await;
        play.close().await;
    }
}

#[tokio::test]
async fn verify_finds_what_is_lost_and_fetches_it() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut play = Play::with_parts(&parts()).await;
        let (mut company, dids) = two_rounds(&mut play, beacon).await;
        let healthy = play.verify(1, false).await;
        assert!(healthy.is_healthy(), "{healthy:#?}");
        assert_eq!(healthy.dids.len(), 2);
        let cohort_beacon = &healthy.dids[0].beacons.iter().find(|b| b.cohort.is_some());
        assert_eq!(cohort_beacon.unwrap().explained, 2);

        play.forget(1);
        let lost = play.verify(1, false).await;
        assert!(!lost.is_healthy());
        let kind = match beacon {
            CohortBeacon::Smt => MissingKind::SmtProof,
            CohortBeacon::Cas => MissingKind::CasAnnouncement,
        };
        for did in &lost.dids {
            assert_eq!(did.missing.len(), 2);
            for missing in &did.missing {
                assert_eq!(missing.kind, kind);
                assert_eq!(missing.cohort, Some(company.id));
                let signal = company.signals.iter();
                let of = signal.clone().find(|s| Some(s.txid) == missing.txid);
                assert_eq!(missing.height, of.map(|signal| signal.height));
            }
            let error = did.resolution.error.as_deref().unwrap();
            assert!(error.contains("MISSING_UPDATE_DATA"), "{error}");
        }

        let back = play.verify(1, true).await;
        assert!(back.is_healthy(), "{back:#?}");
        assert_eq!(back.asked, Some(2), "for each of its DIDs");
        play.check(&company);
        play.all_resolve(&company).await;
        play.round(&mut company, &dids).await;
        play.close().await;
    }
}

/// A member's machine is gone. What is left: the words on paper, and a copy of the bundle.
struct Left {
    words: Secret,
    bundle: PathBuf,
}

impl Play {
    /// Copies the bundle of a running member, and its words.
    async fn back_up(&self, actor: usize, dir: &std::path::Path) -> Left {
        let bundle = dir.join("copy.bundle");
        let backup = r::Backup {
            out: Some(bundle.clone()),
        };
        let view = self.backend(actor).key_backup(backup).await.unwrap();
        assert!(view.state.cohorts > 0 && view.state.artifacts > 0);
        let sealed = std::fs::read_to_string(self.stage.actors[actor].home.keystore_path());
        let root = keystore::open(&sealed.unwrap(), None).unwrap();
        Left {
            words: Secret::from(root.words().unwrap().expose().to_owned()),
            bundle,
        }
    }

    /// The home is destroyed, and another one made of what is left.
    async fn lose_and_recover(&mut self, actor: usize, left: Left) {
        self.stage.stop(actor).await.unwrap();
        let home = self.stage.actors[actor].home.root().to_owned();
        std::fs::remove_dir_all(&home).unwrap();
        let view = recover(RecoverPlan {
            home,
            network: Some(Network::Regtest),
            import: ImportedRoot::Words(left.words),
            bundle: Some(left.bundle),
            accept_truncated: false,
            dids: Vec::new(),
            scan: false,
            chain: None,
            passphrase: None,
        })
        .await
        .unwrap();
        assert_eq!(view.identity, self.stage.actors[actor].handle.identity());
        assert_eq!(view.cohorts.len(), 1);
        assert!(view.cohorts[0].resumes);
        assert!(view.dids.iter().all(|did| did.lacks.is_empty()));
        self.resume(&[actor]).await;
    }
}

#[tokio::test]
async fn a_lost_member_comes_back_from_words_and_bundle() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let dir = tempfile::tempdir().unwrap();
        let mut play = Play::with_parts(&parts()).await;
        let (mut company, dids) = two_rounds(&mut play, beacon).await;
        let left = play.back_up(1, dir.path()).await;
        play.lose_and_recover(1, left).await;
        let verified = play.verify(1, false).await;
        assert!(verified.is_healthy(), "{verified:#?}");
        play.check(&company);
        play.all_resolve(&company).await;
        // And the cohort goes on: its DIDs are updated, and new ones are made.
        play.round(&mut company, &dids).await;
        let late = play.create_dids(&mut company, &[1]).await;
        play.round(&mut company, &late).await;
        play.all_resolve(&company).await;
        play.close().await;
    }
}

/// The bundle is older than the last round: what it lacks is fetched.
#[tokio::test]
async fn an_old_bundle_is_completed_by_the_aggregator() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let dir = tempfile::tempdir().unwrap();
        let mut play = Play::with_parts(&parts()).await;
        let mut company = play.found(beacon, 0, &[1, 2]).await;
        let dids = play.create_dids(&mut company, &[1, 2]).await;
        play.round(&mut company, &dids).await;
        let left = play.back_up(1, dir.path()).await;
        play.round(&mut company, &dids[1..]).await;
        // It does not know what its former copy did, and says so.
        play.forgiving = true;
        play.lose_and_recover(1, left).await;
        let verified = play.verify(1, true).await;
        let did = &verified.dids[0];
        assert_eq!(did.missing, [], "{did:#?}");
        assert_eq!(did.resolution.version, Some(2));
        let risks: Vec<&str> = did.risks.iter().map(|risk| risk.code.as_str()).collect();
        assert!(
            risks.is_empty() || risks == ["unknown_spend"],
            "what the former copy signed is not in the log: {risks:?}"
        );
        play.round(&mut company, &dids).await;
        play.all_resolve(&company).await;
        play.close().await;
    }
}

/// An aggregator is lost with its disk, in a round that its bundle does not have. What it said to form the cohort it says
/// again, and goes on with numbers that nobody has seen.
#[tokio::test]
async fn a_lost_aggregator_comes_back_from_words_and_bundle() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let dir = tempfile::tempdir().unwrap();
        let mut parts = parts();
        parts[0].bundle = true;
        let mut play = Play::with_parts(&parts).await;
        let mut company = play.found(beacon, 0, &[1, 2]).await;
        let dids = play.create_dids(&mut company, &[1, 2]).await;
        play.round(&mut company, &dids).await;
        let left = play.back_up(0, dir.path()).await;
        play.stage.kill(1).await.unwrap();
        play.expects_trouble = true;
        play.open_round(&mut company).await;
        play.lose_and_recover(0, left).await;
        play.resume(&[1]).await;
        company.rounds = 1 + 1_000;
        play.round(&mut company, &dids).await;
        play.all_resolve(&company).await;
        play.close().await;
    }
}
