//! Which relay addresses may be dialled (DESIGN §4).
//!
//! An address from the operator's own file may be anything. One that arrived from the network (an
//! advert, a share link, a channel message) may only be `wss` to a public host: else anybody could make
//! an agent knock at the doors of its own network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use url::{Host, Url};

/// The most relays taken from one advert, link or channel message.
pub const MAX_ADVERTISED: usize = 5;

/// The longest address, in bytes: what fits one field of a share link (NIP-19).
const MAX_LENGTH: usize = 255;

/// A relay's address, normalised, so that equal relays compare equal: scheme and host in lower case,
/// no default port, no trailing slash of an empty path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayUrl(Arc<str>);

/// Why a text is not a relay's address, or not one to dial.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RelayUrlFault {
    /// Not an absolute `ws://` or `wss://` address.
    #[error("{0:?} is not a relay address: use wss://host or, for your own, ws://host:port")]
    Form(String),
    /// The address carries a user name, a password, a query or a fragment.
    #[error("{0:?} has a user, a query or a fragment, which a relay address must not have")]
    Extra(String),
    /// An address from outside that is not encrypted.
    #[error("{0} is not wss: an advertised relay has to be")]
    NotEncrypted(RelayUrl),
    /// An address from outside that leads into a private network or to this machine.
    #[error("{0} is a private or local address: only relays.toml may name one")]
    Private(RelayUrl),
}

impl RelayUrl {
    /// Parses and normalises an address. Says nothing about whether it may be dialled.
    pub fn parse(text: &str) -> Result<Self, RelayUrlFault> {
        let form = || RelayUrlFault::Form(text.chars().take(80).collect());
        if text.len() > MAX_LENGTH {
            return Err(form());
        }
        let url = Url::parse(text).map_err(|_| form())?;
        if !matches!(url.scheme(), "ws" | "wss") || url.host().is_none() {
            return Err(form());
        }
        if !url.username().is_empty()
            || url.password().is_some()
            || url.query().is_some()
            || url.fragment().is_some()
        {
            return Err(RelayUrlFault::Extra(text.chars().take(80).collect()));
        }
        let normalised = url.as_str().trim_end_matches('/');
        // What was escaped is longer than it came.
        if normalised.len() > MAX_LENGTH {
            return Err(form());
        }
        Ok(Self(normalised.into()))
    }

    /// Parses an address that came from the network: `wss` and a public host.
    pub fn parse_advertised(text: &str) -> Result<Self, RelayUrlFault> {
        let url = Self::parse(text)?;
        if !url.0.starts_with("wss:") {
            return Err(RelayUrlFault::NotEncrypted(url));
        }
        if url.names_private_host() {
            return Err(RelayUrlFault::Private(url));
        }
        Ok(url)
    }

    /// The address as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address parsed again, for its parts.
    #[must_use]
    pub fn to_url(&self) -> Option<Url> {
        Url::parse(&self.0).ok()
    }

    /// Whether the host is, as written, this machine or of a private network. A name that only resolves
    /// to one is caught when it is dialled ([`is_public`]).
    #[must_use]
    pub fn names_private_host(&self) -> bool {
        let Ok(url) = Url::parse(&self.0) else {
            return true;
        };
        match url.host() {
            Some(Host::Ipv4(address)) => !is_public(address.into()),
            Some(Host::Ipv6(address)) => !is_public(address.into()),
            Some(Host::Domain(name)) => {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                !name.contains('.')
                    || [
                        "localhost",
                        "local",
                        "localdomain",
                        "internal",
                        "lan",
                        "home.arpa",
                    ]
                    .iter()
                    .any(|end| {
                        name.strip_suffix(end)
                            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
                    })
            }
            None => true,
        }
    }
}

/// Takes the relay hints of an advert, a link or a channel message: the first [`MAX_ADVERTISED`] that
/// may be dialled, each once.
///
/// With `allow_private`, which only a network of the operator's own (regtest, the demo) sets, any
/// relay address is taken.
#[must_use]
pub fn advertised_relays<'a>(
    hints: impl IntoIterator<Item = &'a str>,
    allow_private: bool,
) -> Vec<RelayUrl> {
    let mut relays = Vec::new();
    for hint in hints {
        let parsed = if allow_private {
            RelayUrl::parse(hint)
        } else {
            RelayUrl::parse_advertised(hint)
        };
        if let Ok(url) = parsed
            && !relays.contains(&url)
        {
            relays.push(url);
            if relays.len() == MAX_ADVERTISED {
                break;
            }
        }
    }
    relays
}

/// Whether packets to this address leave for the public internet.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

/// Everything outside the special-purpose registry of RFC 6890, as far as it is unicast.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b)) // RFC 6598, carrier-grade NAT
        || (a == 192 && b == 0 && c == 0) // RFC 6890, protocol assignments
        || (a == 198 && (b == 18 || b == 19)); // RFC 2544, benchmarking
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(v4) = address.to_ipv4_mapped() {
        return is_public_v4(v4);
    }
    let [a, b, ..] = address.segments();
    // Global unicast is 2000::/3. Out of it: documentation 2001:db8::/32, and the tunnels that embed an
    // IPv4 address (Teredo 2001::/32, 6to4 2002::/16). NAT64 (64:ff9b::/96) lies outside.
    (a & 0xe000) == 0x2000 && !(a == 0x2001 && (b == 0xdb8 || b == 0)) && a != 0x2002
}

impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelayUrl({})", self.0)
    }
}

impl FromStr for RelayUrl {
    type Err = RelayUrlFault;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl serde::Serialize for RelayUrl {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for RelayUrl {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_relays_compare_equal() {
        let a = RelayUrl::parse("WSS://Relay.Example.com:443/").unwrap();
        assert_eq!(a.as_str(), "wss://relay.example.com");
        assert_eq!(a, RelayUrl::parse("wss://relay.example.com").unwrap());
        assert_eq!(
            RelayUrl::parse("ws://127.0.0.1:7777/nostr/")
                .unwrap()
                .as_str(),
            "ws://127.0.0.1:7777/nostr"
        );
    }

    #[test]
    fn what_is_no_relay_address_is_refused() {
        for bad in ["", "relay.example.com", "https://a.example", "wss://", "/x"] {
            assert!(
                matches!(RelayUrl::parse(bad), Err(RelayUrlFault::Form(_))),
                "{bad}"
            );
        }
        // Each control character is three once it is escaped.
        let escaped = |n| format!("wss://a.example/{}x", "\u{1}".repeat(n));
        let longest = RelayUrl::parse(&escaped(79)).unwrap();
        assert_eq!(longest.as_str().len(), 254);
        assert_eq!(RelayUrl::parse(longest.as_str()).as_ref(), Ok(&longest));
        assert!(matches!(
            RelayUrl::parse(&escaped(80)),
            Err(RelayUrlFault::Form(_))
        ));
        for bad in [
            "wss://u:p@a.example",
            "wss://a.example/?x=1",
            "wss://a.example/#f",
        ] {
            assert!(
                matches!(RelayUrl::parse(bad), Err(RelayUrlFault::Extra(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn advertised_relays_are_public_and_encrypted() {
        for private in [
            "wss://127.0.0.1",
            "wss://10.1.2.3",
            "wss://192.168.0.9",
            "wss://172.20.0.1",
            "wss://169.254.169.254",
            "wss://100.64.0.1",
            "wss://0.0.0.0",
            "wss://[::1]",
            "wss://[fd00::1]",
            "wss://[fe80::1]",
            "wss://[::ffff:10.0.0.1]",
            "wss://[2002:a00:1::]",
            "wss://localhost",
            "wss://relay.localhost",
            "wss://nas.local",
            "wss://router",
            "wss://svc.internal",
            "wss://2130706433",
            "wss://0x7f.1",
        ] {
            assert!(
                matches!(
                    RelayUrl::parse_advertised(private),
                    Err(RelayUrlFault::Private(_))
                ),
                "{private}"
            );
        }
        assert!(matches!(
            RelayUrl::parse_advertised("ws://relay.example.com"),
            Err(RelayUrlFault::NotEncrypted(_))
        ));
        for public in [
            "wss://relay.example.com",
            "wss://8.8.8.8",
            "wss://[2606:4700::1111]",
        ] {
            assert!(RelayUrl::parse_advertised(public).is_ok(), "{public}");
        }
    }

    #[test]
    fn at_most_five_hints_each_once() {
        let hints: Vec<String> = (0..9)
            .map(|i| format!("wss://r{}.example.com", i / 2))
            .collect();
        let taken = advertised_relays(hints.iter().map(String::as_str), false);
        assert_eq!(taken.len(), 5);
        assert_eq!(taken[4].as_str(), "wss://r4.example.com");
        assert!(advertised_relays(["ws://127.0.0.1:1"], false).is_empty());
        assert_eq!(advertised_relays(["ws://127.0.0.1:1"], true).len(), 1);
    }
}
