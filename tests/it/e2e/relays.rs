//! Relays that are dead, refuse, repeat themselves or hold back.

use std::time::Duration;

use btcr2_agent::demo::stage::Part;
use btcr2_agent::nostr::RelayUrl;
use btcr2_agent::nostr::event::{KIND_ADVERT, KIND_DIRECTED};
use btcr2_agent::nostr::filter::Filter;
use btcr2_agent::nostr::link::RelayConfig;
use btcr2_agent::nostr::relay::DevRelay;
use btcr2_agent::protocol::terms::CohortBeacon;

use super::company::Company;
use super::play::{POLL, Play};

async fn another_relay() -> DevRelay {
    DevRelay::start("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap()
}

/// An address nobody listens on.
async fn dead_url() -> RelayUrl {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    RelayUrl::parse(&format!("ws://{}", listener.local_addr().unwrap())).unwrap()
}

fn part_on(urls: &[&RelayUrl]) -> Part {
    let mut part = Part::new(POLL);
    let configured = |url: &&RelayUrl| RelayConfig::configured((*url).clone());
    part.relays = urls.iter().map(configured).collect();
    part
}

/// Two rounds with a DID that comes in between and needs the history.
async fn two_rounds(play: &mut Play, beacon: CohortBeacon, members: &[usize]) -> Company {
    let mut company = play.found(beacon, 0, members).await;
    let dids = play.create_dids(&mut company, members).await;
    play.round(&mut company, &dids[..1]).await;
    let late = play.create_dids(&mut company, &members[..1]).await;
    play.round(&mut company, &[dids[1], late[0]]).await;
    company
}

/// Of three relays one is dead and one refuses everything, in both directions.
#[tokio::test]
async fn one_relay_of_three_is_enough() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut play = Play::empty().await;
        let (dead, refusing) = (dead_url().await, another_relay().await);
        refusing.set_faults(|faults| {
            faults.refuse = Some("blocked: not on this relay".into());
            faults.close = Some("restricted: not from this relay".into());
        });
        let good = play.stage.relay.url().clone();
        for _ in 0..3 {
            play.enter(part_on(&[&dead, refusing.url(), &good]));
        }
        play.connected(0..3).await;
        two_rounds(&mut play, beacon, &[1, 2]).await;
        let counts = refusing.counts();
        assert!(counts.events_in > 0, "it was tried");
        assert_eq!((counts.events_taken, counts.events_out), (0, 0));
        play.close().await;
    }
}

/// No relay has everybody: each member shares another one with the aggregator.
#[tokio::test]
async fn members_on_different_relays() {
    let mut play = Play::empty().await;
    let (here, there) = (play.stage.relay.url().clone(), another_relay().await);
    play.enter(part_on(&[&here, there.url()]));
    play.enter(part_on(&[&here]));
    play.enter(part_on(&[there.url()]));
    play.connected(0..3).await;
    two_rounds(&mut play, CohortBeacon::Smt, &[1, 2]).await;
    assert!(there.counts().events_taken > 0);
    play.close().await;
}

/// Everything comes ten times, and between the rounds everything old comes once more.
#[tokio::test]
async fn a_relay_that_repeats_everything() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut play = Play::open(3).await;
        play.stage.relay.set_faults(|faults| faults.repeat = 9);
        let mut company = play.found(beacon, 0, &[1, 2]).await;
        let dids = play.create_dids(&mut company, &[1, 2]).await;
        play.round(&mut company, &dids[..1]).await;
        for kind in [KIND_DIRECTED, KIND_ADVERT] {
            for event in play.stage.relay.stored(&Filter::kind(kind)) {
                play.stage.relay.inject(&event);
            }
        }
        play.round(&mut company, &dids[1..]).await;
        let counts = play.stage.relay.counts();
        assert!(counts.events_out >= 10 * counts.events_taken);
        play.close().await;
    }
}

/// Nothing arrives live; what is stored is read again and again.
#[tokio::test]
async fn a_relay_without_live_delivery() {
    let mut part = Part::new(POLL);
    part.timings.reconcile = Duration::from_millis(100);
    let mut play = Play::with_parts(&vec![part; 3]).await;
    play.stage.relay.set_faults(|faults| faults.no_live = true);
    two_rounds(&mut play, CohortBeacon::Smt, &[1, 2]).await;
    play.close().await;
}

/// Every connection is cut in mid-round, twice.
#[tokio::test]
async fn connections_that_are_cut() {
    let mut play = Play::open(3).await;
    let mut company = play.found(CohortBeacon::Cas, 0, &[1, 2]).await;
    let dids = play.create_dids(&mut company, &[1, 2]).await;
    let mark = play.mark();
    let updates = play.queue(&company, &dids).await;
    let round = play.open_round(&mut company).await;
    play.stage.relay.disconnect_all();
    play.responded(&company, mark, &[1]).await;
    play.stage.relay.disconnect_all();
    play.finish_round(&mut company, round, mark, updates).await;
    play.close().await;
}
