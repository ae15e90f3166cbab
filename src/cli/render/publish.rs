//! `did publish`

use serde::Serialize;

use super::{Align, Page, Render, Table};
use crate::agent::control::views::PublishedKind;

/// What `did publish` is about to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishPlan {
    /// The DID.
    pub did: String,
    /// The IPFS node, as host and port.
    pub node: String,
    /// What would be published.
    pub artifacts: Vec<PublishedArtifact>,
    /// SMT proofs, which are not.
    pub proofs: u32,
    /// Artifacts a resolver needs and that are not there.
    pub missing: u32,
}

/// Answer of `did publish`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublishedView {
    /// The DID.
    pub did: String,
    /// The IPFS node, as host and port.
    pub node: String,
    /// What was published.
    pub artifacts: Vec<PublishedArtifact>,
    /// SMT proofs, which can not be published.
    pub proofs: u32,
    /// Artifacts a resolver needs and that are not there.
    pub missing: u32,
}

/// One artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublishedArtifact {
    /// What it is.
    pub kind: PublishedKind,
    /// The version an update leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Its IPFS address.
    pub cid: String,
    /// Its size.
    pub bytes: usize,
}

fn table(artifacts: &[PublishedArtifact]) -> Table {
    let mut table = Table::new([
        ("artifact", Align::Left),
        ("bytes", Align::Right),
        ("CID", Align::Left),
    ]);
    for artifact in artifacts {
        let name = match artifact.version {
            Some(version) => format!("{} to version {version}", artifact.kind),
            None => artifact.kind.to_string(),
        };
        table.row([name, artifact.bytes.to_string(), artifact.cid.clone()]);
    }
    table
}

impl Render for PublishPlan {
    fn render(&self, page: &mut Page) {
        page.heading(&format!("To be published of {}", self.did));
        page.table(&table(&self.artifacts));
        page.line("");
        page.line(
            "Warning: whatever is on IPFS is public for ever; nobody can take it back. The specification advises",
        );
        page.line("against handing out one DID's data both over IPFS and as sidecar data: choose one of the two.");
        let announces = |artifact: &PublishedArtifact| artifact.kind == PublishedKind::Announcement;
        if self.artifacts.iter().any(announces) {
            page.line("An announcement names all DIDs that updated in its round, those of other members too.");
        }
        notes(page, self.proofs, self.missing);
        page.line("");
    }
}

impl Render for PublishedView {
    fn render(&self, page: &mut Page) {
        page.heading(&format!("Published at {}", self.node));
        page.table(&table(&self.artifacts));
        notes(page, self.proofs, self.missing);
    }
}

/// What is not published.
fn notes(page: &mut Page, proofs: u32, missing: u32) {
    if proofs > 0 {
        page.line(&format!(
            "SMT proofs ({proofs}) can not be published: resolvers take them from sidecar data only, see `did sidecar`."
        ));
    }
    if missing > 0 {
        page.line(&format!(
            "Resolvers need more than this agent has: {missing} missing, see `did verify`."
        ));
    }
}
