//! Who follows this aggregator.

use super::error::AgentError;
use super::runtime::Agent;
use crate::keys::NostrKey;
use crate::store::{MetaKey, Subscriber};
use crate::time::UnixTime;

/// Followers that said goodbye and whose earlier word may still come: relays serve the newest first. They are strangers,
/// so that their number has an end; who is forgotten here may be listed until it says goodbye again.
const MAX_GOODBYES: usize = 256;

/// When followers said goodbye, by their own numbers, oldest first.
const GOODBYES: MetaKey = MetaKey::new("goodbyes");

impl Agent {
    /// Somebody follows this aggregator, or stops. What it said later counts, in whatever order that comes: `said` is the
    /// number of its message, the time by its own clock.
    pub(super) fn subscribed(
        &mut self,
        from: NostrKey,
        on: bool,
        said: UnixTime,
    ) -> Result<(), AgentError> {
        let goodbyes = self.store.view().meta(GOODBYES)?;
        let goodbyes = goodbyes.and_then(|json| serde_json::from_str(&json).ok());
        let mut goodbyes: Vec<(NostrKey, UnixTime)> = goodbyes.unwrap_or_default();
        let known = goodbyes.iter().position(|(key, _)| *key == from);
        let later = known.and_then(|at| goodbyes.get(at));
        if later.is_some_and(|(_, later)| *later >= said) {
            return Ok(());
        }
        let most = self.service.max_subscribers;
        self.store.transaction::<_, AgentError>(|tx| {
            if let Some(at) = known {
                goodbyes.remove(at);
            }
            if on {
                tx.subscribe(
                    Subscriber {
                        key: from,
                        since: said,
                    },
                    most,
                )?;
            } else {
                tx.unsubscribe(from, said)?;
                if goodbyes.len() >= MAX_GOODBYES {
                    goodbyes.remove(0);
                }
                goodbyes.push((from, said));
            }
            if known.is_some() || !on {
                let json = serde_json::to_string(&goodbyes)
                    .map_err(|_| AgentError::Defect("goodbyes have no JSON"))?;
                tx.set_meta(GOODBYES, &json)?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::agent::AgentOptions;
    use crate::keys::OwnKey;

    fn agent(max_subscribers: u64) -> Agent {
        let mut options = AgentOptions::alone(Arc::new(|| UnixTime(1_800_000_000)));
        options.service.max_subscribers = max_subscribers;
        Agent::start(options).unwrap().0
    }

    fn key(n: u32) -> NostrKey {
        OwnKey::from_bytes(&crate::hash::tagged_hash("follower", &[&n.to_be_bytes()]))
            .unwrap()
            .public()
    }

    fn listed(agent: &Agent) -> Vec<NostrKey> {
        let rows = agent.store.view().subscribers().unwrap();
        rows.into_iter().map(|row| row.key).collect()
    }

    #[tokio::test]
    async fn the_last_word_counts_in_whatever_order_it_comes() {
        let words = [(10, true), (20, false), (30, true), (40, false)];
        let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 3, 1, 0]];
        for most in 1..=words.len() {
            for order in orders {
                let mut agent = agent(10);
                for at in order.into_iter().filter(|at| *at < most) {
                    let (said, on) = words[at];
                    agent.subscribed(key(1), on, UnixTime(said)).unwrap();
                }
                let follows = words[most - 1].1;
                let expected = if follows { vec![key(1)] } else { vec![] };
                assert_eq!(listed(&agent), expected, "{most} words, {order:?}");
            }
        }
    }

    #[tokio::test]
    async fn as_many_as_the_settings_say_and_goodbyes_are_bounded() {
        let mut agent = agent(3);
        for n in 0..5 {
            agent.subscribed(key(n), true, UnixTime(1)).unwrap();
        }
        assert_eq!(listed(&agent).len(), 3);
        for n in 0..400 {
            agent.subscribed(key(n), false, UnixTime(2)).unwrap();
        }
        assert_eq!(listed(&agent), []);
        let kept = agent.store.view().meta(GOODBYES).unwrap().unwrap();
        let kept: Vec<(NostrKey, UnixTime)> = serde_json::from_str(&kept).unwrap();
        assert_eq!(kept.len(), MAX_GOODBYES);
        // The last ones are known, and their earlier word counts for nothing.
        agent.subscribed(key(399), true, UnixTime(1)).unwrap();
        assert_eq!(listed(&agent), []);
        let mut agent = self::agent(0);
        agent.subscribed(key(1), true, UnixTime(1)).unwrap();
        assert_eq!(listed(&agent), []);
    }
}
