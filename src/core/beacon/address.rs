//! The address of a beacon: a taproot output whose key is the tweaked n-of-n MuSig2 key, with no
//! script tree (DESIGN §5, "Output policy").

use std::fmt::Write as _;

use bitcoin::key::TweakedPublicKey;
use bitcoin::{Address, Amount, ScriptBuf, XOnlyPublicKey};

use crate::network::Network;

/// The output script of a beacon: `OP_1` and a push of the output key (BIP-341), 34 bytes.
///
/// `output_key` is the key *after* the taproot tweak; it is not tweaked again.
#[must_use]
pub fn beacon_script(output_key: XOnlyPublicKey) -> ScriptBuf {
    ScriptBuf::new_p2tr_tweaked(TweakedPublicKey::dangerous_assume_tweaked(output_key))
}

/// The address of [`beacon_script`] on a network (BIP-350).
#[must_use]
pub fn beacon_address(output_key: XOnlyPublicKey, network: Network) -> Address {
    Address::p2tr_tweaked(
        TweakedPublicKey::dangerous_assume_tweaked(output_key),
        network.bitcoin_network(),
    )
}

/// A payment URI (BIP-21): `bitcoin:<address>`, with the amount in whole bitcoin and the label when given.
///
/// Without both it is the `serviceEndpoint` of a beacon in a DID document (spec.md §2.1).
#[must_use]
pub fn bip21(address: &Address, amount: Option<Amount>, label: Option<&str>) -> String {
    let mut uri = format!("bitcoin:{address}");
    let mut separator = '?';
    if let Some(amount) = amount {
        let amount = amount.display_in(bitcoin::Denomination::Bitcoin);
        uri.push_str(&format!("{separator}amount={amount}"));
        separator = '&';
    }
    if let Some(label) = label {
        uri.push_str(&format!("{separator}label={}", percent_encoded(label)));
    }
    uri
}

/// RFC 3986: every byte of the UTF-8 text but the unreserved ones as `%XX`.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String can not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::array_from_hex;

    /// The x coordinate of secret key 3 (BIP-340, test vector 0).
    fn output_key() -> XOnlyPublicKey {
        let x = array_from_hex::<32>(
            "f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9",
        )
        .unwrap();
        XOnlyPublicKey::from_slice(&x).unwrap()
    }

    /// Addresses encoded by another program from BIP-350 alone.
    #[test]
    fn known_addresses_on_every_network() {
        assert_eq!(
            beacon_script(output_key()).to_hex_string(),
            "5120f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9"
        );
        let testnet = "tb1plycg5qvjtrp3qjf5f7zl382j9x6nrjz9sdhenvyxq8c3808qxmuswq2wgh";
        for (network, expected) in [
            (
                Network::Bitcoin,
                "bc1plycg5qvjtrp3qjf5f7zl382j9x6nrjz9sdhenvyxq8c3808qxmusegupjc",
            ),
            (Network::Signet, testnet),
            (
                Network::Regtest,
                "bcrt1plycg5qvjtrp3qjf5f7zl382j9x6nrjz9sdhenvyxq8c3808qxmusreqgad",
            ),
            (Network::Testnet3, testnet),
            (Network::Testnet4, testnet),
            (Network::Mutinynet, testnet),
        ] {
            let address = beacon_address(output_key(), network);
            assert_eq!(address.to_string(), expected);
            assert_eq!(address.script_pubkey(), beacon_script(output_key()));
        }
    }

    /// BIP-341, wallet test vectors, `scriptPubKey` 0: the output key there is tweaked without a script tree.
    #[test]
    fn the_output_key_is_not_tweaked_again() {
        let x = array_from_hex::<32>(
            "53a1f6e454df1aa2776a2814a721372d6258050de330b3c6d10ee8f4e0dda343",
        )
        .unwrap();
        let key = XOnlyPublicKey::from_slice(&x).unwrap();
        assert_eq!(
            beacon_address(key, Network::Bitcoin).to_string(),
            "bc1p2wsldez5mud2yam29q22wgfh9439spgduvct83k3pm50fcxa5dps59h4z5"
        );
    }

    #[test]
    fn payment_uris() {
        let address = beacon_address(output_key(), Network::Regtest);
        let bare = format!("bitcoin:{address}");
        assert_eq!(bip21(&address, None, None), bare);
        assert_eq!(
            bip21(&address, Some(Amount::from_sat(12_345)), None),
            format!("{bare}?amount=0.00012345")
        );
        assert_eq!(
            bip21(&address, None, Some("a b&c=d?e#f%g+h/\u{e9}-._~")),
            format!("{bare}?label=a%20b%26c%3Dd%3Fe%23f%25g%2Bh%2F%C3%A9-._~")
        );
        assert_eq!(
            bip21(&address, Some(Amount::from_sat(150_000_000)), Some("x")),
            format!("{bare}?amount=1.5&label=x")
        );
    }
}
