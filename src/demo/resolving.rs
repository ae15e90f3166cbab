//! The demo closes the loop: every DID, resolved by somebody who has the chain and a sidecar and nothing else.

use serde_json::json;

use super::DemoError;
use super::story::{DemoDid, SHOWN, Story};
use crate::agent::control::views::DemoResolved;
use crate::agent::timeline::short_did;
use crate::lookup::Lookup;
use crate::resolver::{Resolution, ResolutionOptions, Resolved, Sidecar, Strictness};

impl Story<'_> {
    /// Resolves every DID from the chain and what its controller exports, and checks the result.
    pub(super) async fn resolve_all(&mut self) -> Result<Vec<DemoResolved>, DemoError> {
        // Not an agent's backend: a stranger asks, with a connection of its own.
        let lookup = Lookup::new(self.stage.chain.backend()?);
        let mut table = Vec::new();
        for known in &self.dids {
            let (bytes, signals) = self.exported(known).await?;
            let failed = |error: String| DemoError::Wrong(format!("{}: {error}", known.did));
            let sidecar = Sidecar::parse(&bytes).map_err(|failure| failed(failure.to_string()))?;
            let resolution = lookup
                .resolve(
                    &known.did,
                    ResolutionOptions::default(),
                    sidecar,
                    Strictness::default(),
                )
                .await
                .map_err(|error| failed(error.to_string()))?;
            let resolved = checked(known, resolution)?;
            let actor = self
                .world
                .names
                .get(known.owner)
                .cloned()
                .unwrap_or_default();
            let version = resolved.metadata.version_id;
            if known.owner < SHOWN {
                let state = if known.deactivated {
                    ", deactivated"
                } else {
                    ""
                };
                let text = format!(
                    "resolved from chain and sidecar: version {version}{state}, {signals} signals explained",
                );
                let did = short_did(known.did.as_str());
                self.world.say(
                    "resolver",
                    "resolved",
                    &format!("{did} {text}"),
                    json!({ "did": known.did, "version": version }),
                );
            }
            table.push(DemoResolved {
                did: known.did.to_string(),
                controller: actor,
                version,
                deactivated: resolved.metadata.deactivated,
                confirmations: resolved.metadata.confirmations,
                services: known.services.clone(),
                signals,
                sidecar_bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            });
        }
        self.step("every DID resolves");
        Ok(table)
    }

    /// The sidecar that the controller exports, complete, and how many signals it explains.
    async fn exported(&self, known: &DemoDid) -> Result<(Vec<u8>, u32), DemoError> {
        let did = known.did.clone();
        let (sidecar, missing) = self
            .stage
            .ask(known.owner, move |agent| agent.sidecar_of(&did))
            .await?;
        if !missing.is_empty() {
            let lacks = missing.len();
            return Err(DemoError::Wrong(format!(
                "the sidecar of {} lacks {lacks} artifacts",
                known.did
            )));
        }
        let signals = sidecar.announcements().count() + sidecar.proofs().count();
        Ok((
            sidecar.canonical_bytes(),
            u32::try_from(signals).unwrap_or(u32::MAX),
        ))
    }
}

/// What the resolution says, if it is what the member announced.
fn checked(known: &DemoDid, resolution: Resolution) -> Result<Resolved, DemoError> {
    let wrong = |what: String| DemoError::Wrong(format!("{} {what}", known.did));
    let resolved = resolution
        .outcome
        .map_err(|failure| wrong(format!("does not resolve: {failure}")))?;
    let metadata = resolved.metadata;
    if metadata.version_id != known.version() {
        return Err(wrong(format!(
            "resolves at version {}, not at {}",
            metadata.version_id,
            known.version()
        )));
    }
    if metadata.deactivated != known.deactivated {
        return Err(wrong("resolves with the wrong state".to_owned()));
    }
    let text = resolved.document.value().to_string();
    for service in &known.services {
        if !text.contains(service.as_str()) {
            return Err(wrong(format!("resolves without {service}")));
        }
    }
    Ok(resolved)
}
