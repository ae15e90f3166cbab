//! Whole agents over relays that lose, repeat, hold back and lie, in virtual time.
//!
//! One thread, and a paused clock that jumps to the next deadline whenever nothing is left to do: hours
//! of waiting take seconds, nothing sleeps, and what relays do wrong is thrown with a seed. All waiting
//! times are those of a real agent.

use std::sync::Arc;
use std::time::Duration;

use btcr2_agent::agent::Clock;
use btcr2_agent::demo::stage::Part;
use btcr2_agent::nostr::link::RelayConfig;
use btcr2_agent::nostr::relay::{DevRelay, Faults, RelayOptions};
use btcr2_agent::protocol::terms::CohortBeacon;
use btcr2_agent::time::UnixTime;
use tokio::time::Instant;

use super::play::Play;

/// A day: rounds fail by themselves long before.
const PATIENCE: Duration = Duration::from_secs(86_400);

/// How often agents look at the chain. Each look is a request, and here they are hours of requests.
const POLL: Duration = Duration::from_secs(60);

/// The virtual time.
fn clock() -> Clock {
    let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let (base, start) = (started.unwrap().as_secs(), Instant::now());
    Arc::new(move || UnixTime(base + start.elapsed().as_secs()))
}

async fn relay(clock: &Clock, seed: u64, faults: Faults) -> DevRelay {
    let options = RelayOptions {
        clock: clock.clone(),
        seed,
    };
    let relay = DevRelay::start_with("127.0.0.1:0".parse().unwrap(), options)
        .await
        .unwrap();
    relay.set_faults(|own| *own = faults);
    relay
}

/// Half of everything is lost, what arrives arrives ten times and out of order.
fn storm() -> Faults {
    Faults {
        lose_in: 50,
        lose_out: 50,
        repeat: 9,
        delay: Some((Duration::ZERO, Duration::from_secs(120))),
        shuffle: true,
        ..Faults::default()
    }
}

/// A cohort of an aggregator and two members, two rounds, over these relays.
async fn two_rounds(clock: &Clock, relays: &[&DevRelay], beacon: CohortBeacon) {
    let mut play = Play::empty().await;
    play.patience = PATIENCE;
    play.stage.clock = clock.clone();
    // The client measures this by the true time.
    play.stage.chain_timeout = Duration::from_secs(30 * 86_400);
    let mut part = Part::new(POLL);
    part.relays = relays
        .iter()
        .map(|relay| RelayConfig::configured(relay.url().clone()))
        .collect();
    for _ in 0..3 {
        play.enter(part.clone());
    }
    play.connected(0..3).await;
    let mut company = play
        .found_with(beacon, 0, &[1, 2], &[], |terms| {
            terms.join_by = terms.join_by.plus(86_400);
        })
        .await;
    let dids = play.create_dids(&mut company, &[1, 2]).await;
    play.round(&mut company, &dids[..1]).await;
    play.round(&mut company, &dids[1..]).await;
    play.close().await;
}

#[tokio::test(start_paused = true)]
async fn one_honest_relay_of_three_through_a_storm() {
    for (seed, beacon) in [(1, CohortBeacon::Smt), (2, CohortBeacon::Cas)] {
        let clock = clock();
        let honest = relay(&clock, seed, storm()).await;
        let liar = relay(
            &clock,
            seed + 100,
            Faults {
                forget: true,
                ..storm()
            },
        )
        .await;
        let hostile = relay(
            &clock,
            seed + 200,
            Faults {
                refuse_kinds: vec![8327],
                close: Some("ERROR: auth-required: relay needs serviceUrl to be configured before AUTH can work".into()),
                clock_ahead: 7_200,
                window: Some((900, 900)),
                ..storm()
            },
        )
        .await;
        let began = Instant::now();
        two_rounds(&clock, &[&hostile, &liar, &honest], beacon).await;
        let counts = honest.counts();
        println!(
            "seed {seed}: {} s of virtual time, honest relay {counts:?}",
            began.elapsed().as_secs()
        );
        assert!(counts.lost > counts.events_taken / 4, "{counts:?}");
        assert!(counts.events_out >= 9 * counts.events_taken / 2, "{counts:?}");
        assert_eq!(liar.counts().events_taken + hostile.counts().events_taken, 0);
        assert!(liar.counts().events_in > 0 && hostile.counts().events_in > 0);
    }
}
