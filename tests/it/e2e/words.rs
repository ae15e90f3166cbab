//! A home that is lost, and made again out of its words alone.

use std::path::Path;

use btcr2_agent::agent::recovery::restore_words;
use btcr2_agent::agent::system_clock;
use btcr2_agent::config::Home;
use btcr2_agent::demo::stage::Part;
use btcr2_agent::keys::{RootSecret, keystore};
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::protocol::participant::Decline;
use btcr2_agent::protocol::terms::CohortBeacon;
use btcr2_agent::store::Role;

use super::play::{POLL, Play};

/// Never says "idle", so that every round becomes a signal.
fn part() -> Part {
    let mut part = Part::new(POLL);
    part.policy.decline = Decline::NoUpdate;
    part
}

impl Play {
    /// Makes a home out of the words of an agent that does not run any more, and starts it; gives its position.
    fn enter_by_words(&mut self, lost: usize, home: &Path) -> usize {
        let made = Home::locate(Some(home), None).unwrap();
        made.create().unwrap();
        let sealed = std::fs::read(self.stage.actors[lost].home.keystore_path()).unwrap();
        let text = String::from_utf8(sealed.clone()).unwrap();
        let root = keystore::open(&text, None).unwrap();
        let words = root.words().unwrap();
        let root = RootSecret::from_words(words.expose()).unwrap();
        restore_words(&made.store_path(), &root, &[], system_clock()()).unwrap();
        std::fs::write(made.keystore_path(), sealed).unwrap();
        self.stage.enter_again("words", home, part()).unwrap()
    }
}

/// Its DIDs were never updated, others' were. It comes back, explains every signal, updates its DID in the next round,
/// and nothing that it signed before is signed differently.
#[tokio::test]
async fn a_member_comes_back_by_its_words_alone() {
    for (beacon, by_identity) in [(CohortBeacon::Smt, false), (CohortBeacon::Cas, true)] {
        let dir = tempfile::tempdir().unwrap();
        let mut play = Play::with_parts(&[part(), part(), part()]).await;
        let seats: &[usize] = if by_identity { &[1] } else { &[] };
        let mut company = play.found_with(beacon, 0, &[1, 2], seats, |_| {}).await;
        // Key numbers with gaps: not all of them lead to this cohort.
        play.ask(1, |agent| {
            agent.create_external_did(btcr2_agent::network::Network::Regtest)
        })
        .await;
        let dids = play.create_dids(&mut company, &[1, 2, 1]).await;
        play.round(&mut company, &dids[1..2]).await;
        play.round(&mut company, &dids[1..2]).await;
        play.stage.stop(1).await.unwrap();

        let mark = play.mark();
        let words = play.enter_by_words(1, &dir.path().join("words"));
        let regained = |report: &Report| matches!(report, Report::SeatRegained { indexes: 2 });
        play.reported(
            "the seat",
            mark,
            company.id,
            Role::Participant,
            &[words],
            regained,
        )
        .await;
        while play.ask(words, |agent| Ok(agent.reads_former_copy())).await {
            tokio::task::yield_now().await;
        }
        company.replace(1, words);
        let verified = play.verify(words, true).await;
        assert_eq!(verified.dids.len(), 2, "{verified:#?}");
        for did in &verified.dids {
            assert_eq!(did.missing, [], "{verified:#?}");
        }
        play.all_resolve(&company).await;

        play.round(&mut company, &dids).await;
        play.all_resolve(&company).await;
        play.no_nonce_signed_twice(&company, &[1, words, 2]);
        play.no_number_used_twice(&company, &[1, words]);
        play.close().await;
    }
}
