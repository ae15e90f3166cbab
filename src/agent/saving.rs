//! Storing what a step made: proofs, announcements, leaf sets, signed transactions.

use super::error::AgentError;
use super::node::NodeId;
use crate::protocol::effect::Artifact;
use crate::store::{
    ArtifactKey, ArtifactKind, NewArtifact, NewTransaction, StoreError, Subject, Tx,
};
use crate::time::UnixTime;

/// Stores an artifact in the transaction of the step that made it.
pub(super) fn save(
    tx: &Tx<'_>,
    id: NodeId,
    now: UnixTime,
    artifact: &Artifact,
) -> Result<(), AgentError> {
    if let Artifact::Deposit {
        hash,
        update,
        genesis,
    } = artifact
    {
        return super::depositing::save(tx, now, *hash, update, genesis.as_ref());
    }
    if let Artifact::Refund { tx: refund, .. } = artifact {
        return super::refunding::save(tx, id, now, refund, artifact);
    }
    let (round, signal, subject, kind, txid) = match artifact {
        Artifact::SmtProof {
            round,
            signal,
            index,
            txid,
            ..
        } => (
            *round,
            *signal,
            Subject::Index(*index),
            ArtifactKind::SmtProof,
            *txid,
        ),
        Artifact::Announcement {
            round,
            signal,
            txid,
            ..
        } => (
            *round,
            *signal,
            Subject::Round,
            ArtifactKind::CasAnnouncement,
            *txid,
        ),
        Artifact::LeafSet {
            round,
            signal,
            txid,
            ..
        } => (
            *round,
            *signal,
            Subject::Round,
            ArtifactKind::LeafSet,
            *txid,
        ),
        Artifact::SignedTransaction {
            round, signal, tx, ..
        } => {
            let txid = tx.compute_txid();
            (
                *round,
                *signal,
                Subject::Transaction(txid),
                ArtifactKind::RawTx,
                txid,
            )
        }
        Artifact::Deposit { .. } | Artifact::Refund { .. } => return Ok(()),
    };
    let bytes =
        serde_json::to_vec(artifact).map_err(|_| AgentError::Defect("an artifact has no JSON"))?;
    let mut new = NewArtifact {
        key: ArtifactKey {
            origin: Some((id.0, round)),
            subject,
            kind,
            signal: Some(signal),
        },
        txid: Some(txid),
        bytes: &bytes,
        created: now,
    };
    match tx.put_artifact(&new) {
        // Something else lies in its place: it was found to be damaged, or names another transaction with the
        // same signal. What is stored is never changed, so this one goes beside it.
        Err(StoreError::ArtifactConflict { .. }) if is_proof(kind) => {
            new.key.origin = None;
            tx.put_artifact(&new)?;
        }
        put => {
            put?;
        }
    }
    if let Artifact::SignedTransaction { tx: raw, .. } = artifact {
        let raw = bitcoin::consensus::encode::serialize(raw);
        tx.insert_transaction(&NewTransaction {
            txid,
            cohort: id.0,
            round,
            raw: &raw,
            state: "signed",
            created: now,
        })?;
    }
    Ok(())
}

const fn is_proof(kind: ArtifactKind) -> bool {
    matches!(
        kind,
        ArtifactKind::SmtProof | ArtifactKind::CasAnnouncement | ArtifactKind::LeafSet
    )
}
