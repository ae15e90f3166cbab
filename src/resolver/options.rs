//! Resolution options (spec.md §2.7), and how strict to be.

use serde_json::Value;

use super::outcome::Failure;
use super::sidecar::Sidecar;
use crate::did::datetime::DateTime;
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
    /// This version, from 1.
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
            let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
            options.min_conf = number
                .filter(|number| *number >= 1)
                .ok_or_else(|| invalid("minConf is not an integer from 1 on"))?;
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
            (Some(id), None) => Some(VersionChoice::Id(integer(id).ok_or_else(|| {
                invalid("versionId is not a positive integer in decimal digits")
            })?)),
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
                .and_then(|number| u32::try_from(number).ok())
                .ok_or_else(|| invalid("minConf is not an integer from 1 on"))?,
        };
        Ok(Self { version, min_conf })
    }
}

/// A positive integer in ASCII digits, without sign or leading zero.
fn integer(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    plain.then(|| text.parse().ok())?
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::InvalidOptions, message)
}
