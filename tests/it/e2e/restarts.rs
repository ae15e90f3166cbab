//! Agents that stop, die and come back, between rounds and in the middle of one.
//!
//! A round is held where a test wants it by a member that is not there: it was stopped before, and comes
//! back when the others have got so far.

use std::collections::BTreeMap;

use btcr2_agent::agent::What;
use btcr2_agent::hash::UpdateHash;
use btcr2_agent::protocol::Round;
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::protocol::terms::CohortBeacon;
use btcr2_agent::store::{Role, StoreError};

use super::company::Company;
use super::play::{Play, eventually};

const MEMBERS: [usize; 3] = [1, 2, 3];

struct Held {
    play: Play,
    company: Company,
    round: Round,
    mark: usize,
    updates: BTreeMap<String, UpdateHash>,
}

impl Held {
    /// A round that the aggregator and members 1 and 2 have got as far as possible without member 3, who
    /// is not there.
    async fn without_the_third(beacon: CohortBeacon) -> Self {
        let mut play = Play::open(4).await;
        let mut company = play.found(beacon, 0, &MEMBERS).await;
        let dids = play.create_dids(&mut company, &MEMBERS).await;
        let mark = play.mark();
        let updates = play.queue(&company, &dids[..2]).await;
        play.stage.kill(3).await.unwrap();
        let round = play.open_round(&mut company).await;
        play.responses(&company, mark, 2).await;
        Self {
            play,
            company,
            round,
            mark,
            updates,
        }
    }

    /// A round in which all have responded and all but member 1 have signed; it is not there.
    async fn without_the_first_signature(beacon: CohortBeacon) -> Self {
        let mut held = Self::without_the_third(beacon).await;
        held.play.stage.kill(1).await.unwrap();
        held.play.resume(&[3]).await;
        let id = held.company.id;
        let two = |report: &Report| matches!(report, Report::PartialReceived { partials: 2, .. });
        held.play
            .reported("signatures", held.mark, id, Role::Aggregator, &[0], two)
            .await;
        held
    }

    /// Waits until the aggregator has taken a message of this type.
    async fn taken(&self, kind: &str) {
        let id = self.company.id;
        eventually(kind, || {
            let mut found = false;
            let store = self.play.file(0);
            let view = store.view();
            view.replay::<StoreError>(id, Role::Aggregator, |entry| {
                found |= entry.kind == kind;
                Ok(())
            })
            .unwrap();
            found
        })
        .await;
    }

    async fn signed(&mut self) {
        let (round, mark) = (self.round, self.mark);
        self.play.broadcast(&self.company, round, mark).await;
    }

    async fn finish(mut self) {
        let (round, mark) = (self.round, self.mark);
        self.play
            .finish_round(&mut self.company, round, mark, self.updates)
            .await;
        // And the beacon goes on.
        self.play.round(&mut self.company, &[2]).await;
        self.play.close().await;
    }

    /// Sessions of the round that were given up.
    fn lost_sessions(&self) -> usize {
        let lost = |what: &What| matches!(what, What::Report(Report::SessionLost { .. }));
        let seen = self.play.seen[self.mark..].iter();
        seen.filter(|(by, event)| *by == 0 && lost(&event.what))
            .count()
    }
}

/// Everybody stops in good order and starts again, between two rounds.
#[tokio::test]
async fn everybody_restarts_between_rounds() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut play = Play::open(3).await;
        let mut company = play.found(beacon, 0, &[1, 2]).await;
        let dids = play.create_dids(&mut company, &[1, 2]).await;
        play.round(&mut company, &dids[..1]).await;
        for actor in 0..3 {
            play.stage.stop(actor).await.unwrap();
        }
        play.check(&company);
        play.resume(&[2, 0, 1]).await;
        let late = play.create_dids(&mut company, &[1]).await;
        play.round(&mut company, &[dids[1], late[0]]).await;
        play.close().await;
    }
}

/// A member dies after its response, before anything is to be signed: it offers other nonces, and the
/// first session goes through with them.
#[tokio::test]
async fn a_member_dies_after_its_response() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut held = Held::without_the_third(beacon).await;
        held.play.stage.kill(1).await.unwrap();
        held.play.resume(&[1]).await;
        held.taken("nonce_update").await;
        held.play.resume(&[3]).await;
        held.signed().await;
        assert_eq!(held.lost_sessions(), 0);
        held.finish().await;
    }
}

/// A member dies after its response and comes back when the others have signed: its nonces are gone, and
/// a further session signs the same transaction.
#[tokio::test]
async fn a_member_misses_the_request_to_sign() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut held = Held::without_the_first_signature(beacon).await;
        held.play.resume(&[1]).await;
        held.signed().await;
        assert_eq!(held.lost_sessions(), 1);
        held.finish().await;
    }
}

/// The aggregator dies while responses are missing.
#[tokio::test]
async fn the_aggregator_dies_among_responses() {
    let mut held = Held::without_the_third(CohortBeacon::Smt).await;
    held.play.stage.kill(0).await.unwrap();
    held.play.resume(&[0]).await;
    held.play.resume(&[3]).await;
    held.finish().await;
}

/// The aggregator dies while a signature is missing.
#[tokio::test]
async fn the_aggregator_dies_among_signatures() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut held = Held::without_the_first_signature(beacon).await;
        held.play.stage.kill(0).await.unwrap();
        held.play.resume(&[1]).await;
        held.play.resume(&[0]).await;
        held.finish().await;
    }
}

/// Everybody dies while a signature is missing: power failure.
#[tokio::test]
async fn everybody_dies_among_signatures() {
    let mut held = Held::without_the_first_signature(CohortBeacon::Smt).await;
    for actor in [0, 2, 3] {
        held.play.stage.kill(actor).await.unwrap();
    }
    held.play.resume(&[1, 2, 3, 0]).await;
    held.finish().await;
}

/// A member and the aggregator are away from the broadcast until after the confirmation.
#[tokio::test]
async fn the_confirmation_is_seen_later() {
    let mut play = Play::open(3).await;
    let mut company = play.found(CohortBeacon::Smt, 0, &[1, 2]).await;
    let dids = play.create_dids(&mut company, &[1, 2]).await;
    let mark = play.mark();
    let updates = play.queue(&company, &dids).await;
    let round = play.open_round(&mut company).await;
    play.broadcast(&company, round, mark).await;
    play.stage.kill(0).await.unwrap();
    play.stage.kill(1).await.unwrap();
    let height = play.stage.mine(1).unwrap();
    play.resume(&[0, 1]).await;
    play.confirmed(&mut company, round, mark, height, updates)
        .await;
    play.round(&mut company, &dids[..1]).await;
    play.close().await;
}
