//! `resolver …`

use serde::Serialize;

use super::{Page, Render};
use crate::network::Network;

/// Answer of `resolver serve`, when it listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServingView {
    /// Where.
    pub url: String,
    /// What it resolves.
    pub networks: Vec<ServedNetwork>,
    /// IPFS gateways it reads, as host and port.
    pub gateways: Vec<String>,
    /// What the operator should know: one sentence each.
    pub warnings: Vec<String>,
}

/// A network whose DIDs are resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServedNetwork {
    /// The network.
    pub network: Network,
    /// Its chain server, as host and port.
    pub chain: String,
}

impl Render for ServingView {
    fn render(&self, page: &mut Page) {
        for warning in &self.warnings {
            page.line(&format!("Warning: {warning}."));
        }
        page.line(&format!(
            "Resolving at {}/1.0/identifiers/. Ctrl-c stops it.",
            self.url
        ));
        for served in &self.networks {
            page.field(served.network.name(), &served.chain);
        }
        if !self.gateways.is_empty() {
            page.field("IPFS", &self.gateways.join(", "));
        }
    }
}
