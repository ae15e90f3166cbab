//! Whole agents over relays that lose, repeat, hold back and lie, in virtual time.
//!
//! One thread, and a paused clock that jumps to the next deadline whenever nothing is left to do: hours
//! of waiting take seconds, nothing sleeps, and what relays do wrong is thrown with a seed. All waiting
//! times are those of a real agent.

use std::sync::Arc;
use std::time::Duration;

use btcr2_agent::agent::control::Backend as _;
use btcr2_agent::agent::control::request::{CohortRef, NoArgs, ShowCohort};
use btcr2_agent::agent::control::views::StatusView;
use btcr2_agent::agent::{AgentBackend, Clock};
use btcr2_agent::config::Config;
use btcr2_agent::demo::stage::Part;
use btcr2_agent::network::Network;
use btcr2_agent::nostr::Filter;
use btcr2_agent::nostr::event::KIND_ADVERT;
use btcr2_agent::nostr::link::RelayConfig;
use btcr2_agent::nostr::relay::{DevRelay, Faults, RelayOptions};
use btcr2_agent::nostr::relay_list::KIND_RELAY_LIST;
use btcr2_agent::protocol::terms::{CohortBeacon, Salt, Terms};
use btcr2_agent::time::UnixTime;
use tokio::time::Instant;

use super::play::Play;

/// Longer than any one step takes; half of what rounds allow.
const PATIENCE: Duration = Duration::from_secs(6 * 3_600);

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

/// So many agents over these relays.
async fn agents(clock: &Clock, relays: &[&DevRelay], count: usize) -> Play {
    let mut play = Play::empty().await;
    play.patience = PATIENCE;
    play.stage.clock = clock.clone();
    // The client measures this by the true time.
    play.stage.chain_timeout = Duration::from_secs(30 * 86_400);
    let mut part = Part::new(POLL);
    part.describe_relays = true;
    part.relays = relays
        .iter()
        .map(|relay| RelayConfig::configured(relay.url().clone()))
        .collect();
    for _ in 0..count {
        play.enter(part.clone());
    }
    play.connected(0..count).await;
    play
}

/// A cohort of an aggregator and two members, two rounds, over these relays.
async fn two_rounds(clock: &Clock, relays: &[&DevRelay], beacon: CohortBeacon) {
    let mut play = agents(clock, relays, 3).await;
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

/// One relay of three is honest, as far as the storm lets it.
async fn weathered(seed: u64, beacon: CohortBeacon) {
    let clock = clock();
    let honest = relay(&clock, seed, storm()).await;
    let liar = Faults {
        forget: true,
        ..storm()
    };
    let liar = relay(&clock, seed + 100, liar).await;
    let hostile = Faults {
        refuse_kinds: vec![8327],
        close: Some(
            "ERROR: auth-required: relay needs serviceUrl to be configured before AUTH can work"
                .into(),
        ),
        clock_ahead: 7_200,
        window: Some((900, 900)),
        ..storm()
    };
    let hostile = relay(&clock, seed + 200, hostile).await;
    let began = Instant::now();
    two_rounds(&clock, &[&hostile, &liar, &honest], beacon).await;
    let counts = honest.counts();
    println!(
        "seed {seed}: {} s of virtual time, honest relay {counts:?}",
        began.elapsed().as_secs()
    );
    assert!(counts.lost > counts.events_taken / 4, "{counts:?}");
    assert!(
        counts.events_out >= 9 * counts.events_taken / 2,
        "{counts:?}"
    );
    assert_eq!(
        liar.counts().events_taken + hostile.counts().events_taken,
        0
    );
    assert!(liar.counts().events_in > 0 && hostile.counts().events_in > 0);
}

#[tokio::test(start_paused = true)]
async fn one_honest_relay_of_three_carries_a_tree_through_a_storm() {
    weathered(1, CohortBeacon::Smt).await;
}

#[tokio::test(start_paused = true)]
async fn one_honest_relay_of_three_carries_a_map_through_a_storm() {
    weathered(2, CohortBeacon::Cas).await;
}

/// What an agent's operator is shown.
async fn status(backend: &AgentBackend) -> StatusView {
    backend.status(NoArgs {}).await.unwrap()
}

/// Waits, in virtual time, until the status is what is waited for.
async fn shown(
    backend: &AgentBackend,
    what: &str,
    condition: impl Fn(&StatusView) -> bool,
) -> StatusView {
    let search = async {
        loop {
            let view = status(backend).await;
            if condition(&view) {
                return view;
            }
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, search)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Of four relays one refuses adverts and one says OK and forgets; two have another time.
#[tokio::test(start_paused = true)]
async fn adverts_are_read_back_and_sent_again_to_relays_that_lost_them() {
    let clock = clock();
    let honest = relay(&clock, 1, Faults::default()).await;
    let wrong = Faults {
        clock_ahead: 7_200,
        ..Faults::default()
    };
    let liar = relay(
        &clock,
        2,
        Faults {
            forget: true,
            ..wrong.clone()
        },
    )
    .await;
    let refusing = relay(
        &clock,
        3,
        Faults {
            refuse_kinds: vec![KIND_ADVERT],
            ..wrong
        },
    )
    .await;
    let play = agents(&clock, &[&honest, &liar, &refusing], 1).await;
    let actor = &play.stage.actors[0];
    let backend = AgentBackend::new(actor.handle.clone(), actor.home.clone(), Config::default());
    let cohort = play
        .ask(0, |agent| {
            let terms = Terms::with_defaults(
                agent.identity_key(),
                Network::Regtest,
                CohortBeacon::Smt,
                Salt::from_bytes([7; 16]),
                agent.time().plus(7 * 86_400),
            );
            agent.create_cohort(terms, Vec::new())
        })
        .await;
    let checked = |view: &StatusView| view.adverts.iter().any(|a| a.checked_at.is_some());
    let view = shown(&backend, "an advert read back", checked).await;
    let advert = &view.adverts[0];
    assert_eq!(advert.cohort, cohort);
    assert_eq!((advert.served, advert.relays), (1, 3), "{advert:?}");
    let mut missing: Vec<&str> = advert.missing.iter().map(|m| &*m.url).collect();
    let mut expected = [liar.url().as_str(), refusing.url().as_str()];
    missing.sort_unstable();
    expected.sort_unstable();
    assert_eq!(missing, expected);
    let alarm = |view: &StatusView, code: &str| view.alarms.iter().any(|a| a.code == code);
    assert!(alarm(&view, "advert_not_served"));
    // Two of three relays agree about the time.
    assert!(alarm(&view, "clock_off"), "{:?}", view.alarms);
    let of = |view: &StatusView, relay: &DevRelay| {
        let relays = view.relays.iter();
        let mut found = relays.filter(|shown| shown.url == relay.url().as_str());
        found.next().cloned().unwrap()
    };
    let ahead = |relay: &DevRelay| of(&view, relay).clock_ahead_s.unwrap();
    assert!(ahead(&honest).abs() < 30 && (ahead(&liar) - 7_200).abs() < 30);
    assert!(of(&view, &honest).limits.unwrap().message_bytes.is_some());
    assert!(of(&view, &refusing).refused > 0);

    // `cohort show` says the same.
    let shown_alone = |view: &StatusView| {
        let (backend, cohort, expected) = (backend.clone(), cohort, view.adverts[0].clone());
        async move {
            let one = cohort.to_string().parse::<CohortRef>().unwrap();
            let show = ShowCohort {
                cohort: one,
                rounds: None,
            };
            let shown = backend.cohort_show(show).await.unwrap();
            assert_eq!(shown.advert, Some(expected));
        }
    };
    shown_alone(&view).await;
    let health = of(&view, &liar).health.unwrap();
    assert!(health.last_worked.is_some() && health.counted_since.is_some());

    // The liar repents: at the next reading it is found to miss the advert, and gets it.
    liar.set_faults(|faults| faults.forget = false);
    let view = shown(&backend, "an advert at two relays", |view| {
        view.adverts[0].served == 2
    })
    .await;
    assert!(!alarm(&view, "advert_not_served"));
    // Where it reads and writes is public too (NIP-65).
    let lists = honest.stored(&Filter::kind(KIND_RELAY_LIST));
    assert_eq!(lists.len(), 1);
    let listed = lists[0].tags_named("r").count();
    assert_eq!((listed, lists[0].author), (3, actor.handle.identity()));
    let adverts = liar.stored(&Filter::kind(KIND_ADVERT));
    assert_eq!(adverts, honest.stored(&Filter::kind(KIND_ADVERT)));
    assert_eq!(adverts.len(), 1);
    play.close().await;
}
