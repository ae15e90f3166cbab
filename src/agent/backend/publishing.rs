//! Handing artifacts to the command that publishes them.

use crate::agent::control::views::{DidArtifactView, DidArtifactsView, PublishedKind};
use crate::agent::control::{ErrorCode, Failure, request as r};
use crate::agent::launch::agent_failure;
use crate::agent::publishing::{Publication, Selection};
use crate::agent::runtime::Agent;
use crate::did::Did;
use crate::resolver::CasKind;

/// Bytes of artifacts in one answer, the one that crosses the line included: with quotes escaped it
/// stays far below the longest answer.
const PAGE_BYTES: usize = 2 << 20;

impl Agent {
    /// The artifacts of a DID from a number on, as many as one answer holds.
    pub(super) fn artifacts(&self, args: &r::DidArtifacts) -> Result<DidArtifactsView, Failure> {
        let did: Did = (args.did.as_str().parse())
            .map_err(|error| Failure::new(ErrorCode::InvalidValue, format!("{error}")))?;
        let selection = Selection {
            updates: args.updates,
            announcements: args.announcements,
            genesis: args.genesis,
        };
        let found = self.publishable(&did, selection).map_err(agent_failure)?;
        let count = saturate(found.objects.len());
        let artifacts = page(found.objects, args.from);
        let reached = args.from.saturating_add(saturate(artifacts.len()));
        Ok(DidArtifactsView {
            did: did.to_string(),
            artifacts,
            count,
            next: (reached < count).then_some(reached),
            proofs: saturate(found.proofs),
            missing: saturate(found.missing),
        })
    }
}

fn saturate(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn page(objects: Vec<Publication>, from: u32) -> Vec<DidArtifactView> {
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    let mut bytes = 0;
    let mut page = Vec::new();
    for object in objects.into_iter().skip(from) {
        if bytes >= PAGE_BYTES {
            break;
        }
        bytes += object.canonical.len();
        page.push(DidArtifactView {
            kind: match object.kind {
                CasKind::GenesisDocument => PublishedKind::GenesisDocument,
                CasKind::Announcement => PublishedKind::Announcement,
                CasKind::Update => PublishedKind::Update,
            },
            version: object.version,
            canonical: object.canonical,
        });
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::control::MAX_RESPONSE_BYTES;

    #[test]
    fn pages_hold_everything_once_and_fit_an_answer() {
        // The largest there are, and of nothing but quotes.
        let largest = "\"".repeat(crate::did::json::MAX_BYTES);
        let objects: Vec<Publication> = (0..9)
            .map(|version| Publication {
                kind: CasKind::Update,
                version: Some(version),
                canonical: largest.clone(),
            })
            .collect();
        let mut versions = Vec::new();
        let mut pages = 0;
        loop {
            let page = page(objects.clone(), saturate(versions.len()));
            if page.is_empty() {
                break;
            }
            let answer = serde_json::to_vec(&page).unwrap();
            assert!(answer.len() < MAX_RESPONSE_BYTES / 2, "{}", answer.len());
            versions.extend(page.iter().filter_map(|artifact| artifact.version));
            pages += 1;
        }
        assert_eq!(versions, (0..9).collect::<Vec<_>>());
        assert_eq!(pages, 5);
    }
}
