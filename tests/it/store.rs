//! The store: what is promised about its file, and its rules.

mod file;
mod rows;
mod snapshots;
mod spends;
mod strangers;

use std::path::Path;

use btcr2_agent::hash::{CohortId, SignalBytes, SmtIndex, UpdateHash, sha256};
use btcr2_agent::keys::public::NostrKey;
use btcr2_agent::network::Network;
use btcr2_agent::nostr::{EventId, RelayUrl};
use btcr2_agent::protocol::ids::Round;
use btcr2_agent::store::{
    ADVERT_BYTES_MAX, ADVERTS_PER_AUTHOR_MAX, AdoptedRow, AdvertPut, ArtifactKey, ArtifactKind,
    Binding, DidKeyRow, DidRow, Follow, Lane, MetaKey, NewAdvert, NewArtifact, NewCohort,
    NewLogEntry, NewOutboxRow, NewTransaction, NewUpdate, Put, RELAY_REASON_BYTES_MAX, RelayRow,
    Role, Store, StoreError, Subject, Subscriber, Tx, UpdateRow,
};
use btcr2_agent::time::UnixTime;

const NOW: UnixTime = UnixTime(1_790_000_000);
const DID: &str = "did:btcr2:x1qtestvector";

fn cohort(n: u32) -> CohortId {
    CohortId::from_bytes(sha256(&n.to_be_bytes()))
}

fn event(n: u32) -> EventId {
    EventId::from_bytes(sha256(&n.to_le_bytes()))
}

fn key(n: u8) -> NostrKey {
    let secret = secp256k1::SecretKey::from_slice(&[n; 32]).unwrap();
    NostrKey::new(secret.x_only_public_key(secp256k1::SECP256K1).0)
}

fn signal(n: u8) -> SignalBytes {
    SignalBytes::from_bytes([n; 32])
}

fn txid(n: u8) -> bitcoin::Txid {
    bitcoin::hashes::Hash::from_byte_array([n; 32])
}

fn relay(host: &str) -> RelayUrl {
    RelayUrl::parse(&format!("wss://{host}.example")).unwrap()
}

fn entry(cohort: CohortId, input: &str) -> NewLogEntry<'_> {
    NewLogEntry {
        cohort,
        role: Role::Participant,
        at: NOW,
        kind: "advert",
        input,
        outcome: "accepted",
    }
}

fn outbox(n: u32, lane: Option<(Lane, u64)>) -> NewOutboxRow<'static> {
    NewOutboxRow {
        event_id: event(n),
        event: r#"{"kind":8327}"#,
        cohort: Some(cohort(1)),
        lane,
        kind: "opt_in",
        created: NOW,
        expires: NOW.plus(60),
        state: r#"{"relays":{}}"#,
    }
}

fn lane() -> Lane {
    Lane {
        author: key(1),
        recipient: key(2),
        cohort: cohort(1),
    }
}

fn proof(bytes: &[u8]) -> NewArtifact<'_> {
    NewArtifact {
        key: ArtifactKey {
            origin: Some((cohort(1), Round(3))),
            subject: Subject::Index(SmtIndex::from_bytes(sha256(DID.as_bytes()))),
            kind: ArtifactKind::SmtProof,
            signal: Some(signal(9)),
        },
        txid: Some(txid(4)),
        bytes,
        created: NOW,
    }
}

fn did() -> DidRow {
    DidRow {
        did: DID.to_owned(),
        network: Network::Mutinynet,
        kind: "external".to_owned(),
        key_index: Some(4),
        genesis: Some("{}".to_owned()),
        document: "{}".to_owned(),
        version: 1,
        state: "active".to_owned(),
        created: NOW,
    }
}

fn update(bytes: &[u8]) -> NewUpdate<'_> {
    NewUpdate {
        did: DID,
        target_version: 2,
        hash: UpdateHash::from_bytes(sha256(bytes)),
        bytes,
        cohort: Some(cohort(1)),
        service: None,
        state: "queued",
        created: NOW,
    }
}

/// Commits one step as the agent does: log, outbox, projection and artifact together.
fn step(tx: &Tx<'_>, n: u32) -> Result<(), StoreError> {
    let state = format!("after {n}");
    tx.insert_cohort(&NewCohort {
        cohort: cohort(1),
        role: Role::Participant,
        terms: "{}",
        seat_key: Some(key(1)),
        created: NOW,
        state: "new",
    })?;
    tx.append(&entry(cohort(1), &format!(r#"{{"n":{n}}}"#)))?;
    tx.set_cohort_state(cohort(1), Role::Participant, &state)?;
    tx.insert_outbox(&outbox(n, Some((lane(), u64::from(n)))))?;
    let mut artifact = proof(b"proof");
    artifact.key.origin = Some((cohort(1), Round(n)));
    tx.put_artifact(&artifact)?;
    Ok(())
}

/// What [`step`] left behind: log entries, pending events, state, artifacts.
fn footprint(store: &Store) -> (u64, usize, Option<String>, usize) {
    let view = store.view();
    let mut inputs = Vec::new();
    let entries = view
        .replay(cohort(1), Role::Participant, |entry| {
            inputs.push(entry.input);
            Ok::<_, StoreError>(())
        })
        .unwrap();
    for (position, input) in inputs.iter().enumerate() {
        assert_eq!(input, &format!(r#"{{"n":{}}}"#, position + 1));
    }
    (
        entries,
        view.outbox_pending().unwrap().len(),
        view.cohort(cohort(1), Role::Participant)
            .unwrap()
            .map(|row| row.state),
        view.artifacts_of_cohort(cohort(1), Round(0)).unwrap().len(),
    )
}

fn after(steps: u32) -> (u64, usize, Option<String>, usize) {
    (
        u64::from(steps),
        steps as usize,
        (steps > 0).then(|| format!("after {steps}")),
        steps as usize,
    )
}

fn shell(path: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(path).unwrap()
}
