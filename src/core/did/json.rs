//! JSON as did:btcr2 hashes it: strict parsing, RFC 8785 bytes, SHA-256, IPFS address (spec.md §3.1, §2.9).

use std::fmt;

use bech32::primitives::iter::ByteIterExt as _;
use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::hash::{DocumentHash, sha256};

/// Longest JSON text accepted from outside, in bytes. A document of a thousand keys has a fifth of it.
pub const MAX_BYTES: usize = 1 << 20;

/// Deepest nesting accepted from outside. Bounds the recursion of parsing, hashing and dropping.
pub const MAX_DEPTH: usize = 64;

/// Why a text is not the JSON this program accepts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// Longer than [`MAX_BYTES`].
    #[error("the JSON text has {0} bytes; at most {MAX_BYTES} are accepted")]
    TooLong(usize),
    /// Not JSON, a name twice in one object, nested deeper than [`MAX_DEPTH`], a number that is no
    /// finite double, or a lone surrogate.
    #[error("the JSON text is refused: {0}")]
    Syntax(#[from] serde_json::Error),
}

/// A value that has no RFC 8785 form: a map whose keys are not strings, or a number that is not finite.
#[derive(Debug, thiserror::Error)]
#[error("the value has no canonical JSON form: {0}")]
pub struct CanonicalizeError(#[from] serde_json::Error);

/// Parses JSON, refusing what two readers could understand differently.
///
/// An object with the same name twice is refused (most parsers silently keep the last), so is nesting
/// deeper than [`MAX_DEPTH`]. Numbers become what RFC 8785 will write: `1.0` is the integer 1, and an
/// integer that no double holds becomes the nearest double. So two equal values have equal hashes.
pub fn parse_strict(text: impl AsRef<[u8]>) -> Result<Value, JsonError> {
    let text = text.as_ref();
    if text.len() > MAX_BYTES {
        return Err(JsonError::TooLong(text.len()));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Strict { depth: MAX_DEPTH }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// The RFC 8785 (JCS) bytes of a value.
///
/// A [`Value`] always has them; a type of one's own may not.
pub fn canonicalize<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CanonicalizeError> {
    Ok(serde_json_canonicalizer::to_vec(&value)?)
}

/// The JSON document hash: SHA-256 of the RFC 8785 bytes (spec.md §3.1).
#[must_use]
pub fn document_hash(value: &Value) -> DocumentHash {
    DocumentHash::from_bytes(sha256(&canonical_bytes(value)))
}

/// The RFC 8785 bytes of a [`Value`].
#[allow(clippy::expect_used)]
pub(crate) fn canonical_bytes(value: &Value) -> Vec<u8> {
    canonicalize(value).expect("a Value has string keys and finite numbers only")
}

/// The IPFS address under which one raw block with these bytes is found: CIDv1, raw codec, SHA-256,
/// in base32 (spec.md §2.9). The bytes are the canonical form of the artifact.
#[must_use]
pub fn cid(bytes: &[u8]) -> String {
    cid_of_hash(&sha256(bytes))
}

/// Like [`cid`], from the SHA-256 of the bytes: what an update hash already is.
#[must_use]
pub fn cid_of_hash(hash: &[u8; 32]) -> String {
    /// RFC 4648 §6, lower case: the character of each 5-bit group.
    const BASE32: [char; 32] = [
        'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', 'q', 'r',
        's', 't', 'u', 'v', 'w', 'x', 'y', 'z', '2', '3', '4', '5', '6', '7',
    ];
    // CID version 1, codec raw, multihash sha2-256 of 32 bytes.
    let head = [0x01, 0x55, 0x12, 0x20];
    let groups = head.iter().chain(hash).copied().bytes_to_fes();
    let text = groups.filter_map(|group| BASE32.get(usize::from(group.to_u8())));
    std::iter::once(&'b').chain(text).collect()
}

/// Builds a [`Value`] with at most `depth` further levels.
#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        let depth = self
            .depth
            .checked_sub(1)
            .ok_or_else(|| E::custom(format_args!("nested deeper than {MAX_DEPTH} levels")))?;
        Ok(Self { depth })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(normal_integer(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(normal_integer(value.into())))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        normal_double(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if object.contains_key(&name) {
                let message = format_args!("the name {name:?} occurs twice in one object");
                return Err(serde::de::Error::custom(message));
            }
            object.insert(name, members.next_value_seed(inner)?);
        }
        Ok(Value::Object(object))
    }
}

/// Doubles hold every integer up to here.
const MAX_INTEGER: i64 = 1 << 53;

/// Cast on purpose: RFC 8785 numbers are doubles, so the nearest double is what would be hashed.
#[allow(clippy::cast_precision_loss)]
fn normal_integer(value: i128) -> Number {
    match i64::try_from(value) {
        Ok(small) if small.unsigned_abs() <= MAX_INTEGER.unsigned_abs() => small.into(),
        // The nearest double may be 2^53 itself, which is written as an integer.
        _ => normal_double(value as f64).unwrap_or_else(|| 0.into()),
    }
}

/// Cast on purpose: guarded to integers that both types hold.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
fn normal_double(value: f64) -> Option<Number> {
    if value.fract() == 0.0 && value.abs() <= MAX_INTEGER as f64 {
        Some((value as i64).into())
    } else {
        Number::from_f64(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        String::from_utf8(canonical_bytes(&parse_strict(text).unwrap())).unwrap()
    }

    #[test]
    fn a_name_twice_is_refused_at_any_depth() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"[{"b":{"a":1,"c":2,"a":3}}]"#,
            r#"{"a":1,"\u0061":2}"#,
        ] {
            let error = parse_strict(text).unwrap_err().to_string();
            assert!(error.contains("\"a\" occurs twice"), "{error}");
        }
        assert_eq!(
            canonical(r#"{"a":{"a":1},"b":{"a":1}}"#),
            r#"{"a":{"a":1},"b":{"a":1}}"#
        );
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse_strict(nested(MAX_DEPTH)).is_ok());
        let error = parse_strict(nested(MAX_DEPTH + 1)).unwrap_err().to_string();
        assert!(error.contains("nested deeper"), "{error}");
        assert!(parse_strict(nested(100_000)).is_err());
        assert!(matches!(
            parse_strict(" ".repeat(MAX_BYTES + 1)),
            Err(JsonError::TooLong(_))
        ));
    }

    #[test]
    fn numbers_are_equal_when_their_canonical_forms_are() {
        for (text, integer) in [("1.0", 1), ("-0.0", 0), ("20e-1", 2), ("-3", -3)] {
            assert_eq!(parse_strict(text).unwrap(), Value::from(integer), "{text}");
        }
        assert_eq!(
            parse_strict("9007199254740993").unwrap(),
            parse_strict("9007199254740992").unwrap()
        );
        assert_eq!(
            parse_strict("18446744073709551615").unwrap(),
            parse_strict("18446744073709551616.0").unwrap()
        );
        assert_eq!(canonical("-9223372036854775808"), "-9223372036854776000");
        assert!(parse_strict("1e400").is_err());
    }

    #[test]
    fn doubles_are_parsed_to_the_nearest() {
        // Without serde_json's float_roundtrip, which the canonicalizer switches on, this is a unit off.
        assert_eq!(canonical("31.245270191439438"), "31.245270191439438");
        assert_eq!(canonical("333333333.33333329"), "333333333.3333333");
    }

    #[test]
    fn text_after_the_value_is_refused() {
        assert!(parse_strict("{} {}").is_err());
        assert!(parse_strict("").is_err());
        assert!(parse_strict([0x22, 0xff, 0x22]).is_err());
    }
}
