//! What can go wrong with a command, as stable codes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Kind of a failure. The text form (snake_case) is stable: scripts match on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// The command line is wrong; the only code with exit status 2.
    Usage,
    /// No daemon listens in the home directory.
    NotRunning,
    /// Another daemon holds the home directory.
    AlreadyRunning,
    /// Another copy of this agent, with the same keys, was seen at work.
    AnotherCopy,
    /// The home directory has no keystore yet.
    NotInitialized,
    /// The home directory has a keystore already.
    AlreadyInitialized,
    /// The configuration does not parse, or names an unknown key.
    BadConfig,
    /// The passphrase does not open the keystore.
    WrongPassphrase,
    /// A passphrase is needed and none was given.
    PassphraseNeeded,
    /// A question has to be answered, and there is no terminal to ask on.
    ConfirmationNeeded,
    /// The user said no.
    Declined,
    /// A request line is not a request this version knows.
    BadRequest,
    /// A request line is longer than the daemon reads.
    TooLarge,
    /// Too many clients at once.
    Busy,
    /// No cohort, DID, relay or key of this name.
    NotFound,
    /// A short name fits more than one thing.
    Ambiguous,
    /// A value is outside what it may be.
    InvalidValue,
    /// Not possible in the cohort's phase.
    WrongPhase,
    /// Only the aggregator may do this, or only a member.
    WrongRole,
    /// The thing belongs to another network.
    WrongNetwork,
    /// The peer refused.
    RefusedByPeer,
    /// This agent's own policy forbids it.
    RefusedByPolicy,
    /// The address does not hold what a transaction costs.
    InsufficientFunds,
    /// The money gate forbids it (DESIGN §6, rule 11).
    RefusedByMoneyGate,
    /// An advert is malformed, expired, or not signed by whom it names.
    BadAdvert,
    /// No configured relay could be used.
    RelaysUnreachable,
    /// The chain backend could not be used, or is on another chain.
    ChainUnreachable,
    /// A DID does not resolve; the specification's error code is in the message and the result.
    NotResolved,
    /// Sets of a test suite have another result than expected.
    NotConformant,
    /// An IPFS node could not be used.
    CasFailed,
    /// An answer did not arrive in time.
    Timeout,
    /// The disk is full or the store can not be written.
    StoreFailed,
    /// A bundle is none, was altered, or is not whole.
    BadBundle,
    /// Something a resolver needs is missing, or a DID is at risk.
    Incomplete,
    /// Something this agent needs is not in order.
    Unhealthy,
    /// A file can not be read or written.
    Io,
    /// This build does not connect the command to anything yet.
    NotConnected,
    /// A defect of this program.
    Internal,
    /// A code of a newer version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Why a command did not do what it was asked to: one sentence, and what to do about it.
///
/// The message must not carry secrets (DESIGN §6, rule 12). Text from peers inside it is made
/// harmless when it is printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind, for programs.
    pub code: ErrorCode,
    /// One sentence for people: what failed and where, without a trailing full stop.
    pub message: String,
    /// What the user can do, if there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Failure {
    /// A failure without a remedy.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            remedy: None,
        }
    }

    /// The same failure with a remedy.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_snake_case_and_new_ones_are_tolerated() {
        assert_eq!(ErrorCode::NotRunning.to_string(), "not_running");
        let failure: Failure =
            serde_json::from_str(r#"{"code":"of_tomorrow","message":"m"}"#).unwrap();
        assert_eq!(failure.code, ErrorCode::Unknown);
        assert_eq!(
            serde_json::to_string(&Failure::new(ErrorCode::Io, "m").remedy("r")).unwrap(),
            r#"{"code":"io","message":"m","remedy":"r"}"#
        );
    }
}
