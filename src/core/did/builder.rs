//! The changes people name, made into one patch.

use bitcoin::Address;
use secp256k1::PublicKey;
use serde_json::{Value, json};

use super::document::{BeaconKind, Document};
use super::initial::{beacon_service, multikey_method};
use super::patch::{DocumentPatch, PatchFault};

/// Longest document an update may lead to, as canonical bytes. Whoever resolves the DID has to carry its whole
/// history; a document of a hundred keys and services has a tenth of it.
pub const MAX_DOCUMENT_BYTES: usize = 256 << 10;

/// The relationships a new key gets: those the initial key of a DID has (spec.md §1.3). Updates need
/// `capabilityInvocation`.
const RELATIONSHIPS: [&str; 4] = [
    "authentication",
    "assertionMethod",
    "capabilityInvocation",
    "capabilityDelegation",
];

/// The relationship DID Core knows besides.
const KEY_AGREEMENT: &str = "keyAgreement";

const METHODS: &str = "verificationMethod";
const SERVICES: &str = "service";

/// Makes a patch of a document by naming the changes. Later changes see earlier ones.
///
/// Ids are fragments (`didcomm`), relative (`#didcomm`) or absolute DID URLs; absolute ones are written.
#[derive(Debug, Clone)]
#[must_use]
pub struct PatchBuilder {
    source: Document,
    working: Value,
    operations: Vec<Value>,
}

impl PatchBuilder {
    /// Starts from the current document.
    pub fn on(source: &Document) -> Result<Self, PatchFault> {
        if source.is_deactivated() {
            return Err(PatchFault::Deactivated);
        }
        Ok(Self {
            source: source.clone(),
            working: source.value().clone(),
            operations: Vec::new(),
        })
    }

    /// Applies operations that somebody else wrote.
    pub fn operations(mut self, patch: &DocumentPatch) -> Result<Self, PatchFault> {
        self.working = patch.apply(&self.working)?;
        let operations = patch.value().as_array().into_iter().flatten();
        self.operations.extend(operations.cloned());
        Ok(self)
    }

    /// Adds a service; `endpoint` is a URI, or what else the service's type says.
    pub fn add_service(self, id: &str, kind: &str, endpoint: &Value) -> Result<Self, PatchFault> {
        let id = self.checked_id(id)?;
        let service = json!({ "id": id, "type": kind, "serviceEndpoint": endpoint });
        self.push_service(id, service)
    }

    /// Adds a beacon. Signals of its address count from the block of this update on (spec.md §3.3).
    pub fn add_beacon(
        self,
        id: &str,
        kind: BeaconKind,
        address: &Address,
    ) -> Result<Self, PatchFault> {
        let id = self.checked_id(id)?;
        let service = beacon_service(&id, kind, address);
        let endpoint = service.get("serviceEndpoint");
        let same = self
            .entries(SERVICES)
            .find(|listed| is_beacon(listed) && listed.get("serviceEndpoint") == endpoint);
        if let Some(same) = same {
            return Err(PatchFault::BeaconExists {
                address: address.to_string(),
                id: self.id_of(same).unwrap_or_default(),
            });
        }
        self.push_service(id, service)
    }

    /// Removes a service, a beacon too.
    pub fn remove_service(self, id: &str) -> Result<Self, PatchFault> {
        let id = self.absolute(id);
        let Some(index) = self.position(SERVICES, &id) else {
            return Err(PatchFault::NoSuchService(id));
        };
        self.remove(SERVICES, index)
    }

    /// Removes a beacon, named by its id or by its address.
    pub fn remove_beacon(self, name: &str) -> Result<Self, PatchFault> {
        let id = self.absolute(name);
        let endpoint = format!("bitcoin:{name}");
        let found = self.entries(SERVICES).position(|service| {
            let listed = service.get("serviceEndpoint").and_then(Value::as_str);
            is_beacon(service)
                && (self.id_of(service).as_ref() == Some(&id) || listed == Some(&endpoint))
        });
        match found {
            Some(index) => self.remove(SERVICES, index),
            None => Err(PatchFault::NoSuchBeacon(name.to_owned())),
        }
    }

    /// Adds a key that may do what the initial key of a DID may: authenticate, assert, and invoke and delegate
    /// capabilities, of which updating the document is one.
    pub fn add_key(mut self, id: &str, key: &PublicKey) -> Result<Self, PatchFault> {
        let id = self.checked_id(id)?;
        if self.knows_method(&id) {
            return Err(PatchFault::MethodExists(id));
        }
        let method = multikey_method(&id, self.source.id().as_str(), key);
        self = self.append(METHODS, method)?;
        for relationship in RELATIONSHIPS {
            self = self.append(relationship, json!(id))?;
        }
        Ok(self)
    }

    /// Puts a new key in the place of a method: in `verificationMethod` and in every relationship that has or
    /// embeds the old one, and nowhere else.
    pub fn rotate_key(mut self, old: &str, new: &str, key: &PublicKey) -> Result<Self, PatchFault> {
        let (old, new) = (self.absolute(old), self.checked_id(new)?);
        if !self.knows_method(&old) {
            return Err(PatchFault::NoSuchMethod(old));
        }
        if self.knows_method(&new) {
            return Err(PatchFault::MethodExists(new));
        }
        let method = multikey_method(&new, self.source.id().as_str(), key);
        for (list, index, embedded) in self.places_of(&old) {
            let value = if embedded { method.clone() } else { json!(new) };
            let path = format!("/{list}/{index}");
            self = self.push(json!({ "op": "replace", "path": path, "value": value }))?;
        }
        Ok(self)
    }

    /// Removes a method and takes it out of every relationship.
    pub fn remove_key(mut self, id: &str) -> Result<Self, PatchFault> {
        let id = self.absolute(id);
        if !self.knows_method(&id) {
            return Err(PatchFault::NoSuchMethod(id));
        }
        // From the end, so that the positions before stay what they are.
        for (list, index, _) in self.places_of(&id).into_iter().rev() {
            self = self.remove(list, index)?;
        }
        Ok(self)
    }

    /// Deactivates the DID, for good.
    pub fn deactivate(self) -> Result<Self, PatchFault> {
        self.push(json!({ "op": "add", "path": "/deactivated", "value": true }))
    }

    /// An absolute id that no method and no service has: `<stem>-2`, or with the next free number.
    #[must_use]
    pub fn free_id(&self, stem: &str) -> String {
        let taken = |id: &String| self.knows_method(id) || self.position(SERVICES, id).is_some();
        let ids = (2_u32..).map(|number| self.absolute(&format!("{stem}-{number}")));
        ids.into_iter().find(|id| !taken(id)).unwrap_or_default()
    }

    /// The patch of everything so far.
    pub fn finish(self) -> Result<DocumentPatch, PatchFault> {
        DocumentPatch::from_value(&Value::Array(self.operations))
    }

    fn push_service(self, id: String, service: Value) -> Result<Self, PatchFault> {
        if self.position(SERVICES, &id).is_some() {
            return Err(PatchFault::ServiceExists(id));
        }
        self.append(SERVICES, service)
    }

    fn append(self, list: &str, value: Value) -> Result<Self, PatchFault> {
        let operation = if self.working.get(list).is_some() {
            json!({ "op": "add", "path": format!("/{list}/-"), "value": value })
        } else {
            json!({ "op": "add", "path": format!("/{list}"), "value": [value] })
        };
        self.push(operation)
    }

    fn remove(self, list: &str, index: usize) -> Result<Self, PatchFault> {
        self.push(json!({ "op": "remove", "path": format!("/{list}/{index}") }))
    }

    fn push(mut self, operation: Value) -> Result<Self, PatchFault> {
        let step = DocumentPatch::from_value(&Value::Array(vec![operation.clone()]))?;
        self.working = step.apply(&self.working)?;
        self.operations.push(operation);
        Ok(self)
    }

    fn entries(&self, list: &str) -> impl Iterator<Item = &Value> {
        self.working
            .get(list)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    }

    /// The absolute id of an entry: its own, or the one it refers to.
    fn id_of(&self, entry: &Value) -> Option<String> {
        let id = entry.as_str().or_else(|| entry.get("id")?.as_str())?;
        Some(self.source.absolute(id))
    }

    fn position(&self, list: &str, id: &str) -> Option<usize> {
        self.entries(list)
            .position(|entry| self.id_of(entry).as_deref() == Some(id))
    }

    /// Where a method stands: list, position, and whether the entry is the method itself and no reference to it.
    fn places_of(&self, id: &str) -> Vec<(&'static str, usize, bool)> {
        let mut places = Vec::new();
        for list in [METHODS]
            .into_iter()
            .chain(RELATIONSHIPS)
            .chain([KEY_AGREEMENT])
        {
            for (index, entry) in self.entries(list).enumerate() {
                if self.id_of(entry).as_deref() == Some(id) {
                    places.push((list, index, entry.is_object()));
                }
            }
        }
        places
    }

    fn knows_method(&self, id: &str) -> bool {
        self.places_of(id).iter().any(|(_, _, embedded)| *embedded)
    }

    fn checked_id(&self, id: &str) -> Result<String, PatchFault> {
        let fragment = id.strip_prefix('#').unwrap_or(id);
        let odd = |c: char| c.is_whitespace() || c.is_control() || c == '#';
        let is_url = id.starts_with("did:");
        if fragment.is_empty() || (!is_url && fragment.contains(odd)) {
            return Err(PatchFault::Id(id.to_owned()));
        }
        if is_url && id.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(PatchFault::Id(id.to_owned()));
        }
        Ok(self.absolute(id))
    }

    fn absolute(&self, id: &str) -> String {
        if id.starts_with("did:") || id.starts_with('#') {
            self.source.absolute(id)
        } else {
            format!("{}#{id}", self.source.id())
        }
    }
}

fn is_beacon(service: &Value) -> bool {
    let kind = service.get("type").and_then(Value::as_str);
    kind.is_some_and(|kind| BeaconKind::from_name(kind).is_some())
}

/// Why an update must not be made although it is valid: nobody could make the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LastUpdate {
    /// No key of the target may sign updates.
    #[error(
        "no secp256k1 key would be left in capabilityInvocation, so that the DID could never be updated \
         again; add a key in the same update, or deactivate the DID"
    )]
    NoKey,
    /// The target lists no beacon.
    #[error(
        "no beacon would be left, so that no update of the DID could ever be announced again; add a beacon in \
         the same update, or deactivate the DID"
    )]
    NoBeacon,
}

/// Refuses a target that is alive and can not be updated any more.
pub fn require_another_update(target: &Document) -> Result<(), LastUpdate> {
    if target.is_deactivated() {
        return Ok(());
    }
    if target
        .invocation_methods()
        .all(|method| method.key.is_none())
    {
        return Err(LastUpdate::NoKey);
    }
    if target.beacons().is_empty() {
        return Err(LastUpdate::NoBeacon);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::did::initial::{KeyAddress, initial_key_document};
    use crate::did::{Did, UnsignedUpdate};
    use crate::network::Network;

    fn key(number: u8) -> PublicKey {
        let secret = secp256k1::SecretKey::from_slice(&[number; 32]).unwrap();
        secret.public_key(secp256k1::SECP256K1)
    }

    fn source() -> Document {
        initial_key_document(&Did::from_key(Network::Regtest, &key(1))).unwrap()
    }

    fn builder() -> PatchBuilder {
        PatchBuilder::on(&source()).unwrap()
    }

    /// The patch's JSON, and the document it makes.
    fn made(builder: PatchBuilder) -> (Value, Document) {
        let patch = builder.finish().unwrap();
        let update = UnsignedUpdate::new(&source(), 1, &patch).unwrap();
        (patch.value().clone(), update.target().clone())
    }

    #[test]
    fn a_rotated_key_takes_every_place_of_the_old_one_in_one_patch() {
        let did = source().id().to_string();
        let (patch, target) = made(
            builder()
                .rotate_key("initialKey", "key-2", &key(2))
                .unwrap(),
        );
        let new = format!("{did}#key-2");
        let method = json!({ "id": new, "type": "Multikey", "controller": did,
            "publicKeyMultibase": crate::did::multikey::encode(&key(2)) });
        let replace =
            |path: &str, value: Value| json!({ "op": "replace", "path": path, "value": value });
        assert_eq!(
            patch,
            json!([
                replace("/verificationMethod/0", method),
                replace("/authentication/0", json!(new)),
                replace("/assertionMethod/0", json!(new)),
                replace("/capabilityInvocation/0", json!(new)),
                replace("/capabilityDelegation/0", json!(new)),
            ])
        );
        assert!(!target.value().to_string().contains("initialKey"));
        assert_eq!(
            target.invocation_method("#key-2").unwrap().key,
            Some(key(2))
        );
        assert_eq!(target.beacons(), source().beacons());
    }

    #[test]
    fn relative_and_embedded_methods_are_rotated_and_removed_where_they_stand() {
        let mut value = source().value().clone();
        let embedded = multikey_method("#other", source().id().as_str(), &key(7));
        value["capabilityInvocation"] = json!(["#initialKey", embedded]);
        value["keyAgreement"] = json!(["#initialKey"]);
        let source = Document::from_value(&value).unwrap();
        let on = || PatchBuilder::on(&source).unwrap();
        let apply = |builder: PatchBuilder| {
            let patched = builder.finish().unwrap().apply(source.value()).unwrap();
            Document::from_value(&patched).unwrap()
        };
        let rotated = apply(on().rotate_key("other", "new", &key(8)).unwrap());
        assert_eq!(rotated.invocation_method("#new").unwrap().key, Some(key(8)));
        assert!(rotated.invocation_method("#other").is_err());
        assert!(rotated.invocation_method("#initialKey").is_ok());

        let removed = apply(on().remove_key("#initialKey").unwrap());
        assert_eq!(removed.value()["keyAgreement"], json!([]));
        assert_eq!(removed.value()["verificationMethod"], json!([]));
        let left: Vec<_> = removed.invocation_methods().map(|m| m.key).collect();
        assert_eq!(left, [Some(key(7))]);
    }

    #[test]
    fn keys_are_added_to_what_the_initial_key_may_do() {
        let (_, target) = made(builder().add_key("second", &key(2)).unwrap());
        let id = format!("{}#second", target.id());
        for relationship in RELATIONSHIPS {
            let listed = target.value()[relationship].as_array().unwrap();
            assert_eq!(
                (listed.len(), listed[1].as_str()),
                (2, Some(&*id)),
                "{relationship}"
            );
        }
        assert_eq!(target.verification_methods()[1].key, Some(key(2)));
    }

    #[test]
    fn beacons_are_named_by_id_or_address_and_listed_once() {
        let network = Network::Regtest;
        let own = KeyAddress::P2tr.of(network, &key(1));
        let other = KeyAddress::P2tr.of(network, &key(2));
        let add = |id: &str, address: &Address| {
            builder().add_beacon(id, BeaconKind::Smt, address).map(made)
        };
        let error = add("twice", &own).unwrap_err();
        assert!(
            matches!(&error, PatchFault::BeaconExists { id, .. } if id.ends_with("#initialP2TR"))
        );
        let (_, target) = add("cohort", &other).unwrap();
        assert_eq!(target.beacons()[3].address, other);

        for name in [own.to_string(), "initialP2TR".into(), "#initialP2TR".into()] {
            let (patch, target) = made(builder().remove_beacon(&name).unwrap());
            assert_eq!(patch, json!([{ "op": "remove", "path": "/service/2" }]));
            assert_eq!(target.beacons().len(), 2);
        }
        let not_a_beacon = builder().add_service("files", "X", &json!("x:")).unwrap();
        let error = not_a_beacon.remove_beacon("files").unwrap_err();
        assert!(matches!(error, PatchFault::NoSuchBeacon(_)), "{error}");
    }

    #[test]
    fn what_is_there_or_is_not_there_is_refused_by_name() {
        let exists = builder().add_key("initialKey", &key(2)).unwrap_err();
        assert!(matches!(exists, PatchFault::MethodExists(_)));
        let rotated = builder().rotate_key("initialKey", "initialKey", &key(2));
        assert!(matches!(rotated.unwrap_err(), PatchFault::MethodExists(_)));
        for missing in [
            builder().rotate_key("nobody", "x", &key(2)),
            builder().remove_key("nobody"),
        ] {
            assert!(matches!(missing.unwrap_err(), PatchFault::NoSuchMethod(_)));
        }
        for id in ["", "#", "a b", "a#b", "a\n", "did:x:y#a b"] {
            let error = builder().add_key(id, &key(2)).unwrap_err();
            assert!(matches!(error, PatchFault::Id(_)), "{id:?}: {error}");
        }
    }

    #[test]
    fn free_ids_are_free() {
        let did = source().id().to_string();
        assert_eq!(builder().free_id("key"), format!("{did}#key-2"));
        let taken = builder().add_key("key-2", &key(2)).unwrap();
        let taken = taken.add_service("#key-3", "X", &json!("x:")).unwrap();
        assert_eq!(taken.free_id("key"), format!("{did}#key-4"));
    }

    #[test]
    fn a_written_patch_is_seen_by_what_follows() {
        let written = json!([{ "op": "add", "path": "/service/-", "value":
            { "id": "#files", "type": "X", "serviceEndpoint": "x:" } }]);
        let written = DocumentPatch::from_value(&written).unwrap();
        let (patch, target) = made(
            builder()
                .operations(&written)
                .unwrap()
                .remove_service("files")
                .unwrap(),
        );
        assert_eq!(patch[1], json!({ "op": "remove", "path": "/service/3" }));
        assert_eq!(target, source());
    }

    #[test]
    fn the_last_key_and_the_last_beacon_stay_unless_the_did_ends() {
        let check = |builder: PatchBuilder| require_another_update(&made(builder).1);
        let without_key = || builder().remove_key("initialKey").unwrap();
        let mut without_beacon = builder();
        for beacon in source().beacons() {
            without_beacon = without_beacon.remove_beacon(&beacon.id).unwrap();
        }
        assert_eq!(check(builder()), Ok(()));
        assert_eq!(check(without_key()), Err(LastUpdate::NoKey));
        assert_eq!(check(without_beacon.clone()), Err(LastUpdate::NoBeacon));
        assert_eq!(
            check(without_key().add_key("new", &key(2)).unwrap()),
            Ok(())
        );
        let ended = without_beacon.remove_key("initialKey").unwrap();
        assert_eq!(check(ended.deactivate().unwrap()), Ok(()));
    }
}
