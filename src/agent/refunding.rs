//! Complete refunds: kept for as long as the output they spend could be.

use bitcoin::Transaction;

use super::error::AgentError;
use super::node::NodeId;
use crate::protocol::effect::Artifact;
use crate::protocol::ids::Round;
use crate::store::{ArtifactKey, ArtifactKind, NewArtifact, Subject, Tx};
use crate::time::UnixTime;

/// Stores a refund in the transaction of the step that completed it. It belongs to no round: it is kept under round
/// 0, where no signal is, and a bundle has it (the chain does not, until it is used).
pub(super) fn save(
    tx: &Tx<'_>,
    id: NodeId,
    now: UnixTime,
    refund: &Transaction,
    artifact: &Artifact,
) -> Result<(), AgentError> {
    let bytes =
        serde_json::to_vec(artifact).map_err(|_| AgentError::Defect("an artifact has no JSON"))?;
    let txid = refund.compute_txid();
    tx.put_artifact(&NewArtifact {
        key: ArtifactKey {
            origin: Some((id.0, Round(0))),
            subject: Subject::Transaction(txid),
            kind: ArtifactKind::RawTx,
            signal: None,
        },
        txid: Some(txid),
        bytes: &bytes,
        created: now,
    })?;
    Ok(())
}
