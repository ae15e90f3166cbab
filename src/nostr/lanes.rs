//! Sequence numbers, deduplication and acknowledgements (DESIGN §4, "Envelope").

use serde::{Deserialize, Serialize};

use crate::hash::CohortId;
use crate::keys::NostrKey;

/// A lane: what one author sends to one recipient, or to a channel, about one cohort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaneId {
    /// Who writes.
    pub author: NostrKey,
    /// Who reads: a member, the aggregator, or a channel's key.
    pub recipient: NostrKey,
    /// The cohort.
    pub cohort: CohortId,
}
