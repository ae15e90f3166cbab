//! Which hosts are public.
//!
//! A stranger's advert must not make the agent talk to a device in its owner's house. Names are
//! judged here by their form; the connection asks again for the addresses they resolve to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::Host;

/// From where a host can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// A name or address of the public internet.
    Public,
    /// An onion service: reachable through a Tor proxy only.
    Onion,
    /// This machine or a private network, by address or by name.
    Local,
}

/// Ends of names that never resolve to public hosts (RFC 6761, RFC 6762, RFC 8375, and customs).
const LOCAL_ENDS: [&str; 9] = [
    "localhost",
    "local",
    "internal",
    "intranet",
    "lan",
    "home.arpa",
    "test",
    "invalid",
    "localdomain",
];

/// From where `host` can be reached, as far as its form tells.
#[must_use]
pub fn reach(host: &Host<&str>) -> Reach {
    match host {
        Host::Ipv4(address) => reach_of(IpAddr::V4(*address)),
        Host::Ipv6(address) => reach_of(IpAddr::V6(*address)),
        Host::Domain(name) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let ends = |end: &str| {
                name.strip_suffix(end)
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            };
            if ends("onion") {
                Reach::Onion
            } else if LOCAL_ENDS.into_iter().any(ends) || !name.contains('.') {
                Reach::Local
            } else if let Ok(address) = name.parse::<IpAddr>() {
                // Not reached for ws and http URLs, whose hosts are parsed; cheap to be sure.
                reach_of(address)
            } else {
                Reach::Public
            }
        }
    }
}

fn reach_of(address: IpAddr) -> Reach {
    if is_public_ip(address) {
        Reach::Public
    } else {
        Reach::Local
    }
}

/// Whether an address belongs to a host of the public internet (IANA special-purpose registries).
#[must_use]
pub fn is_public_ip(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = match (a, b, c) {
        (0 | 10 | 127 | 224..=255, _, _) => true, // this network, private, loopback, multicast, reserved
        (100, 64..=127, _) => true,               // carrier-grade NAT
        (169, 254, _) => true,                    // link-local
        (172, 16..=31, _) | (192, 168, _) => true, // private
        (192, 0, 0 | 2) | (198, 51, 100) | (203, 0, 113) => true, // protocols, documentation
        (192, 88, 99) => true,                    // retired 6to4 relays
        (198, 18 | 19, _) => true,                // benchmarks
        _ => false,
    };
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([x0, x1], [x2, x3]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(x0, x1, x2, x3))
    };
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0xffff) => embedded(g, h), // IPv4-mapped
        (0x64, 0xff9b, 0, 0, 0, 0) => embedded(g, h), // NAT64
        (0x2002, _, _, _, _, _) => embedded(b, c), // 6to4
        (0x2001, 0..=0x01ff | 0x0db8, _, _, _, _) => false, // Teredo, protocols, documentation
        (0x3fff, 0..=0x0fff, _, _, _, _) => false, // documentation
        // Only 2000::/3 is assigned to hosts of the public internet.
        (a, ..) => a & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach_of_url(url: &str) -> Reach {
        let url = nostr::RelayUrl::parse(url).unwrap();
        reach(&url.host().unwrap())
    }

    #[test]
    fn public_hosts() {
        for host in [
            "relay.example.com",
            "example.org.",
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "[2606:4700::1111]",
            "[::ffff:8.8.8.8]",
            "notlocalhost.com",
        ] {
            assert_eq!(
                reach_of_url(&format!("wss://{host}")),
                Reach::Public,
                "{host}"
            );
        }
    }

    #[test]
    fn local_hosts_in_every_disguise() {
        for host in [
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "printer.local",
            "router",
            "db.internal",
            "127.0.0.1",
            "127.1",
            "0x7f000001",
            "2130706433",
            "0.0.0.0",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:192.168.0.1]",
            "[64:ff9b::10.0.0.1]",
            "[2002:7f00:1::]",
            "[fd00::1]",
            "[fe80::1]",
            "[ff02::1]",
            "[2001:db8::1]",
            "[::127.0.0.1]",
        ] {
            assert_eq!(
                reach_of_url(&format!("ws://{host}:7777")),
                Reach::Local,
                "{host}"
            );
        }
    }

    #[test]
    fn onion_services_are_their_own_kind() {
        assert_eq!(reach_of_url("ws://abc.onion"), Reach::Onion);
        assert_eq!(reach_of_url("ws://abc.onion.example.com"), Reach::Public);
    }
}
