//! Copies of one agent: restored from a backup, and copied by hand. The older one stops, the newer one goes on, and no
//! secret nonce is used twice by both of them together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use btcr2_agent::agent::backup::{Restored, back_up, restore};
use btcr2_agent::agent::{AgentError, What, system_clock};
use btcr2_agent::cli::local::takeover;
use btcr2_agent::config::Home;
use btcr2_agent::demo::DemoError;
use btcr2_agent::demo::stage::Part;
use btcr2_agent::nostr::event::{Event, KIND_DIRECTED};
use btcr2_agent::nostr::{EventId, Filter};
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::protocol::message::Nonces;
use btcr2_agent::protocol::participant::{Decline, ParticipantInput};
use btcr2_agent::protocol::terms::CohortBeacon;
use btcr2_agent::protocol::{Round, SessionId};
use btcr2_agent::store::{ArtifactKind, OutboxRow, Role, Store, StoreError};

use super::company::Company;
use super::play::{POLL, Play, eventually};

const HOUR: i64 = 3_600;

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
        // What the original has written since is read before anything is announced.
        while self.ask(copy, |agent| Ok(agent.reads_former_copy())).await {
            tokio::task::yield_now().await;
        }
        copy
    }

    /// Copies the home of an agent that does not run, file by file.
    fn copy_by_hand(&self, actor: usize, to: &Path) -> PathBuf {
        Home::locate(Some(to), None).unwrap().create().unwrap();
        for entry in std::fs::read_dir(self.stage.actors[actor].home.root()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
        to.to_owned()
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
    pub(super) fn no_nonce_signed_twice(&self, company: &Company, homes: &[usize]) {
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

impl Play {
    /// Everything numbered that a home has sent about a cohort.
    fn sent(&self, actor: usize, company: &Company) -> Vec<OutboxRow> {
        let rows = self.file(actor).view().outbox_of(company.id).unwrap();
        rows.into_iter().filter(|row| row.lane.is_some()).collect()
    }

    /// In all these homes together, a number of a lane is one message.
    pub(super) fn no_number_used_twice(&self, company: &Company, homes: &[usize]) {
        let mut said: BTreeMap<String, String> = BTreeMap::new();
        for row in homes.iter().flat_map(|actor| self.sent(*actor, company)) {
            let state: serde_json::Value = serde_json::from_str(&row.state).unwrap();
            let (lane, seq) = row.lane.unwrap();
            let number = format!("{lane:?} {seq} {}", state["inc"]);
            // Signed again or copied, a message has the same ciphertext.
            let content = Event::from_json(&row.event).unwrap().content;
            let known = said.insert(number.clone(), content.clone());
            assert!(known.is_none_or(|known| known == content), "{number}");
        }
    }

    /// The events a home has signed for one message, oldest first, if it was signed more than once.
    fn signed_again(&self, actor: usize, company: &Company) -> Vec<EventId> {
        let mut by_number: BTreeMap<_, Vec<EventId>> = BTreeMap::new();
        for row in self.sent(actor, company) {
            by_number.entry(row.lane).or_default().push(row.event_id);
        }
        by_number
            .into_values()
            .max_by_key(Vec::len)
            .filter(|events| events.len() > 1)
            .unwrap_or_default()
    }
}

impl Company {
    /// From now on `copy` plays the part of a member.
    pub(super) fn replace(&mut self, member: usize, copy: usize) {
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
        play.no_number_used_twice(&company, &[1, copy]);
        play.close().await;
    }
}

/// A message that nobody acknowledges is signed again after half an hour and before it expires. Its author forgets the
/// rows of what was delivered, starts again and reads all of it from the relay: it is nobody's but its own.
#[tokio::test]
async fn what_was_signed_again_or_is_old_is_no_other_copys() {
    let parts = parts(3);
    let clock = Arc::clone(&parts[1].ahead);
    let mut play = Play::with_parts(&parts).await;
    let mut company = play.found(CohortBeacon::Smt, 0, &[1, 2]).await;
    let dids = play.create_dids(&mut company, &[1, 2]).await;
    play.round(&mut company, &dids).await;
    play.stage.mine(5).unwrap();
    play.stage.stop(0).await.unwrap();
    let queued = play.queued(&company, 0).await;

    for (hours, times) in [(1, 2), (59 * 24, 3)] {
        eventually("the relay's answer", || {
            play.sent(1, &company)
                .iter()
                .all(|row| row.done || row.state.contains(r#""published":true"#))
        })
        .await;
        let now = clock.fetch_add(hours * HOUR, Ordering::Relaxed);
        assert!(now >= 0);
        eventually("a message to be signed again", || {
            play.signed_again(1, &company).len() >= times
        })
        .await;
        play.stage.stop(1).await.unwrap();
        play.resume(&[1]).await;
    }
    clock.store(0, Ordering::Relaxed);
    play.stage.stop(1).await.unwrap();
    let again = play.signed_again(1, &company);
    let served: BTreeSet<EventId> = {
        let directed = play.stage.relay.stored(&Filter::kind(KIND_DIRECTED));
        directed.iter().map(|event| event.id).collect()
    };
    assert!(again.iter().all(|event| served.contains(event)));
    // Long after: what was delivered is not kept any more, but relays are slow to forget.
    let path = play.stage.actors[1].home.store_path();
    let pruned = Store::open(&path)
        .unwrap()
        .transaction::<_, StoreError>(|tx| {
            tx.prune_outbox(system_clock()().plus(10 * 365 * 86_400))
        })
        .unwrap();
    assert!(pruned > 3, "{pruned}");
    let kept: BTreeSet<EventId> = {
        let kept = play.sent(1, &company);
        kept.iter().map(|row| row.event_id).collect()
    };
    assert!(!kept.contains(&again[0]) && kept.contains(again.last().unwrap()));

    let mark = play.mark();
    play.resume(&[1]).await;
    play.resume(&[0]).await;
    let updates = BTreeMap::from([(queued.did.to_string(), queued.hash)]);
    let round = play.open_round(&mut company).await;
    play.finish_round(&mut company, round, mark, updates).await;
    let alarmed = play.seen[mark..]
        .iter()
        .any(|(_, event)| matches!(event.what, What::AnotherCopy { .. }));
    assert!(!alarmed);
    play.close().await;
}

/// Copied by hand, both used the same numbers while neither heard the other: that is proof as well.
#[tokio::test]
async fn one_number_for_two_messages_is_another_copy() {
    let dir = tempfile::tempdir().unwrap();
    let mut play = Play::with_parts(&parts(3)).await;
    let mut company = play.found(CohortBeacon::Cas, 0, &[1, 2]).await;
    let dids = play.create_dids(&mut company, &[1, 2]).await;
    play.stage.stop(0).await.unwrap();
    let twin_home = play.copy_by_hand(0, &dir.path().join("twin"));
    play.resume(&[0]).await;
    play.round(&mut company, &dids).await;
    play.stage.stop(0).await.unwrap();
    let mark = play.mark();
    let last = |rows: &[OutboxRow]| {
        let mut last = BTreeMap::new();
        for (lane, seq) in rows.iter().filter_map(|row| row.lane) {
            let known = last.entry(lane).or_insert(seq);
            *known = seq.max(*known);
        }
        last
    };
    let original = last(&play.sent(0, &company));

    // The twin hears nothing, and goes on to say as much as the original did, and other things.
    play.stage
        .relay
        .set_faults(|faults| faults.close = Some("error: not now".into()));
    let twin = play.stage.enter_again("twin", &twin_home, part()).unwrap();
    loop {
        play.ask(twin, |agent| agent.announce_relays()).await;
        let said = last(&play.sent(twin, &company));
        if original
            .iter()
            .all(|(lane, seq)| said.get(lane) >= Some(seq))
        {
            break;
        }
    }
    play.forgiving = true;
    play.stage.relay.set_faults(|faults| faults.close = None);
    play.stops_for_a_copy(twin, mark).await;
    let sighting = takeover(&twin_home).unwrap().seen.unwrap();
    assert_eq!(sighting.inc, sighting.ours);
    play.close().await;
}

/// The original announced an update that the backup does not have, in a round that is not over. No chain shows it.
#[tokio::test]
async fn an_update_that_only_the_relays_know_of_holds_others_back() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let dir = tempfile::tempdir().unwrap();
        let parts = parts(4);
        let clock = Arc::clone(&parts[0].ahead);
        let mut play = Play::with_parts(&parts).await;
        let mut company = play.found(beacon, 0, &[1, 2, 3]).await;
        let dids = play.create_dids(&mut company, &[1, 2, 3]).await;
        play.round(&mut company, &dids).await;
        play.stage.mine(5).unwrap();
        let backup = play.copy_home(1, dir.path());
        let mark = play.mark();
        play.queued(&company, 0).await;
        play.stage.kill(3).await.unwrap();
        play.open_round(&mut company).await;
        play.responses(&company, mark, 2).await;
        play.stage.stop(1).await.unwrap();

        play.expects_trouble = true;
        let copy = play.enter_restored(&backup, &dir.path().join("copy")).await;
        company.replace(1, copy);
        let refused = loop {
            let refused = play.try_queue(&company, 0).await.unwrap_err().to_string();
            if refused.contains("former copy announced") {
                break refused;
            }
            tokio::time::sleep(POLL).await;
        };
        assert!(refused.contains("round 2 of cohort"), "{refused}");
        // It remembers.
        play.stage.stop(copy).await.unwrap();
        play.resume(&[copy]).await;
        let refused = play.try_queue(&company, 0).await.unwrap_err().to_string();
        assert!(refused.contains("former copy announced"), "{refused}");
        // Another DID's updates are not held back.
        play.queued(&company, 1).await;

        // The round ends without the third; a later signal that spends what that one would have makes it void.
        clock.store(13 * HOUR, Ordering::Relaxed);
        let id = company.id;
        let failed = |report: &Report| matches!(report, Report::RoundFailed { .. });
        play.reported("the round's end", mark, id, Role::Aggregator, &[0], failed)
            .await;
        play.resume(&[3]).await;
        let mark = play.mark();
        let round = play.open_round(&mut company).await;
        play.broadcast(&company, round, mark).await;
        play.stage.mine(1).unwrap();
        while let Err(why) = play.try_queue(&company, 0).await {
            assert!(why.to_string().contains("former copy announced"), "{why}");
            tokio::time::sleep(POLL).await;
        }
        play.no_nonce_signed_twice(&company, &[1, copy]);
        play.no_number_used_twice(&company, &[1, copy]);
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
    let twin_home = play.copy_by_hand(1, &dir.path().join("twin"));
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

/// Rounds were held since the aggregator's backup. Its members show it what they keep of them.
#[tokio::test]
async fn a_restored_aggregator_can_prove_again_what_was_announced_since() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let dir = tempfile::tempdir().unwrap();
        let mut play = Play::with_parts(&parts(3)).await;
        let mut company = play.found(beacon, 0, &[1, 2]).await;
        let dids = play.create_dids(&mut company, &[1, 2, 2]).await;
        play.round(&mut company, &dids).await;
        let backup = play.copy_home(0, dir.path());
        play.round(&mut company, &dids[..2]).await;
        play.round(&mut company, &dids[1..]).await;
        play.stage.stop(0).await.unwrap();

        // It says that it does not know these spends.
        play.forgiving = true;
        let (mark, id) = (play.mark(), company.id);
        let copy = play.enter_restored(&backup, &dir.path().join("copy")).await;
        company.aggregator = copy;
        company.rounds = 1 + 1_000;
        company.forgotten.extend([Round(2), Round(3)]);
        for of in [Round(2), Round(3)] {
            let explained = |report: &Report| matches!(report, Report::SignalExplained { round, .. } if *round == of);
            play.reported(
                "the proofs of a round",
                mark,
                id,
                Role::Aggregator,
                &[copy],
                explained,
            )
            .await;
        }
        let provable = |actor: usize| {
            let artifacts = play.file(actor).view().artifacts_of_cohort(id, Round(1));
            let proving = [ArtifactKind::LeafSet, ArtifactKind::CasAnnouncement];
            let artifacts = artifacts.unwrap().into_iter();
            let artifacts = artifacts.filter(|artifact| proving.contains(&artifact.key.kind));
            artifacts
                .map(|artifact| (artifact.key, artifact.txid))
                .collect::<Vec<_>>()
        };
        assert_eq!(provable(0).len(), 3);
        assert_eq!(provable(copy), provable(0));
        play.round(&mut company, &dids).await;
        play.all_resolve(&company).await;
        play.close().await;
    }
}
