//! Values of the command line that are not single types elsewhere.

use std::str::FromStr;

use crate::agent::control::request::{
    BeaconSpec, JoinTarget, Naddr, ParseBeaconError, ParseNameError,
};

/// What `cohort join` may be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinArg {
    /// A number of the last `cohort discover`, from 1.
    Pick(u32),
    /// A cohort id or a share link.
    Target(JoinTarget),
}

impl FromStr for JoinArg {
    type Err = ParseNameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // 64 digits are a cohort id, fewer a pick: no pick has more than six.
        if text.len() <= 6 && text.bytes().all(|b| b.is_ascii_digit()) {
            return match text.parse() {
                Ok(number) if number > 0 => Ok(Self::Pick(number)),
                _ => Err(ParseNameError::JoinTarget),
            };
        }
        if let Ok(cohort) = text.parse() {
            return Ok(Self::Target(JoinTarget::Cohort(cohort)));
        }
        text.parse::<Naddr>()
            .map(|naddr| Self::Target(JoinTarget::Naddr(naddr)))
    }
}

/// A text is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a duration is a number above zero with s, m, h, d or w, such as 90s, 6h or 7d")]
pub struct ParseDurationError;

/// Parses `90s`, `15m`, `6h`, `7d` or `2w` into seconds.
pub fn seconds(text: &str) -> Result<u64, ParseDurationError> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .ok_or(ParseDurationError)?;
    let (number, unit) = text.split_at(split);
    let unit: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return Err(ParseDurationError),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        // Beyond ten years nothing here has a meaning, and sums of times stay far from overflow.
        .filter(|&seconds| seconds > 0 && seconds <= 3650 * 86_400)
        .ok_or(ParseDurationError)
}

/// A service given as `ID,TYPE,URL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceArg {
    /// Fragment or full id.
    pub id: String,
    /// Its type.
    pub service_type: String,
    /// Its endpoint.
    pub endpoint: String,
}

/// A text is not a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a service is ID,TYPE,URL, such as files,LinkedDomains,https://example.org")]
pub struct ParseServiceError;

impl FromStr for ServiceArg {
    type Err = ParseServiceError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A URL may contain commas; an id and a type may not.
        let mut parts = text.splitn(3, ',').map(str::trim);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(id), Some(service_type), Some(endpoint))
                if !id.is_empty()
                    && !service_type.is_empty()
                    && url::Url::parse(endpoint).is_ok() =>
            {
                Ok(Self {
                    id: id.to_owned(),
                    service_type: service_type.to_owned(),
                    endpoint: endpoint.to_owned(),
                })
            }
            _ => Err(ParseServiceError),
        }
    }
}

/// A beacon to add, given as `BEACON` or `ID=BEACON`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBeaconArg {
    /// The id of its service.
    pub id: Option<String>,
    /// Which.
    pub beacon: BeaconSpec,
}

impl FromStr for NewBeaconArg {
    type Err = ParseBeaconError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // No beacon has an equals sign, and neither has a fragment worth choosing.
        let (id, beacon) = match text.split_once('=') {
            Some(("", _)) => return Err(ParseBeaconError),
            Some((id, beacon)) => (Some(id.to_owned()), beacon),
            None => (None, text),
        };
        let beacon = beacon.parse()?;
        Ok(Self { id, beacon })
    }
}

/// Parses a relay address.
pub fn relay_url(text: &str) -> Result<String, &'static str> {
    const WRONG: &str = "a relay is wss://host or ws://host, without user name, query or fragment";
    let url = url::Url::parse(text).map_err(|_| WRONG)?;
    let is_plain = matches!(url.scheme(), "wss" | "ws")
        && url.host_str().is_some_and(|host| !host.is_empty())
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if is_plain { Ok(url.into()) } else { Err(WRONG) }
}

/// Parses an http or https address.
pub fn http_url(text: &str) -> Result<String, &'static str> {
    const WRONG: &str = "an http:// or https:// address is expected";
    let url = url::Url::parse(text).map_err(|_| WRONG)?;
    if matches!(url.scheme(), "http" | "https") {
        Ok(text.to_owned())
    } else {
        Err(WRONG)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn join_arguments_are_told_apart() {
        assert_eq!("3".parse(), Ok(JoinArg::Pick(3)));
        let id = "12".repeat(32);
        assert_eq!(
            id.parse(),
            Ok(JoinArg::Target(JoinTarget::Cohort(id.parse().unwrap())))
        );
        for link in ["naddr1qqqqqqqq", "nostr:naddr1qqqqqqqq"] {
            assert!(matches!(
                link.parse(),
                Ok(JoinArg::Target(JoinTarget::Naddr(_)))
            ));
        }
        for text in [
            "",
            "0",
            "-1",
            "naddr1",
            "naddr1bbbbbbbb",
            "npub1qqqqqqqq",
            &id[1..],
        ] {
            assert!(text.parse::<JoinArg>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_have_units_and_bounds() {
        for (text, expected) in [("90s", 90), ("15m", 900), ("6h", 21_600), ("7d", 604_800)] {
            assert_eq!(seconds(text), Ok(expected));
        }
        assert_eq!(seconds("2w"), Ok(1_209_600));
        for text in [
            "",
            "0s",
            "5",
            "h",
            "1.5h",
            "-1s",
            "1y",
            "99999999999999999999s",
            "4000d",
        ] {
            assert_eq!(seconds(text), Err(ParseDurationError), "{text}");
        }
    }

    #[test]
    fn services_keep_commas_of_the_url() {
        let service: ServiceArg = "files, LinkedDomains,https://example.org/a,b"
            .parse()
            .unwrap();
        assert_eq!(service.endpoint, "https://example.org/a,b");
        assert_eq!(service.service_type, "LinkedDomains");
        for text in [
            "",
            "a,b",
            "a,,https://x.org",
            ",b,https://x.org",
            "a,b,not a url",
        ] {
            assert!(text.parse::<ServiceArg>().is_err(), "{text}");
        }
    }

    #[test]
    fn beacons_may_have_a_name() {
        let beacon: NewBeaconArg = "home=singleton:p2wpkh".parse().unwrap();
        assert_eq!(beacon.id.as_deref(), Some("home"));
        assert_eq!(beacon.beacon.to_string(), "singleton:p2wpkh");
        assert_eq!("cohort:3f9a".parse::<NewBeaconArg>().unwrap().id, None);
        for text in ["", "=singleton", "home=", "home"] {
            assert!(text.parse::<NewBeaconArg>().is_err(), "{text}");
        }
    }

    #[test]
    fn relay_addresses_are_web_sockets() {
        assert_eq!(
            relay_url("wss://Relay.Example"),
            Ok("wss://relay.example/".into())
        );
        assert_eq!(
            relay_url("ws://127.0.0.1:7777"),
            Ok("ws://127.0.0.1:7777/".into())
        );
        for text in [
            "relay.example",
            "https://relay.example",
            "wss://",
            "wss://a:b@c",
            "ws://a/?x",
            "ws://a/#x",
        ] {
            assert!(relay_url(text).is_err(), "{text}");
        }
    }
}
