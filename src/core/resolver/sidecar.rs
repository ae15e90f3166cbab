//! Sidecar data (spec.md §2.7): what the controller hands to whoever resolves the DID.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::limits::{MAX_PROOFS_PER_ROOT, MAX_SIDECAR_ITEMS};
use super::outcome::Failure;
use crate::beacon::cas::CasAnnouncement;
use crate::beacon::smt::SmtProof;
use crate::did::json::{self as strict, parse_strict};
use crate::did::{ErrorCode, SignedUpdate};
use crate::hash::{DocumentHash, SignalBytes, UpdateHash};

/// Longest sidecar accepted, in bytes. Ten thousand SMT proofs have about half of it.
pub const MAX_SIDECAR_BYTES: usize = 16 << 20;

/// The `@context` a sidecar may have.
const CONTEXT: &str = "https://btcr2.dev/context/v1";

const GENESIS: &str = "genesisDocument";
const UPDATES: &str = "updates";
const ANNOUNCEMENTS: &str = "casUpdates";
const PROOFS: &str = "smtProofs";

/// Everything of a sidecar, by the hash under which a resolver looks for it. Hashed once, when it comes in.
///
/// Lenient where the specification is: what is not used has no effect. So an update is any JSON with the hash that
/// was announced, and is read when it is announced; a proof whose `id` is malformed is passed over (it is not
/// kept); members this program does not know are ignored, and so is a member that is `null`. Two equal entries
/// count once, and the order of entries means nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sidecar {
    genesis: Option<Value>,
    updates: BTreeMap<UpdateHash, Value>,
    announcements: BTreeMap<SignalBytes, Value>,
    /// By root, then by their own hash: the same order whatever order they came in.
    proofs: BTreeMap<SignalBytes, BTreeMap<DocumentHash, Value>>,
}

impl Sidecar {
    /// Parses a sidecar of at most [`MAX_SIDECAR_BYTES`]. Each document, update, announcement and proof in it is
    /// held to the rules of [`crate::did::json::parse_strict`] on its own.
    ///
    /// # Errors
    /// INVALID_OPTIONS, naming the member.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, Failure> {
        let text = text.as_ref();
        if text.len() > MAX_SIDECAR_BYTES {
            return Err(invalid(format!(
                "the sidecar has {} bytes; at most {MAX_SIDECAR_BYTES} are accepted",
                text.len()
            )));
        }
        let Members(members) = serde_json::from_slice(text)
            .map_err(|error| invalid(format!("the sidecar is refused: {error}")))?;
        let mut sidecar = Self::default();
        for (name, raw) in members {
            if raw.get() == "null" {
                continue;
            }
            if name == GENESIS {
                sidecar.genesis = Some(read(raw, || format!("sidecar.{GENESIS}"))?);
            } else if [UPDATES, ANNOUNCEMENTS, PROOFS].contains(&name.as_str()) {
                let Items(items) = serde_json::from_str(raw.get())
                    .map_err(|error| invalid(format!("sidecar.{name} is refused: {error}")))?;
                for (i, raw) in items.into_iter().enumerate() {
                    let item = read(raw, || format!("sidecar.{name}[{i}]"))?;
                    sidecar.add(&name, item)?;
                }
            }
        }
        Ok(sidecar)
    }

    /// Reads a sidecar from JSON in memory, by the same rules.
    ///
    /// # Errors
    /// INVALID_OPTIONS, naming the member.
    pub fn from_value(value: &Value) -> Result<Self, Failure> {
        let members = value
            .as_object()
            .ok_or_else(|| invalid("sidecar is not a JSON object"))?;
        let mut sidecar = Self::default();
        if let Some(genesis) = members.get(GENESIS).filter(|value| !value.is_null()) {
            sidecar.genesis = Some(normal(genesis, || format!("sidecar.{GENESIS}"))?);
        }
        for name in [UPDATES, ANNOUNCEMENTS, PROOFS] {
            let Some(value) = members.get(name).filter(|value| !value.is_null()) else {
                continue;
            };
            let items = value
                .as_array()
                .ok_or_else(|| invalid(format!("sidecar.{name} is not an array")))?;
            if items.len() > MAX_SIDECAR_ITEMS {
                return Err(invalid(format!("sidecar.{name} has {TOO_MANY}")));
            }
            for (i, item) in items.iter().enumerate() {
                let item = normal(item, || format!("sidecar.{name}[{i}]"))?;
                sidecar.add(name, item)?;
            }
        }
        Ok(sidecar)
    }

    /// The JSON form: updates in the order of their versions, the rest by hash. What is empty is left out.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut value = json!({ "@context": CONTEXT });
        let mut put = |name: &str, member: Value| {
            if let Some(members) = value.as_object_mut() {
                members.insert(name.to_owned(), member);
            }
        };
        if let Some(genesis) = &self.genesis {
            put(GENESIS, genesis.clone());
        }
        let mut updates: Vec<&Value> = self.updates.values().collect();
        updates.sort_by_key(|update| update.get("targetVersionId").and_then(Value::as_u64));
        let proofs = self.proofs.values().flat_map(BTreeMap::values);
        for (name, items) in [
            (UPDATES, updates),
            (ANNOUNCEMENTS, self.announcements.values().collect()),
            (PROOFS, proofs.collect()),
        ] {
            if !items.is_empty() {
                put(name, Value::Array(items.into_iter().cloned().collect()));
            }
        }
        value
    }

    /// The canonical (RFC 8785) bytes of the JSON form.
    #[must_use]
    pub fn canonical_bytes(&self) -> Vec<u8> {
        strict::canonical_bytes(&self.to_value())
    }

    /// Sets the genesis document.
    pub fn set_genesis(&mut self, genesis: &Value) {
        self.genesis = Some(genesis.clone());
    }

    /// Adds a signed update.
    pub fn add_update(&mut self, update: &SignedUpdate) {
        self.updates.insert(update.hash(), update.value().clone());
    }

    /// Adds the announcement of a CAS beacon.
    pub fn add_announcement(&mut self, announcement: &CasAnnouncement) {
        let entries = announcement.iter();
        let value: Map<String, Value> = entries
            .map(|(did, update)| (did.to_owned(), Value::String(update.to_string())))
            .collect();
        self.announcements
            .insert(announcement.signal_bytes(), Value::Object(value));
    }

    /// Adds an SMT proof.
    pub fn add_proof(&mut self, proof: &SmtProof) {
        #[allow(clippy::expect_used)]
        let value = serde_json::to_value(proof).expect("a proof is an object of texts and lists");
        let proofs = self.proofs.entry(proof.id()).or_default();
        proofs.insert(strict::document_hash(&value), value);
    }

    /// Adds everything of another sidecar. Its genesis document counts only where there is none yet.
    pub fn merge(&mut self, other: Self) {
        self.genesis = self.genesis.take().or(other.genesis);
        self.updates.extend(other.updates);
        self.announcements.extend(other.announcements);
        for (root, proofs) in other.proofs {
            self.proofs.entry(root).or_default().extend(proofs);
        }
    }

    /// The genesis document.
    #[must_use]
    pub const fn genesis(&self) -> Option<&Value> {
        self.genesis.as_ref()
    }

    /// The updates, by their hash.
    pub fn updates(&self) -> impl ExactSizeIterator<Item = (UpdateHash, &Value)> {
        self.updates.iter().map(|(hash, value)| (*hash, value))
    }

    /// The CAS announcements, by the signal that announced them.
    pub fn announcements(&self) -> impl ExactSizeIterator<Item = (SignalBytes, &Value)> {
        let announcements = self.announcements.iter();
        announcements.map(|(hash, value)| (*hash, value))
    }

    /// The SMT proofs, by the root they claim.
    pub fn proofs(&self) -> impl Iterator<Item = (SignalBytes, &Value)> {
        let all = self.proofs.iter();
        all.flat_map(|(root, proofs)| proofs.values().map(|proof| (*root, proof)))
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The update with this hash.
    pub(super) fn update(&self, hash: &UpdateHash) -> Option<&Value> {
        self.updates.get(hash)
    }

    /// The announcement with this hash.
    pub(super) fn announcement(&self, hash: &SignalBytes) -> Option<&Value> {
        self.announcements.get(hash)
    }

    /// The proofs that claim this root, always in the same order.
    pub(super) fn proofs_for(&self, root: &SignalBytes) -> impl Iterator<Item = &Value> {
        self.proofs.get(root).into_iter().flat_map(BTreeMap::values)
    }

    fn add(&mut self, list: &str, item: Value) -> Result<(), Failure> {
        if list == PROOFS {
            let Some(root) = SmtProof::claimed_id(&item) else {
                return Ok(());
            };
            let proofs = self.proofs.entry(root).or_default();
            proofs.insert(strict::document_hash(&item), item);
            if proofs.len() > MAX_PROOFS_PER_ROOT {
                return Err(invalid(format!(
                    "sidecar.{PROOFS} has more than {MAX_PROOFS_PER_ROOT} different proofs for one root; one is enough"
                )));
            }
        } else {
            let hash = strict::document_hash(&item).to_bytes();
            if list == UPDATES {
                self.updates.insert(UpdateHash::from_bytes(hash), item);
            } else {
                self.announcements
                    .insert(SignalBytes::from_bytes(hash), item);
            }
        }
        Ok(())
    }
}

fn read(raw: &RawValue, path: impl Fn() -> String) -> Result<Value, Failure> {
    parse_strict(raw.get()).map_err(|error| invalid(format!("{}: {error}", path())))
}

/// Brings JSON in memory into the form in which equal values have equal hashes.
fn normal(value: &Value, path: impl Fn() -> String) -> Result<Value, Failure> {
    parse_strict(strict::canonical_bytes(value))
        .map_err(|error| invalid(format!("{}: {error}", path())))
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::InvalidOptions, message)
}

const TOO_MANY: &str = "more than 100000 entries";

/// The members of a JSON object, not yet read; a repeated name is refused.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(String, &RawValue)> = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if members.iter().any(|(other, _)| *other == name) {
                        let message = format_args!("the name {name:?} occurs twice");
                        return Err(A::Error::custom(message));
                    }
                    // Unknown members are not kept, so there are never more than these few.
                    if [GENESIS, UPDATES, ANNOUNCEMENTS, PROOFS].contains(&name.as_str()) {
                        members.push((name, map.next_value()?));
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// The items of a JSON array, not yet read; too many are refused before they are collected.
struct Items<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Items<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Array;

        impl<'de> Visitor<'de> for Array {
            type Value = Items<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    if items.len() == MAX_SIDECAR_ITEMS {
                        return Err(A::Error::custom(TOO_MANY));
                    }
                    items.push(item);
                }
                Ok(Items(items))
            }
        }

        deserializer.deserialize_seq(Array)
    }
}
