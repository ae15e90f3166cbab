//! A real `bitcoind -regtest`: each test has its own, on free loopback ports, and it dies with the test.
//!
//! `tests/bitcoind.sh` gets one. Without, these tests are skipped, and say so on standard error; with `CI=true`
//! in the environment they fail.

mod backend;
mod cohort;
mod fallback;
mod faults;
mod refunds;
mod replaced;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use btcr2_agent::chain::ChainBackend;
use btcr2_agent::demo::regtest_node::RegtestNode;
use tempfile::TempDir;

/// Far longer than any answer of a node takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The node to run; `None` where there is none and none is asked for.
pub fn bitcoind() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bitcoind.sh");
        let output = Command::new("bash").arg(script).arg("--cached").output();
        let output = output.ok().filter(|output| output.status.success())?;
        let path = String::from_utf8(output.stdout).ok()?;
        Some(PathBuf::from(path.trim()))
    });
    if found.is_none() {
        let words =
            "NO BITCOIND: tests against a real node are skipped. `tests/bitcoind.sh` builds one.\n";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{words}");
        // Past the test harness, which would swallow it.
        let _ = std::io::stderr().write_all(words.as_bytes());
    }
    found.clone()
}

/// A node and its files.
pub struct Node {
    pub node: RegtestNode,
    // Removed after the node is gone.
    _dir: TempDir,
}

impl Node {
    /// A node with these options, at height 110; `None` where none can be had.
    pub async fn start(options: &[&str]) -> Option<Self> {
        let binary = bitcoind()?;
        let dir = tempfile::tempdir().unwrap();
        let node = RegtestNode::start(&binary, dir.path(), options)
            .await
            .unwrap();
        Some(Self { node, _dir: dir })
    }

    pub fn backend(&self) -> ChainBackend {
        self.node.backend(PATIENCE).unwrap()
    }
}
