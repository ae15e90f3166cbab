//! Probing relays that are good in different ways.

use super::*;
use btcr2_agent::agent::backend::probing::{Found, probe};
use btcr2_agent::agent::control::request::ProbeRelays;
use btcr2_agent::agent::control::views::ProbeView;
use btcr2_agent::agent::relay_health::RelayRecord;
use btcr2_agent::nostr::EventId;

async fn tried(relays: &[&RelayUrl], known: &[RelayRecord]) -> (Vec<ProbeView>, Vec<Found>) {
    let args = ProbeRelays {
        urls: relays.iter().map(|url| url.to_string()).collect(),
        timeout_s: Some(3),
    };
    let (view, found) = probe(&[], &args, known, now()).await.unwrap();
    (view.relays, found)
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
    let (views, found) = tried(&all, &[]).await;

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
    let urls = found.iter().filter(|found| found.left.is_some());
    let urls: Vec<&RelayUrl> = urls.map(|found| &found.url).collect();
    assert_eq!(urls, [good.url(), picky.url(), liar.url()]);
    let yesterday = now().minus(86_400);
    let remembered = |found: &Found| {
        let mut known = RelayRecord::new(found.url.clone());
        found.keep(&mut known, yesterday);
        known
    };
    let earlier: Vec<RelayRecord> = found.iter().map(remembered).collect();
    // What was measured is remembered too, and that the last one is down.
    assert!(earlier[0].detail.answer_ms.is_some() && earlier[1].detail.limits.is_some());
    assert_eq!(earlier[0].row().last_ok, Some(yesterday));
    assert_eq!(earlier[3].row().failures_in_row, 1);
    assert!(!earlier[3].row().reason.as_deref().unwrap().is_empty());
    let (views, found) = tried(&[good.url(), liar.url()], &earlier).await;
    let kept = views[0].kept.unwrap();
    assert!(kept.served);
    assert_eq!(kept.since, yesterday);
    assert!(!views[1].kept.unwrap().served);
    let before = views[0].before.clone().unwrap();
    assert_eq!(before.last_worked, Some(yesterday));
    let left: Vec<bool> = found.iter().map(|found| found.left.is_some()).collect();
    assert_eq!(left, [false, true], "only where the former one is gone");

    // A relay that lost it says so.
    let mut lost = RelayRecord::new(good.url().clone());
    lost.detail.left = Some((EventId::from_bytes([9; 32]), now().minus(60)));
    let (views, found) = tried(&[good.url()], &[lost]).await;
    assert!(!views[0].kept.unwrap().served);
    assert!(found[0].left.is_some());
}

#[tokio::test]
async fn a_probe_tells_what_relays_demand() {
    let (work, members) = (relay().await, relay().await);
    work.set_faults(|faults| faults.pow = 28);
    members.set_faults(|faults| faults.require_auth = true);
    let (views, found) = tried(&[work.url(), members.url()], &[]).await;
    assert_eq!((views[0].wants_pow, views[0].wrote), (28, Some(false)));
    assert_eq!((views[1].wants_auth, views[1].wrote), (true, Some(false)));
    assert!(found.iter().all(|found| found.left.is_none()));
}
