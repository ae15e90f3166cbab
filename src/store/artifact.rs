//! Artifacts: what resolution needs for as long as a DID lives. Never changed, never deleted.

use bitcoin::Txid;
use rusqlite::{Row, params};

use super::value::{Column, text_enum};
use super::{StoreError, Tx, View};
use crate::hash::{CohortId, SignalBytes, SmtIndex, UpdateHash, sha256};
use crate::protocol::ids::Round;
use crate::time::UnixTime;

/// What an artifact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ArtifactKind {
    /// An SMT proof of one index under one signal (spec.md §5).
    SmtProof,
    /// The CAS announcement whose hash is the signal (spec.md §4).
    CasAnnouncement,
    /// All leaves of one signal's tree, kept by the aggregator to prove any index later.
    LeafSet,
    /// A signed update, proof included (spec.md §3).
    SignedUpdate,
    /// The genesis document of an x1 DID (spec.md §1).
    GenesisDocument,
    /// A signed transaction as the network relays it.
    RawTx,
}

text_enum!(ArtifactKind {
    SmtProof => "smt_proof",
    CasAnnouncement => "cas_announcement",
    LeafSet => "leaf_set",
    SignedUpdate => "signed_update",
    GenesisDocument => "genesis_document",
    RawTx => "raw_tx",
});

/// Whom an artifact is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The whole round: a CAS announcement.
    Round,
    /// A DID.
    Did(String),
    /// An index of the sparse Merkle tree; it belongs to the DID it is the hash of.
    Index(SmtIndex),
    /// A transaction.
    Transaction(Txid),
    /// Itself: an update that somebody deposited, found by its hash.
    Update(UpdateHash),
}

impl Subject {
    fn text(&self) -> String {
        match self {
            Self::Round => String::new(),
            Self::Did(did) => did.clone(),
            Self::Index(index) => format!("index:{index}"),
            Self::Transaction(txid) => format!("tx:{txid}"),
            Self::Update(hash) => format!("update:{hash}"),
        }
    }

    fn from_text(text: String) -> rusqlite::Result<Self> {
        let unreadable = || {
            rusqlite::Error::FromSqlConversionFailure(
                0,
                rusqlite::types::Type::Text,
                "not a subject of an artifact".into(),
            )
        };
        if text.is_empty() {
            Ok(Self::Round)
        } else if let Some(index) = text.strip_prefix("index:") {
            index.parse().map(Self::Index).map_err(|_| unreadable())
        } else if let Some(txid) = text.strip_prefix("tx:") {
            txid.parse()
                .map(Self::Transaction)
                .map_err(|_| unreadable())
        } else if let Some(hash) = text.strip_prefix("update:") {
            hash.parse().map(Self::Update).map_err(|_| unreadable())
        } else {
            Ok(Self::Did(text))
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Round => f.write_str("the round"),
            other => f.write_str(&other.text()),
        }
    }
}

/// What an artifact is found by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ArtifactKey {
    /// Where it comes from; none for a genesis document.
    pub origin: Option<(CohortId, Round)>,
    /// Whom it is about.
    pub subject: Subject,
    /// What it is.
    pub kind: ArtifactKind,
    /// The signal it belongs to; none for what is older than any signal.
    pub signal: Option<SignalBytes>,
}

/// An artifact to store.
#[derive(Debug, Clone)]
pub struct NewArtifact<'a> {
    /// What it is found by.
    pub key: ArtifactKey,
    /// The transaction of the signal, where known.
    pub txid: Option<Txid>,
    /// Its bytes, exactly as they were hashed.
    pub bytes: &'a [u8],
    /// When it was stored.
    pub created: UnixTime,
}

/// A stored artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// What it is found by.
    pub key: ArtifactKey,
    /// The transaction of the signal, if it was known at the time.
    pub txid: Option<Txid>,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// When it was stored.
    pub created: UnixTime,
}

/// What became of an artifact or update to store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is stored now.
    Stored,
    /// It was there already, byte for byte.
    AlreadyThere,
}

macro_rules! select_artifacts {
    ($rest:literal) => {
        concat!(
            "SELECT cohort, round, subject, kind, signal, txid, bytes, created FROM artifacts ",
            $rest
        )
    };
}

impl Artifact {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let cohort = match row.get_ref(0)?.as_blob()? {
            [] => None,
            _ => Some(row.get(0)?),
        };
        let round: Round = row.get(1)?;
        let signal = match row.get_ref(4)?.as_blob()? {
            [] => None,
            _ => Some(row.get(4)?),
        };
        let key = ArtifactKey {
            origin: cohort.map(|cohort| (cohort, round)),
            subject: Subject::from_text(row.get(2)?)?,
            kind: row.get(3)?,
            signal,
        };
        Ok(Self {
            key,
            txid: row.get::<_, Option<Column<Txid>>>(5)?.map(|txid| txid.0),
            bytes: row.get(6)?,
            created: row.get(7)?,
        })
    }
}

fn bytes_of<const N: usize>(value: Option<&[u8; N]>) -> &[u8] {
    value.map_or(&[], |bytes| bytes.as_slice())
}

impl View<'_> {
    /// The artifact of a kind about a subject under a signal. A subject may have several only if
    /// two rounds announced the same signal; then this is the older one.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn artifact(
        &self,
        kind: ArtifactKind,
        subject: &Subject,
        signal: Option<SignalBytes>,
    ) -> Result<Option<Artifact>, StoreError> {
        self.row(
            select_artifacts!(
                "WHERE kind = ?1 AND subject = ?2 AND signal = ?3 ORDER BY id LIMIT 1"
            ),
            params![
                kind,
                subject.text(),
                bytes_of(signal.as_ref().map(SignalBytes::as_bytes))
            ],
            Artifact::read,
        )
    }

    /// The artifacts of a kind about a subject under a signal, the oldest first. There are several where two
    /// rounds announced the same signal, or where one was fetched in the place of another that was damaged.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn artifacts_for(
        &self,
        kind: ArtifactKind,
        subject: &Subject,
        signal: Option<SignalBytes>,
    ) -> Result<Vec<Artifact>, StoreError> {
        self.rows(
            select_artifacts!("WHERE kind = ?1 AND subject = ?2 AND signal = ?3 ORDER BY id"),
            params![
                kind,
                subject.text(),
                bytes_of(signal.as_ref().map(SignalBytes::as_bytes))
            ],
            Artifact::read,
        )
    }

    /// The artifact with exactly this key.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn artifact_by_key(&self, key: &ArtifactKey) -> Result<Option<Artifact>, StoreError> {
        let (cohort, round) = origin_columns(key);
        self.row(
            select_artifacts!(
                "WHERE cohort = ?1 AND round = ?2 AND subject = ?3 AND kind = ?4 AND signal = ?5"
            ),
            params![
                bytes_of(cohort.as_ref().map(CohortId::as_bytes)),
                round,
                key.subject.text(),
                key.kind,
                bytes_of(key.signal.as_ref().map(SignalBytes::as_bytes))
            ],
            Artifact::read,
        )
    }

    /// Everything stored about a DID, by name or by its SMT index, by cohort and round. CAS
    /// announcements are about a whole round: see [`View::artifacts_of_cohort`].
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn artifacts_of_did(&self, did: &str) -> Result<Vec<Artifact>, StoreError> {
        let index = Subject::Index(SmtIndex::from_bytes(sha256(did.as_bytes())));
        self.rows(
            select_artifacts!("WHERE subject IN (?1, ?2) ORDER BY cohort, round, id"),
            [did, &index.text()],
            Artifact::read,
        )
    }

    /// The signals for which an artifact of a kind about a subject is stored, by round; of one cohort, or of all.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn artifact_signals(
        &self,
        kind: ArtifactKind,
        subject: &Subject,
        cohort: Option<CohortId>,
    ) -> Result<Vec<SignalBytes>, StoreError> {
        let cohort = bytes_of(cohort.as_ref().map(CohortId::as_bytes));
        self.rows(
            "SELECT signal FROM artifacts
             WHERE subject = ?1 AND kind = ?2 AND length(signal) = 32 AND (?3 = x'' OR cohort = ?3)
             ORDER BY cohort, round, id",
            params![subject.text(), kind, cohort],
            |row| row.get(0),
        )
    }

    /// Hands the leaf sets and announcements of a cohort from a round on to `each`, by round, one at a time and
    /// until it says no: what an aggregator can prove past rounds from.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn each_signed_round(
        &self,
        cohort: CohortId,
        from: Round,
        mut each: impl FnMut(Artifact) -> bool,
    ) -> Result<(), StoreError> {
        let mut statement = self.statement(select_artifacts!(
            "WHERE cohort = ?1 AND round >= ?2 AND kind IN ('leaf_set', 'cas_announcement')
             ORDER BY round, id"
        ))?;
        let mut rows = statement.query(params![cohort, from])?;
        while let Some(row) = rows.next()? {
            if !each(Artifact::read(row)?) {
                break;
            }
        }
        Ok(())
    }

    /// The refunds of a cohort: signed transactions that belong to no round.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn refunds_of_cohort(&self, cohort: CohortId) -> Result<Vec<Artifact>, StoreError> {
        self.rows(
            select_artifacts!("WHERE cohort = ?1 AND round = 0 AND kind = 'raw_tx' ORDER BY id"),
            params![cohort],
            Artifact::read,
        )
    }

    /// Everything stored of a cohort from a round on, by round.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn artifacts_of_cohort(
        &self,
        cohort: CohortId,
        from: Round,
    ) -> Result<Vec<Artifact>, StoreError> {
        self.rows(
            select_artifacts!("WHERE cohort = ?1 AND round >= ?2 ORDER BY round, id"),
            params![cohort, from],
            Artifact::read,
        )
    }
}

impl Tx<'_> {
    /// Stores an artifact. The same bytes under the same key change nothing.
    ///
    /// # Errors
    /// [`StoreError::ArtifactConflict`] if other bytes are stored under the key.
    pub fn put_artifact(&self, new: &NewArtifact<'_>) -> Result<Put, StoreError> {
        let (cohort, round) = origin_columns(&new.key);
        let inserted = self.write(
            "INSERT INTO artifacts (cohort, round, subject, kind, signal, txid, bytes, created)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (cohort, round, subject, kind, signal) DO NOTHING",
            params![
                bytes_of(cohort.as_ref().map(CohortId::as_bytes)),
                round,
                new.key.subject.text(),
                new.key.kind,
                bytes_of(new.key.signal.as_ref().map(SignalBytes::as_bytes)),
                new.txid.map(Column),
                new.bytes,
                new.created
            ],
        )?;
        if inserted > 0 {
            return Ok(Put::Stored);
        }
        match self.artifact_by_key(&new.key)? {
            Some(there) if there.bytes == new.bytes => Ok(Put::AlreadyThere),
            _ => Err(StoreError::ArtifactConflict {
                kind: new.key.kind.name(),
                subject: new.key.subject.to_string(),
                signal: new
                    .key
                    .signal
                    .map_or_else(|| "none".to_owned(), |signal| signal.to_string()),
            }),
        }
    }
}

fn origin_columns(key: &ArtifactKey) -> (Option<CohortId>, Round) {
    key.origin
        .map_or((None, Round(0)), |(cohort, round)| (Some(cohort), round))
}
