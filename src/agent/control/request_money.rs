//! What the operations on money and transactions take.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::request::ParseNameError;

/// The longest transaction that is explained, in hex digits: 400 000 weight units, what nodes relay.
const HEX_MAX: usize = 800_000;

/// The longest reason, in characters.
const REASON_MAX: usize = 200;

/// Arguments of `money stop`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StopMoney {
    /// Why, for whoever finds it stopped.
    pub reason: Option<StopReason>,
}

/// Why money was stopped: one line of at most 200 characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StopReason(String);

impl StopReason {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StopReason {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.is_empty()
            || text.chars().count() > REASON_MAX
            || text.chars().any(char::is_control)
        {
            return Err("a reason has 1 to 200 characters on one line");
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for StopReason {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<StopReason> for String {
    fn from(reason: StopReason) -> Self {
        reason.0
    }
}

/// Arguments of `tx decode`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecodeTx {
    /// The transaction, or its id.
    pub tx: TxRef,
}

/// Arguments of `psbt inspect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InspectPsbt {
    /// The PSBT, base64.
    pub psbt: String,
}

/// A transaction: its id, or all of it in hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TxRef(String);

impl TxRef {
    /// The hex digits, in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id, if it is one.
    #[must_use]
    pub fn txid(&self) -> Option<bitcoin::Txid> {
        (self.0.len() == 64).then(|| self.0.parse().ok()).flatten()
    }
}

impl FromStr for TxRef {
    type Err = ParseNameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        // The shortest transaction has 60 bytes.
        let long_enough = text.len() == 64 || text.len() >= 120;
        if !long_enough
            || text.len() > HEX_MAX
            || text.len() % 2 == 1
            || !text.bytes().all(|b| b.is_ascii_hexdigit())
        {
            return Err(ParseNameError::Tx);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl TryFrom<String> for TxRef {
    type Error = ParseNameError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TxRef> for String {
    fn from(tx: TxRef) -> Self {
        tx.0
    }
}

impl fmt::Display for TxRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
