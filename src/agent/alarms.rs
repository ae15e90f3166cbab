//! Alarms stay until the user has seen them.

use super::error::AgentError;
use super::node::NodeId;
use super::runtime::Agent;
use crate::store::NewLogEntry;

/// Kind of the log entry that says that the user has seen a cohort's alarms. Not the name of a message: those are
/// logged as inputs of the core, and read back as such.
pub(super) const ALARMS_SEEN: &str = "alarms_seen";

impl Agent {
    /// Marks every alarm of a cohort as seen, also for the next start.
    pub(super) fn acknowledge_alarms(&mut self, id: NodeId) -> Result<(), AgentError> {
        let now = self.now();
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(());
        };
        if node.journal.open_alarms().next().is_none() {
            return Ok(());
        }
        self.store.transaction::<_, AgentError>(|tx| {
            tx.append(&NewLogEntry {
                cohort: id.0,
                role: id.1,
                at: now,
                kind: ALARMS_SEEN,
                input: "null",
                outcome: "\"accepted\"",
            })?;
            Ok(())
        })?;
        node.tail.add(4);
        node.journal.acknowledge();
        Ok(())
    }
}
