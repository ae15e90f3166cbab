//! Multikey: a public key as a verification method publishes it (spec.md §1.3).

use secp256k1::PublicKey;

/// Multicodec `secp256k1-pub` (0xe7) as an unsigned varint.
const CODEC: [u8; 2] = [0xe7, 0x01];

/// Longest text that is decoded; 35 bytes are at most 48 characters of base58, and `z`.
const MAX_LEN: usize = 49;

/// Why a text is not a secp256k1 Multikey.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidMultikey {
    /// Not `z` and base58btc.
    #[error("publicKeyMultibase is not \"z\" followed by base58btc")]
    Encoding,
    /// A key of another kind, or of another length.
    #[error("publicKeyMultibase holds no compressed secp256k1 key (multicodec e7 01, 33 bytes)")]
    Codec,
    /// Not a point.
    #[error("publicKeyMultibase is not a point of secp256k1")]
    NotOnCurve,
}

/// `z` and base58btc of `e7 01` and the 33-byte compressed key: `zQ3s…`.
#[must_use]
pub fn encode(key: &PublicKey) -> String {
    let mut bytes = CODEC.to_vec();
    bytes.extend_from_slice(&key.serialize());
    format!("z{}", bs58::encode(bytes).into_string())
}

/// Decodes `zQ3s…`.
pub fn decode(text: &str) -> Result<PublicKey, InvalidMultikey> {
    if text.len() > MAX_LEN {
        return Err(InvalidMultikey::Codec);
    }
    let base58 = text.strip_prefix('z').ok_or(InvalidMultikey::Encoding)?;
    let bytes = bs58::decode(base58)
        .into_vec()
        .map_err(|_| InvalidMultikey::Encoding)?;
    let key = bytes.strip_prefix(&CODEC).ok_or(InvalidMultikey::Codec)?;
    let key: &[u8; 33] = key.try_into().map_err(|_| InvalidMultikey::Codec)?;
    PublicKey::from_slice(key).map_err(|_| InvalidMultikey::NotOnCurve)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_example_of_the_specification() {
        let text = "zQ3shVc2UkAfJCdc1TR8E66J85h48P43r93q8jGPkPpjF9Ef9";
        let key = decode(text).unwrap();
        assert_eq!(
            key.to_string(),
            "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
        );
        assert_eq!(encode(&key), text);
    }

    #[test]
    fn other_keys_are_refused_with_the_reason() {
        let of = |bytes: &[u8]| format!("z{}", bs58::encode(bytes).into_string());
        let key = |codec: [u8; 2], first: u8, rest: &[u8]| {
            let mut bytes = codec.to_vec();
            bytes.push(first);
            bytes.extend_from_slice(rest);
            of(&bytes)
        };
        assert_eq!(decode(""), Err(InvalidMultikey::Encoding));
        assert_eq!(decode("mQ3sh"), Err(InvalidMultikey::Encoding));
        assert_eq!(decode("z0OIl"), Err(InvalidMultikey::Encoding));
        assert_eq!(decode(&"z".repeat(50)), Err(InvalidMultikey::Codec));
        assert_eq!(
            decode(&key([0xed, 0x01], 2, &[7; 32])),
            Err(InvalidMultikey::Codec)
        );
        assert_eq!(
            decode(&key(CODEC, 2, &[7; 31])),
            Err(InvalidMultikey::Codec)
        );
        assert_eq!(
            decode(&key(CODEC, 4, &[0xff; 32])),
            Err(InvalidMultikey::NotOnCurve)
        );
    }
}
