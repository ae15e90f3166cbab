-- Version 1. Never edit this file after its release: append a migration.
-- Cohorts, keys and hashes are BLOBs of 32 bytes; times are seconds since 1970.

-- Small facts about the store itself, first of all its incarnation.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO meta (key, value) VALUES ('inc', '1');

-- The truth: inputs and decisions per cohort, in order. Everything else about a cohort's state can
-- be rebuilt from it.
CREATE TABLE log (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    cohort  BLOB NOT NULL CHECK (length(cohort) = 32),
    role    TEXT NOT NULL CHECK (role IN ('aggregator', 'participant')),
    at      INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    input   TEXT NOT NULL CHECK (json_valid(input)),
    outcome TEXT NOT NULL
) STRICT;
CREATE INDEX log_by_cohort ON log (cohort, role, seq);
CREATE TRIGGER log_is_never_changed BEFORE UPDATE ON log
    BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER log_is_never_deleted BEFORE DELETE ON log
    BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;

CREATE TABLE cohorts (
    cohort   BLOB NOT NULL CHECK (length(cohort) = 32),
    role     TEXT NOT NULL CHECK (role IN ('aggregator', 'participant')),
    terms    TEXT NOT NULL,
    seat_key BLOB CHECK (length(seat_key) = 32),
    created  INTEGER NOT NULL,
    state    TEXT NOT NULL,
    ended    INTEGER,
    ending   TEXT,
    PRIMARY KEY (cohort, role)
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox (
    id             INTEGER PRIMARY KEY,
    event_id       BLOB NOT NULL UNIQUE CHECK (length(event_id) = 32),
    event          TEXT NOT NULL,
    cohort         BLOB CHECK (length(cohort) = 32),
    lane_author    BLOB CHECK (length(lane_author) = 32),
    lane_recipient BLOB CHECK (length(lane_recipient) = 32),
    seq            INTEGER,
    type           TEXT NOT NULL,
    created        INTEGER NOT NULL,
    expires        INTEGER NOT NULL,
    state          TEXT NOT NULL CHECK (json_valid(state)),
    done           INTEGER NOT NULL DEFAULT 0 CHECK (done IN (0, 1))
) STRICT;
CREATE INDEX outbox_pending ON outbox (id) WHERE done = 0;
CREATE INDEX outbox_by_cohort ON outbox (cohort);
-- A sequence number of a lane is one message: a re-signed event replaces the earlier one.
CREATE UNIQUE INDEX outbox_one_undone_per_seq
    ON outbox (lane_author, lane_recipient, cohort, seq) WHERE done = 0 AND seq IS NOT NULL;

CREATE TABLE lanes (
    author    BLOB NOT NULL CHECK (length(author) = 32),
    recipient BLOB NOT NULL CHECK (length(recipient) = 32),
    cohort    BLOB NOT NULL CHECK (length(cohort) = 32),
    state     TEXT NOT NULL CHECK (json_valid(state)),
    PRIMARY KEY (author, recipient, cohort)
) STRICT, WITHOUT ROWID;
CREATE INDEX lanes_by_cohort ON lanes (cohort);

-- What resolution needs for as long as a DID lives. Absent parts of the key are empty, not NULL,
-- because SQLite counts NULLs as distinct.
CREATE TABLE artifacts (
    id      INTEGER PRIMARY KEY,
    cohort  BLOB NOT NULL CHECK (length(cohort) IN (0, 32)),
    round   INTEGER NOT NULL,
    subject TEXT NOT NULL,
    kind    TEXT NOT NULL CHECK (kind IN
        ('smt_proof', 'cas_announcement', 'leaf_set', 'signed_update', 'genesis_document', 'raw_tx')),
    signal  BLOB NOT NULL CHECK (length(signal) IN (0, 32)),
    txid    TEXT,
    bytes   BLOB NOT NULL,
    created INTEGER NOT NULL,
    UNIQUE (cohort, round, subject, kind, signal)
) STRICT;
CREATE INDEX artifacts_by_key ON artifacts (kind, subject, signal);
CREATE INDEX artifacts_by_subject ON artifacts (subject, cohort, round);
CREATE TRIGGER artifacts_are_never_changed BEFORE UPDATE ON artifacts
    BEGIN SELECT RAISE(ABORT, 'artifacts are never changed'); END;
CREATE TRIGGER artifacts_are_never_deleted BEFORE DELETE ON artifacts
    BEGIN SELECT RAISE(ABORT, 'artifacts are never deleted'); END;

CREATE TABLE dids (
    did       TEXT PRIMARY KEY,
    network   TEXT NOT NULL,
    kind      TEXT NOT NULL,
    key_index INTEGER,
    genesis   TEXT,
    document  TEXT NOT NULL,
    version   INTEGER NOT NULL,
    state     TEXT NOT NULL,
    created   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Which index, and with it which DID, is registered with which cohort. The aggregator of an SMT
-- cohort knows indexes only.
CREATE TABLE did_bindings (
    cohort     BLOB NOT NULL CHECK (length(cohort) = 32),
    role       TEXT NOT NULL CHECK (role IN ('aggregator', 'participant')),
    idx        BLOB NOT NULL CHECK (length(idx) = 32),
    did        TEXT,
    from_round INTEGER NOT NULL,
    state      TEXT NOT NULL,
    PRIMARY KEY (cohort, role, idx)
) STRICT, WITHOUT ROWID;
CREATE INDEX did_bindings_by_index ON did_bindings (idx);

CREATE TABLE updates (
    did            TEXT NOT NULL REFERENCES dids (did),
    target_version INTEGER NOT NULL,
    hash           BLOB NOT NULL CHECK (length(hash) = 32),
    bytes          BLOB NOT NULL,
    cohort         BLOB CHECK (length(cohort) = 32),
    round          INTEGER,
    txid           TEXT,
    state          TEXT NOT NULL,
    reason         TEXT,
    pinned         INTEGER NOT NULL DEFAULT 0 CHECK (pinned IN (0, 1)),
    created        INTEGER NOT NULL,
    PRIMARY KEY (did, target_version)
) STRICT, WITHOUT ROWID;
-- A partial signature over a signal that announces the update left: its bytes may not change.
CREATE TRIGGER pinned_updates_keep_their_bytes BEFORE UPDATE ON updates
    WHEN OLD.pinned = 1 AND (NEW.hash <> OLD.hash OR NEW.bytes <> OLD.bytes)
    BEGIN SELECT RAISE(ABORT, 'a pinned update keeps its bytes'); END;
CREATE TRIGGER pinned_updates_are_never_deleted BEFORE DELETE ON updates
    WHEN OLD.pinned = 1
    BEGIN SELECT RAISE(ABORT, 'a pinned update is never deleted'); END;

CREATE TABLE transactions (
    txid    TEXT PRIMARY KEY,
    cohort  BLOB NOT NULL CHECK (length(cohort) = 32),
    round   INTEGER NOT NULL,
    raw     BLOB NOT NULL,
    state   TEXT NOT NULL,
    height  INTEGER,
    created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX transactions_by_cohort ON transactions (cohort, round);

-- Fed by strangers: bounded in advert.rs.
CREATE TABLE adverts (
    cohort     BLOB PRIMARY KEY CHECK (length(cohort) = 32),
    author     BLOB NOT NULL CHECK (length(author) = 32),
    event_id   BLOB NOT NULL CHECK (length(event_id) = 32),
    event      TEXT NOT NULL,
    content    TEXT NOT NULL,
    network    TEXT NOT NULL,
    status     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires    INTEGER NOT NULL,
    relays     TEXT NOT NULL CHECK (json_valid(relays)),
    first_seen INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX adverts_by_author ON adverts (author, first_seen);
CREATE INDEX adverts_by_expiry ON adverts (expires);

CREATE TABLE follows (
    key    BLOB PRIMARY KEY CHECK (length(key) = 32),
    relays TEXT NOT NULL CHECK (json_valid(relays)),
    since  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE subscribers (
    key   BLOB PRIMARY KEY CHECK (length(key) = 32),
    since INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Fed by strangers: bounded in seen.rs. The rowid counts insertions.
CREATE TABLE seen_events (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id BLOB NOT NULL UNIQUE CHECK (length(event_id) = 32),
    expires  INTEGER NOT NULL
) STRICT;
CREATE INDEX seen_events_by_expiry ON seen_events (expires);

CREATE TABLE relays (
    url      TEXT PRIMARY KEY,
    read     INTEGER NOT NULL CHECK (read IN (0, 1)),
    write    INTEGER NOT NULL CHECK (write IN (0, 1)),
    networks TEXT NOT NULL CHECK (json_valid(networks)),
    source   TEXT NOT NULL,
    added    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE relay_health (
    url             TEXT PRIMARY KEY,
    last_ok         INTEGER,
    last_failure    INTEGER,
    failures_in_row INTEGER NOT NULL DEFAULT 0,
    reason          TEXT,
    detail          TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(detail))
) STRICT, WITHOUT ROWID;
