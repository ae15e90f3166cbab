//! Probing relays that are good in different ways.

use super::*;
use btcr2_agent::agent::backend::probing::{Left, probe};
use btcr2_agent::agent::control::request::ProbeRelays;
use btcr2_agent::agent::control::views::ProbeView;
use btcr2_agent::nostr::EventId;

async fn tried(relays: &[&RelayUrl], left: &[Left]) -> (Vec<ProbeView>, Vec<Left>) {
    let args = ProbeRelays {
        urls: relays.iter().map(|url| url.to_string()).collect(),
        timeout_s: Some(3),
    };
    let (view, left) = probe(&[], &args, left, now()).await.unwrap();
    (view.relays, left)
}

fn kinds(view: &ProbeView) -> Vec<(u16, Option<bool>, Option<bool>)> {
    let kinds = view.kinds.iter();
    kinds.map(|k| (k.kind, k.taken, k.served)).collect()
}

#[tokio::test]
async fn a_probe_tells_what_relays_take_serve_and_keep() {
    let (good, picky, liar) = (relay().await, relay().await, relay().await);
    picky.set_faults(|faults| {
        faults.refuse_kinds = vec![38327];
        faults.max_bytes = Some(20_000);
        faults.clock_ahead = 3_600;
    });
    liar.set_faults(|faults| faults.forget = true);
    let dead = dead_url().await;
    let all = [good.url(), picky.url(), liar.url(), &dead];
    let (views, left) = tried(&all, &[]).await;

    let yes = |kind| (kind, Some(true), Some(true));
    assert_eq!(kinds(&views[0]), [yes(8327), yes(38327), yes(8327)]);
    assert!(views[0].kinds[2].bytes > 50_000 && views[0].kinds[2].bytes <= 65_536);
    assert_eq!(
        (views[0].wrote, views[0].read_back),
        (Some(true), Some(true))
    );
    assert!(views[0].connect_ms.is_some() && views[0].answer_ms.is_some());
    assert!(views[0].notes.is_empty(), "{:?}", views[0].notes);
    assert!(views[0].clock_ahead_s.unwrap().abs() < 30);
    assert_eq!(views[0].kept, None);

    let no = |kind| (kind, Some(false), None);
    assert_eq!(kinds(&views[1]), [yes(8327), no(38327), no(8327)]);
    assert!((3_570..=3_630).contains(&views[1].clock_ahead_s.unwrap()));
    let most = views[1].limits.unwrap().message_bytes.unwrap();
    assert!((20_000..21_000).contains(&most));
    let notes = format!("{:?}", views[1].notes);
    assert!(
        notes.contains("38327: blocked") && notes.contains("too large"),
        "{notes}"
    );

    let hidden = |kind| (kind, Some(true), Some(false));
    assert_eq!(
        kinds(&views[2]),
        [hidden(8327), hidden(38327), hidden(8327)]
    );
    assert_eq!(views[2].read_back, Some(false));

    assert_eq!((views[3].connect_ms, views[3].wrote), (None, None));
    assert!(!views[3].notes.is_empty());

    // What was left is asked for by the next probe, and stays as long as it is served.
    let urls: Vec<&RelayUrl> = left.iter().map(|left| &left.url).collect();
    assert_eq!(urls, [good.url(), picky.url(), liar.url()]);
    let earlier: Vec<Left> = left
        .into_iter()
        .map(|left| Left {
            at: left.at.minus(86_400),
            ..left
        })
        .collect();
    let (views, left) = tried(&[good.url(), liar.url()], &earlier).await;
    let kept = views[0].kept.unwrap();
    assert!(kept.served);
    assert_eq!(kept.since, earlier[0].at);
    assert!(!views[1].kept.unwrap().served);
    assert_eq!(left.len(), 1, "only where the former one is gone");
    assert_eq!(&left[0].url, liar.url());

    // A relay that lost it says so.
    let lost = Left {
        url: good.url().clone(),
        event: EventId::from_bytes([9; 32]),
        at: now().minus(60),
    };
    let (views, left) = tried(&[good.url()], &[lost]).await;
    assert!(!views[0].kept.unwrap().served);
    assert_eq!(left.len(), 1);
}

#[tokio::test]
async fn a_probe_tells_what_relays_demand() {
    let (work, members) = (relay().await, relay().await);
    work.set_faults(|faults| faults.pow = 28);
    members.set_faults(|faults| faults.require_auth = true);
    let (views, left) = tried(&[work.url(), members.url()], &[]).await;
    assert_eq!((views[0].wants_pow, views[0].wrote), (28, Some(false)));
    assert_eq!((views[1].wants_auth, views[1].wrote), (true, Some(false)));
    assert_eq!(left, []);
}
