//! Deposits: what a member shows the aggregator of an update, and what an aggregator keeps of it (see
//! [`crate::protocol::deposit`]).

use super::error::AgentError;
use crate::did::Did;
use crate::hash::UpdateHash;
use crate::store::{ArtifactKey, ArtifactKind, NewArtifact, Subject, Tx};
use crate::time::UnixTime;

/// Keeps a deposited update by its hash, and the genesis document it came with by its DID. Both belong to no
/// cohort or round, and both names are hashes of what is stored: the same bytes whoever brings them, so that
/// nobody can bring a conflict about.
pub(super) fn save(
    tx: &Tx<'_>,
    now: UnixTime,
    hash: UpdateHash,
    update: &str,
    genesis: Option<&(Did, String)>,
) -> Result<(), AgentError> {
    let put = |subject, kind, bytes: &str| {
        tx.put_artifact(&NewArtifact {
            key: ArtifactKey {
                origin: None,
                subject,
                kind,
                signal: None,
            },
            txid: None,
            bytes: bytes.as_bytes(),
            created: now,
        })
    };
    put(Subject::Update(hash), ArtifactKind::SignedUpdate, update)?;
    if let Some((did, genesis)) = genesis {
        put(
            Subject::Did(did.to_string()),
            ArtifactKind::GenesisDocument,
            genesis,
        )?;
    }
    Ok(())
}
