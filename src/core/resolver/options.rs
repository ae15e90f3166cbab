//! Resolution options (spec.md §2.7), and how strict to be.

use serde_json::Value;

use super::outcome::Failure;
use super::sidecar::Sidecar;
use crate::did::datetime::DateTime;
use crate::did::json::parse_strict;
use crate::did::{ErrorCode, VerifyOptions};
use crate::time::UnixTime;

/// Confirmations a signal needs before it counts, where the options do not say.
pub const DEFAULT_MIN_CONF: u32 = 6;

/// What to resolve to. Text form: the `resolutionOptions` object, which also carries the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResolutionOptions {
    /// Which version; the latest when absent.
    pub version: Option<VersionChoice>,
    /// Confirmations a signal needs before it counts; at least 1.
    pub min_conf: u32,
}

/// A version of a document, chosen by number or by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionChoice {
    /// This version. They count from 1; of another there is no document.
    Id(u64),
    /// The version as of this moment, compared with the median time of blocks; a block of exactly this median
    /// time counts.
    Time(UnixTime),
}

/// How strictly updates are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Strictness {
    /// How strictly their proofs are read.
    pub verify: VerifyOptions,
}

impl Strictness {
    /// Accepts proofs without `invocationTarget`, which vectors of September 2026 lack. For those vectors only.
    #[must_use]
    pub const fn before_october_2026() -> Self {
        Self {
            verify: VerifyOptions {
                require_invocation_target: false,
            },
        }
    }
}

impl Default for ResolutionOptions {
    fn default() -> Self {
        Self {
            version: None,
            min_conf: DEFAULT_MIN_CONF,
        }
    }
}

impl ResolutionOptions {
    /// Reads the `resolutionOptions` object: `versionId`, `versionTime`, `minConf` and `sidecar`, all optional.
    /// Other members belong to other layers and are ignored.
    ///
    /// # Errors
    /// INVALID_OPTIONS, naming the member.
    pub fn from_json(value: &Value) -> Result<(Self, Sidecar), Failure> {
        let members = value
            .as_object()
            .ok_or_else(|| invalid("the resolution options are not a JSON object"))?;
        let text = |name: &str| match members.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(invalid(format!("{name} is not a string"))),
        };
        let mut options = Self::from_text(text("versionId")?, text("versionTime")?, None)?;
        if let Some(value) = members.get("minConf") {
            // Through the text, so that 6.0 is the integer it is in JSON.
            let normal = parse_strict(value.to_string()).ok();
            let number = normal.and_then(|value| value.as_i64());
            options.min_conf = number.and_then(confirmations).ok_or_else(bad_min_conf)?;
        }
        let sidecar = members
            .get("sidecar")
            .map(Sidecar::from_value)
            .transpose()?;
        Ok((options, sidecar.unwrap_or_default()))
    }

    /// Reads the options as query parameters and command lines have them.
    ///
    /// # Errors
    /// INVALID_OPTIONS, naming the option.
    pub fn from_text(
        version_id: Option<&str>,
        version_time: Option<&str>,
        min_conf: Option<&str>,
    ) -> Result<Self, Failure> {
        let version = match (version_id, version_time) {
            (None, None) => None,
            (Some(_), Some(_)) => {
                return Err(invalid(
                    "versionId and versionTime exclude each other: give one of them",
                ));
            }
            (Some(id), None) => {
                let id = integer(id)
                    .ok_or_else(|| invalid("versionId is not an integer in decimal digits"))?;
                // There is no version below 1: whatever such a number is, it is not found.
                Some(VersionChoice::Id(u64::try_from(id).unwrap_or(0)))
            }
            (None, Some(time)) => {
                let time = DateTime::parse_utc_seconds(time).map_err(|_| {
                    invalid(
                        "versionTime is not a UTC time without fraction, like 2026-11-20T12:00:00Z",
                    )
                })?;
                Some(VersionChoice::Time(time))
            }
        };
        let min_conf = match min_conf {
            None => DEFAULT_MIN_CONF,
            Some(text) => integer(text)
                .and_then(confirmations)
                .ok_or_else(bad_min_conf)?,
        };
        Ok(Self { version, min_conf })
    }
}

/// The largest integer that every JSON reader holds exactly.
const MAX_SAFE_INTEGER: i64 = (1 << 53) - 1;

/// An integer in ASCII digits, with or without a minus sign.
fn integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: i64 = plain.then(|| text.parse().ok())??;
    (number.abs() <= MAX_SAFE_INTEGER).then_some(number)
}

/// More confirmations than there are blocks are as good as the largest number of them.
fn confirmations(number: i64) -> Option<u32> {
    (number >= 1).then(|| u32::try_from(number).unwrap_or(u32::MAX))
}

fn bad_min_conf() -> Failure {
    invalid("minConf is not an integer from 1 on")
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::InvalidOptions, message)
}
