//! Events: what the runtime and the demo tell while things happen.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::text::PeerText;
use crate::hash::CohortId;

/// One line of a timeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimelineEvent {
    /// Milliseconds since the timeline began (the start of the process).
    pub at_ms: u64,
    /// Who it happened to: `aggregator`, `member 2`, `chain`, `relay`.
    pub actor: Cow<'static, str>,
    /// What happened, as a stable snake_case code: `advertised`, `opted_in`, `signed`.
    pub step: Cow<'static, str>,
    /// The cohort it belongs to, if one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cohort: Option<CohortId>,
    /// One sentence for people.
    pub text: PeerText,
    /// The particulars, for programs; `null` when there are none.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub data: serde_json::Value,
}

impl TimelineEvent {
    /// An event without cohort and particulars.
    #[must_use]
    pub fn new(
        at_ms: u64,
        actor: impl Into<Cow<'static, str>>,
        step: &'static str,
        text: impl Into<PeerText>,
    ) -> Self {
        Self {
            at_ms,
            actor: actor.into(),
            step: Cow::Borrowed(step),
            cohort: None,
            text: text.into(),
            data: serde_json::Value::Null,
        }
    }

    /// The same event, of `cohort`.
    #[must_use]
    pub const fn of(mut self, cohort: CohortId) -> Self {
        self.cohort = Some(cohort);
        self
    }

    /// The same event with particulars.
    #[must_use]
    pub fn with(mut self, data: serde_json::Value) -> Self {
        self.data = data;
        self
    }
}
