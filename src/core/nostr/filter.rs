//! What a client asks a relay for (NIP-01 filters).

use std::collections::BTreeMap;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::event::{Event, EventId};
use crate::keys::NostrKey;
use crate::time::UnixTime;

/// A NIP-01 filter: an event matches when it matches every field that is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Ids, any of which matches.
    pub ids: Option<Vec<EventId>>,
    /// Kinds, any of which matches.
    pub kinds: Option<Vec<u16>>,
    /// Authors, any of which matches.
    pub authors: Option<Vec<NostrKey>>,
    /// Per single-letter tag the values, any of which matches the first value of such a tag.
    pub tags: BTreeMap<char, Vec<String>>,
    /// Earliest `created_at`, inclusive.
    pub since: Option<UnixTime>,
    /// Latest `created_at`, inclusive.
    pub until: Option<UnixTime>,
    /// At most so many stored events, the newest first.
    pub limit: Option<usize>,
}

impl Filter {
    /// Events of one kind.
    #[must_use]
    pub fn kind(kind: u16) -> Self {
        Self {
            kinds: Some(vec![kind]),
            ..Self::default()
        }
    }

    /// Only events with one of `values` in a tag `letter`.
    #[must_use]
    pub fn tag<I, S>(mut self, letter: char, values: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: ToString,
    {
        let values = values.into_iter().map(|v| v.to_string()).collect();
        self.tags.insert(letter, values);
        self
    }

    /// Only events by one of `authors`.
    #[must_use]
    pub fn authors(mut self, authors: impl IntoIterator<Item = NostrKey>) -> Self {
        self.authors = Some(authors.into_iter().collect());
        self
    }

    /// Only events made at `time` or later.
    #[must_use]
    pub const fn since(mut self, time: UnixTime) -> Self {
        self.since = Some(time);
        self
    }

    /// Only events made at `time` or earlier.
    #[must_use]
    pub const fn until(mut self, time: UnixTime) -> Self {
        self.until = Some(time);
        self
    }

    /// At most `limit` stored events.
    #[must_use]
    pub const fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Whether `event` matches; `limit` plays no part.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        fn allows<T: PartialEq>(set: Option<&Vec<T>>, value: &T) -> bool {
            set.is_none_or(|values| values.contains(value))
        }
        allows(self.kinds.as_ref(), &event.kind)
            && self.since.is_none_or(|since| event.created_at >= since)
            && self.until.is_none_or(|until| event.created_at <= until)
            && allows(self.authors.as_ref(), &event.author)
            && allows(self.ids.as_ref(), &event.id)
            && self.tags.iter().all(|(letter, values)| {
                let mut name = [0; 4];
                let name: &str = letter.encode_utf8(&mut name);
                event
                    .tags_named(name)
                    .any(|value| values.iter().any(|wanted| wanted == value))
            })
    }
}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(ids) = &self.ids {
            map.serialize_entry("ids", ids)?;
        }
        if let Some(kinds) = &self.kinds {
            map.serialize_entry("kinds", kinds)?;
        }
        if let Some(authors) = &self.authors {
            map.serialize_entry("authors", authors)?;
        }
        for (letter, values) in &self.tags {
            map.serialize_entry(&format!("#{letter}"), values)?;
        }
        if let Some(since) = &self.since {
            map.serialize_entry("since", since)?;
        }
        if let Some(until) = &self.until {
            map.serialize_entry("until", until)?;
        }
        if let Some(limit) = &self.limit {
            map.serialize_entry("limit", limit)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FilterVisitor)
    }
}

struct FilterVisitor;

impl<'de> Visitor<'de> for FilterVisitor {
    type Value = Filter;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a NIP-01 filter")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Filter, A::Error> {
        let mut filter = Filter::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "ids" => filter.ids = Some(map.next_value()?),
                "kinds" => filter.kinds = Some(map.next_value()?),
                "authors" => filter.authors = Some(map.next_value()?),
                "since" => filter.since = Some(map.next_value()?),
                "until" => filter.until = Some(map.next_value()?),
                "limit" => filter.limit = Some(map.next_value()?),
                other => {
                    let mut letters = other.strip_prefix('#').unwrap_or_default().chars();
                    match (letters.next(), letters.next()) {
                        (Some(letter), None) if letter.is_ascii_alphabetic() => {
                            filter.tags.insert(letter, map.next_value()?);
                        }
                        _ => {
                            return Err(serde::de::Error::custom(format!(
                                "unsupported filter field {other:?}"
                            )));
                        }
                    }
                }
            }
        }
        Ok(filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::OwnKey;
    use crate::nostr::event::EventDraft;

    #[test]
    fn every_field_narrows() {
        let key = OwnKey::from_bytes(&[5; 32]).unwrap();
        let event = EventDraft {
            created_at: UnixTime(100),
            kind: 8327,
            tags: vec![
                vec!["p".into(), "aa".into(), "bb".into()],
                vec!["p".into(), "cc".into()],
            ],
            content: String::new(),
        }
        .sign(&key)
        .unwrap();
        let base = Filter::kind(8327);
        assert!(base.matches(&event));
        assert!(!Filter::kind(1).matches(&event));
        assert!(base.clone().tag('p', ["cc"]).matches(&event));
        // Only the first value of a tag is indexed.
        assert!(!base.clone().tag('p', ["bb"]).matches(&event));
        assert!(!base.clone().tag('n', ["cc"]).matches(&event));
        assert!(base.clone().since(UnixTime(100)).matches(&event));
        assert!(!base.clone().since(UnixTime(101)).matches(&event));
        assert!(base.clone().until(UnixTime(100)).matches(&event));
        assert!(!base.clone().until(UnixTime(99)).matches(&event));
        assert!(base.clone().authors([event.author]).matches(&event));
        assert!(!base.clone().authors([]).matches(&event));
        let ids = Filter {
            ids: Some(vec![event.id]),
            ..Filter::default()
        };
        assert!(ids.matches(&event));
    }

    #[test]
    fn json_known_answer_and_strictness() {
        let filter = Filter::kind(38327)
            .tag('t', ["btcr2"])
            .tag('n', ["signet"])
            .since(UnixTime(5))
            .limit(10);
        let json = r##"{"kinds":[38327],"#n":["signet"],"#t":["btcr2"],"since":5,"limit":10}"##;
        assert_eq!(serde_json::to_string(&filter).unwrap(), json);
        assert_eq!(serde_json::from_str::<Filter>(json).unwrap(), filter);
        assert!(serde_json::from_str::<Filter>(r##"{"#tt":[]}"##).is_err());
        assert!(serde_json::from_str::<Filter>(r#"{"search":"x"}"#).is_err());
    }
}
