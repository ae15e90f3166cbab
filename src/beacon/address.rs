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
