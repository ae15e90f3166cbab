//! Why the chain could not be asked, or did not take a transaction.

use std::fmt;

use bitcoin::{BlockHash, Txid};

use crate::network::Network;

/// Why a question to the chain has no answer. Names the server by host and port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// The URL cannot be used. It is not repeated: it may carry an access token.
    #[error(
        "the chain server's URL {problem}: give an Esplora base URL such as https://mempool.space/signet/api, or with backend = \"bitcoind\" a node's such as http://127.0.0.1:8332"
    )]
    Url {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// No connection, or no answer in time.
    #[error(
        "cannot reach the chain server {host}: {detail}; check the URL, that the server runs, and this machine's network"
    )]
    Unreachable {
        /// Host and port.
        host: String,
        /// The system's words.
        detail: String,
    },
    /// The server answered with an HTTP error.
    #[error("the chain server {host} refused the request with HTTP {status}: {detail}; {}", refusal_remedy(*status))]
    Refused {
        /// Host and port.
        host: String,
        /// The HTTP status code.
        status: u16,
        /// The first words of the answer.
        detail: String,
    },
    /// The server has asked not to be asked so often, and is left alone until then.
    #[error(
        "the chain server {host} limits how often it is asked: the next request goes out in {seconds} s; use your own server if that is too seldom"
    )]
    RateLimited {
        /// Host and port.
        host: String,
        /// How long it is left alone still.
        seconds: u64,
    },
    /// The answer is not what the server's API says, or contradicts itself.
    #[error(
        "the chain server {host} gave an unusable answer: {detail}; check that the URL is an Esplora base URL (most end in /api) or, with backend = \"bitcoind\", a node's RPC address, or use another server"
    )]
    BadAnswer {
        /// Host and port.
        host: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The chain moved in each of several attempts to read one history.
    #[error(
        "the chain server {host} changed its tip {attempts} times while one address was read; try again, or use a server whose index keeps up"
    )]
    Unsettled {
        /// Host and port.
        host: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// An address has more transactions than the agent is ready to read.
    #[error(
        "the history of {address} on the chain server {host} has more than {limit} transactions; such an address cannot serve as a beacon"
    )]
    TooLong {
        /// Host and port.
        host: String,
        /// The address.
        address: String,
        /// The most that are read.
        limit: usize,
    },
    /// The server follows another chain.
    #[error(
        "the chain server {host} is not on {network}: its block {height} is {}, expected {expected}; set the URL of a {network} server",
        Found(found)
    )]
    WrongNetwork {
        /// Host and port.
        host: String,
        /// The network it should be on.
        network: Network,
        /// The height of the block that gives it away.
        height: u32,
        /// The hash `network` has there.
        expected: BlockHash,
        /// The hash the server has there.
        found: Option<BlockHash>,
    },
    /// The node runs and can not answer yet.
    #[error("the node at {host} is not ready: {detail}; it answers by itself when it is")]
    NotReady {
        /// Host and port.
        host: String,
        /// What it is busy with.
        detail: String,
    },
    /// There is nothing to log in with, or the node does not let it in.
    #[error(
        "cannot log in at the node {host}: {detail}; set cookie_file, or user and password_file, to what the node uses, and check that it runs"
    )]
    Login {
        /// Host and port.
        host: String,
        /// What is wrong; never the credentials.
        detail: String,
    },
    /// The node answered with an error.
    #[error("the node at {host} refused {method}: {detail} (RPC error {code}); see its debug.log")]
    Rpc {
        /// Host and port.
        host: String,
        /// The RPC method.
        method: &'static str,
        /// The node's error code.
        code: i32,
        /// The node's words.
        detail: String,
    },
    /// The node runs without something that the question needs.
    #[error(
        "the node at {host} cannot {task}: set {setting} in its bitcoin.conf and restart it, or use another server"
    )]
    Lacks {
        /// Host and port.
        host: String,
        /// What it can not do.
        task: &'static str,
        /// The setting that lets it.
        setting: &'static str,
    },
    /// The node has deleted a block that is needed.
    #[error(
        "the node at {host} is pruned and does not have block {height} any more, which the history of this address needs: use a node without prune, or restart this one with a larger prune and -reindex"
    )]
    Pruned {
        /// Host and port.
        host: String,
        /// Height of the block.
        height: u32,
    },
    /// Two servers say different things about the same chain. Nothing is done on the word of either.
    #[error(
        "the chain servers {host_a} and {host_b} disagree: {fact}; nothing is signed or paid on this until they agree: find out which one is wrong, and replace it"
    )]
    Disagreement {
        /// The first.
        host_a: String,
        /// The second.
        host_b: String,
        /// What each says.
        fact: String,
    },
    /// Two servers that should agree have not seen the same blocks yet.
    #[error(
        "the chain servers {host_a} (block {height_a}) and {host_b} (block {height_b}) do not have the same last block; try again"
    )]
    TipsApart {
        /// The first.
        host_a: String,
        /// Height of its tip.
        height_a: u32,
        /// The second.
        host_b: String,
        /// Height of its tip.
        height_b: u32,
    },
}

impl ChainError {
    /// Whether the same question may well be answered later, without anybody changing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            // A node writes its cookie when it starts: without one it may be about to.
            Self::Unreachable { .. }
            | Self::Unsettled { .. }
            | Self::NotReady { .. }
            | Self::Login { .. }
            | Self::RateLimited { .. }
            | Self::TipsApart { .. } => true,
            Self::Refused { status, .. } => matches!(*status, 429 | 500..=599),
            Self::Url { .. }
            | Self::BadAnswer { .. }
            | Self::TooLong { .. }
            | Self::WrongNetwork { .. }
            | Self::Rpc { .. }
            | Self::Lacks { .. }
            | Self::Pruned { .. }
            | Self::Disagreement { .. } => false,
        }
    }
}

const fn refusal_remedy(status: u16) -> &'static str {
    match status {
        401 | 403 => "the server wants permission: use another server or your own",
        404 => "check that the URL is an Esplora base URL (most end in /api)",
        429 => "too many requests: wait, or use your own server",
        500..=599 => "the server has a problem: try again later or use another server",
        _ => "check that the URL is an Esplora base URL, or use another server",
    }
}

/// Longest part of a server's own words that goes into an error.
pub(super) const MAX_DETAIL: usize = 200;

/// A stranger's text made fit for one line of a log.
pub(super) fn printable(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_DETAIL)
        .collect();
    let line = line.trim();
    if line.is_empty() {
        "no reason given".to_owned()
    } else {
        line.to_owned()
    }
}

struct Found<'a>(&'a Option<BlockHash>);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(hash) => hash.fmt(f),
            None => f.write_str("missing"),
        }
    }
}

/// Why a broadcast did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BroadcastError {
    /// The node looked at the transaction and refused it.
    #[error("the node behind {host} rejected transaction {txid}: {reason}")]
    Rejected {
        /// Host and port of the chain server.
        host: String,
        /// The transaction.
        txid: Txid,
        /// The node's reason in its own words, such as `txn-mempool-conflict`.
        reason: String,
    },
    /// It is unknown whether the network has the transaction.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

impl BroadcastError {
    /// What a rejection means for the sender; `None` when there was none.
    #[must_use]
    pub fn rejection(&self) -> Option<Rejection> {
        match self {
            Self::Rejected { reason, .. } => Some(Rejection::of(reason)),
            Self::Chain(_) => None,
        }
    }
}

/// Bitcoin Core's reasons for a rejection, grouped by what can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejection {
    /// It pays too little, to be relayed or to replace what it conflicts with: pay more.
    FeeTooLow,
    /// A conflicting transaction that does not allow replacement waits in the mempool.
    Conflict,
    /// An input is unknown or spent: look at the address again.
    InputsMissingOrSpent,
    /// A time lock has not run out: wait.
    NotYet,
    /// Anything else, bad signatures included: the transaction must change.
    Invalid,
}

impl Rejection {
    pub(super) fn of(reason: &str) -> Self {
        const BY_WORD: [(&str, Rejection); 8] = [
            ("insufficient fee", Rejection::FeeTooLow),
            ("min relay fee not met", Rejection::FeeTooLow),
            ("mempool min fee not met", Rejection::FeeTooLow),
            ("mempool full", Rejection::FeeTooLow),
            ("txn-mempool-conflict", Rejection::Conflict),
            ("missingorspent", Rejection::InputsMissingOrSpent),
            ("non-final", Rejection::NotYet),
            ("non-BIP68-final", Rejection::NotYet),
        ];
        BY_WORD
            .iter()
            .find(|(word, _)| reason.contains(word))
            .map_or(Self::Invalid, |(_, kind)| *kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejections_are_grouped_by_what_can_be_done() {
        for (reason, kind) in [
            ("min relay fee not met, 10 < 141", Rejection::FeeTooLow),
            (
                "insufficient fee, rejecting replacement",
                Rejection::FeeTooLow,
            ),
            ("txn-mempool-conflict", Rejection::Conflict),
            (
                "bad-txns-inputs-missingorspent",
                Rejection::InputsMissingOrSpent,
            ),
            ("non-final", Rejection::NotYet),
            (
                "mandatory-script-verify-flag-failed (Invalid Schnorr signature)",
                Rejection::Invalid,
            ),
        ] {
            assert_eq!(Rejection::of(reason), kind, "{reason}");
        }
    }
}
