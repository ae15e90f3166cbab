//! A cohort's traffic in one process.

use super::*;
use btcr2_agent::nostr::seal::ChannelKey;
use std::time::Instant;

/// One channel message to all, one answer by each, over and over: what a round does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_links_in_one_process_share_a_round() {
    let members: u8 = 40;
    let relay = relay().await;
    let channel = ChannelKey::generate();
    let aggregator = key(200);
    let (hub, mut hub_events) = connect(&[relay.url()], fast());
    hub.set_inbox(&[aggregator.public()], now().minus(60));
    live(&mut hub_events).await;
    let mut links = Vec::new();
    for i in 1..=members {
        let (link, mut events) = connect(&[relay.url()], fast());
        link.set_inbox(&[key(i).public(), channel.public()], now().minus(60));
        live(&mut events).await;
        links.push((link, events));
    }
    let keys = ConversationKeys::new();
    let started = Instant::now();
    for post in 0..3 {
        let text = format!("post {post}");
        let event = keys
            .seal_channel(
                &aggregator,
                channel.public(),
                text.as_bytes(),
                now(),
                now().plus(600),
            )
            .unwrap();
        hub.publish(&event).unwrap();
        for ((link, events), i) in links.iter_mut().zip(1..) {
            let received = next_event(events).await;
            assert_eq!(
                keys.open_channel(&channel, aggregator.public(), &received)
                    .unwrap(),
                text.as_bytes()
            );
            link.publish(&seal(&key(i), aggregator.public(), &text))
                .unwrap();
        }
        let mut answered = std::collections::BTreeSet::new();
        while answered.len() < usize::from(members) {
            answered.insert(next_event(&mut hub_events).await.author);
        }
    }
    let counts = relay.counts();
    assert_eq!(counts.events_taken, 3 * (1 + u64::from(members)));
    assert_eq!(counts.events_out, 2 * 3 * u64::from(members));
    println!(
        "{members} members, 3 posts and answers: {:?}, {counts:?}",
        started.elapsed()
    );
}
