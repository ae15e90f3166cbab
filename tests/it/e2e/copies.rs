//! Copies of one agent: restored from a backup, and copied by hand. The older one stops, the newer one goes on, and no
//! secret nonce is used twice by both of them together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use btcr2_agent::agent::backup::{Restored, back_up, restore};
use btcr2_agent::agent::{AgentError, What, system_clock};
use btcr2_agent::cli::local::takeover;
use btcr2_agent::config::Home;
use btcr2_agent::demo::DemoError;
use btcr2_agent::demo::stage::Part;
use btcr2_agent::protocol::SessionId;
use btcr2_agent::protocol::message::Nonces;
use btcr2_agent::protocol::participant::{Decline, ParticipantInput};
use btcr2_agent::protocol::terms::CohortBeacon;
use btcr2_agent::store::{Role, StoreError};

use super::company::Company;
use super::play::{POLL, Play};

/// Never says "idle", so that every round becomes a signal.
fn part() -> Part {
    let mut part = Part::new(POLL);
    part.policy.decline = Decline::NoUpdate;
    part
}

fn parts(agents: usize) -> Vec<Part> {
    (0..agents).map(|_| part()).collect()
}

impl Play {
    /// Backs the home of a running agent up.
    fn copy_home(&self, actor: usize, dir: &Path) -> PathBuf {
        let out = dir.join("backup");
        let home = &self.stage.actors[actor].home;
        let manifest = back_up(home, &out, system_clock()()).unwrap();
        assert!(manifest.files.contains_key("store.sqlite"));
        assert!(manifest.files.contains_key("keystore.json"));
        assert_eq!(manifest.left_out, [] as [String; 0]);
        out
    }

    /// Starts another copy of the agent from a backup; gives its position.
    async fn enter_restored(&mut self, backup: &Path, home: &Path) -> usize {
        let made = Home::locate(Some(home), None).unwrap();
        made.create().unwrap();
        let Restored { inc, manifest, .. } = restore(&made, backup, system_clock()()).unwrap();
        assert!(inc > manifest.inc);
        let mark = self.mark();
        let copy = self.stage.enter_again("copy", home, part()).unwrap();
        self.until("the copy's connection", mark, |seen| {
            seen.iter().any(|(by, event)| {
                let connected = matches!(event.what, What::Relay { connected, .. } if connected);
                *by == copy && connected
            })
        })
        .await;
        copy
    }

    /// Waits until an agent has seen another copy of itself, and has stopped for it.
    async fn stops_for_a_copy(&mut self, actor: usize, mark: usize) {
        self.until("the older copy to stop", mark, |seen| {
            seen.iter().any(|(by, event)| {
                *by == actor && matches!(event.what, What::AnotherCopy { stops: true, .. })
            })
        })
        .await;
        for ended in [self.stage.stop(actor).await, self.stage.resume(actor)] {
            let another = matches!(
                &ended,
                Err(DemoError::Agent {
                    error: AgentError::AnotherCopy(_),
                    ..
                })
            );
            assert!(another, "{ended:?}");
        }
    }

    /// Every partial signature that was ever made in these homes has nonces of its own, and every nonce signed one
    /// message.
    fn no_nonce_signed_twice(&self, company: &Company, homes: &[usize]) {
        let mut used: BTreeMap<String, String> = BTreeMap::new();
        let mut signatures = 0;
        for actor in homes {
            let mut offered: BTreeMap<SessionId, Nonces> = BTreeMap::new();
            let store = self.file(*actor);
            let view = store.view();
            view.replay::<StoreError>(company.id, Role::Participant, |entry| {
                if !["prepared", "signed"].contains(&entry.kind.as_str()) {
                    return Ok(());
                }
                match serde_json::from_str(&entry.input).unwrap() {
                    ParticipantInput::Prepared(prepared) => {
                        offered.insert(prepared.session, prepared.nonces);
                    }
                    ParticipantInput::Signed(signed) => {
                        let nonces = &offered[&signed.session];
                        for (label, partial) in &signed.partials {
                            let nonce = serde_json::to_string(&nonces[label]).unwrap();
                            let partial = serde_json::to_string(partial).unwrap();
                            let known = used.insert(nonce, partial.clone());
                            // The same entry in both homes is the same signature.
                            assert!(known.is_none_or(|known| known == partial));
                            signatures += 1;
                        }
                        let next = SessionId {
                            attempt: signed.session.attempt + 1,
                            ..signed.session
                        };
                        offered.insert(next, signed.spares);
                    }
                    other => panic!("{other:?}"),
                }
                Ok(())
            })
            .unwrap();
        }
        assert!(signatures >= company.signals.len() * company.members.len());
    }
}

impl Company {
    /// From now on `copy` plays the part of a member.
    fn replace(&mut self, member: usize, copy: usize) {
        for known in self.dids.iter_mut().filter(|did| did.member == member) {
            known.member = copy;
        }
        for known in self.members.iter_mut().filter(|known| **known == member) {
            *known = copy;
        }
    }
}

/// The backup is older than the last round, and the home it was made of still runs.
#[tokio::test]
async fn a_restored_member_goes_on_and_the_one_still_running_stops() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let dir = tempfile::tempdir().unwrap();
        let mut play = Play::with_parts(&parts(3)).await;
        let mut company = play.found(beacon, 0, &[1, 2]).await;
        let dids = play.create_dids(&mut company, &[1, 2]).await;
        play.round(&mut company, &dids).await;
        let backup = play.copy_home(1, dir.path());
        play.round(&mut company, &dids[1..]).await;

        // What the original signed meanwhile dismays nobody.
        play.forgiving = true;
        let mark = play.mark();
        let copy = play.enter_restored(&backup, &dir.path().join("copy")).await;
        play.stops_for_a_copy(1, mark).await;

        company.replace(1, copy);
        let verified = play.verify(copy, true).await;
        assert_eq!(verified.dids[0].missing, [], "{verified:#?}");
        play.round(&mut company, &dids).await;
        play.all_resolve(&company).await;
        play.no_nonce_signed_twice(&company, &[1, copy, 2]);
        play.close().await;
    }
}

/// The backup was made between a member's nonces and its signature. The original signs; the copy, which is asked the
/// same by everything the relay still has, does not.
#[tokio::test]
async fn a_backup_from_the_middle_of_a_round_signs_nothing_again() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let dir = tempfile::tempdir().unwrap();
        let mut play = Play::with_parts(&parts(4)).await;
        let mut company = play.found(beacon, 0, &[1, 2, 3]).await;
        let dids = play.create_dids(&mut company, &[1, 2]).await;
        let mark = play.mark();
        let updates = play.queue(&company, &dids).await;
        play.stage.kill(3).await.unwrap();
        let round = play.open_round(&mut company).await;
        play.responses(&company, mark, 2).await;
        let backup = play.copy_home(1, dir.path());
        play.resume(&[3]).await;
        play.finish_round(&mut company, round, mark, updates).await;
        play.stage.stop(1).await.unwrap();

        play.forgiving = true;
        let copy = play.enter_restored(&backup, &dir.path().join("copy")).await;
        company.replace(1, copy);
        let verified = play.verify(copy, true).await;
        assert_eq!(verified.dids[0].missing, [], "{verified:#?}");
        assert_eq!(verified.dids[0].resolution.version, Some(2));
        let signed = |actor: usize| {
            let mut sessions = Vec::new();
            let store = play.file(actor);
            store
                .view()
                .replay::<StoreError>(company.id, Role::Participant, |entry| {
                    if entry.kind == "signed"
                        && let ParticipantInput::Signed(signed) =
                            serde_json::from_str(&entry.input).unwrap()
                        && signed.session.round().is_some()
                    {
                        sessions.push(signed.session);
                    }
                    Ok(())
                })
                .unwrap();
            sessions
        };
        assert_eq!((signed(1).len(), signed(copy).len()), (1, 0));
        play.round(&mut company, &dids).await;
        play.no_nonce_signed_twice(&company, &[1, copy, 2, 3]);
        play.close().await;
    }
}

/// A home copied file by file says nothing of itself: its numbers do. It goes on when a person says so.
#[tokio::test]
async fn a_home_copied_by_hand_stops_until_it_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut play = Play::with_parts(&parts(3)).await;
    let mut company = play.found(CohortBeacon::Smt, 0, &[1, 2]).await;
    let dids = play.create_dids(&mut company, &[1, 2]).await;
    play.round(&mut company, &dids).await;
    play.stage.stop(1).await.unwrap();
    let twin_home = dir.path().join("twin");
    Home::locate(Some(&twin_home), None)
        .unwrap()
        .create()
        .unwrap();
    for entry in std::fs::read_dir(play.stage.actors[1].home.root()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), twin_home.join(entry.file_name())).unwrap();
    }
    play.resume(&[1]).await;
    play.round(&mut company, &dids[1..]).await;
    play.stage.stop(1).await.unwrap();

    play.forgiving = true;
    let mark = play.mark();
    let twin = play.stage.enter_again("twin", &twin_home, part()).unwrap();
    play.stops_for_a_copy(twin, mark).await;
    let taken = takeover(&twin_home).unwrap();
    let seen = taken.seen.unwrap();
    assert_eq!((seen.inc, seen.ours), (1, 1));
    assert!(taken.inc > 1);
    play.resume(&[twin]).await;
    company.replace(1, twin);
    let verified = play.verify(twin, true).await;
    assert_eq!(verified.dids[0].missing, [], "{verified:#?}");
    play.round(&mut company, &dids).await;
    play.no_nonce_signed_twice(&company, &[1, twin, 2]);
    play.close().await;
}

/// The aggregator's backup is older than a round. It leaves out the numbers that may be taken.
#[tokio::test]
async fn a_restored_aggregator_opens_rounds_its_members_have_not_seen() {
    let dir = tempfile::tempdir().unwrap();
    let agents: Vec<Part> = (0..3).map(|_| Part::new(POLL)).collect();
    let mut play = Play::with_parts(&agents).await;
    let mut company = play.found(CohortBeacon::Smt, 0, &[1, 2]).await;
    let dids = play.create_dids(&mut company, &[1, 2]).await;
    play.round(&mut company, &dids).await;
    let backup = play.copy_home(0, dir.path());
    play.empty_round(&mut company).await;
    play.stage.stop(0).await.unwrap();

    // What the relay still has of the round it does not know, it refuses.
    play.forgiving = true;
    company.aggregator = play.enter_restored(&backup, &dir.path().join("copy")).await;
    company.rounds = 1 + 1_000;
    play.round(&mut company, &dids).await;
    play.close().await;
}
