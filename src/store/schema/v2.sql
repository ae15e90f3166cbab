-- Version 2: the controller's whole life.

-- Every key of a DID, by its number in the derivation of DID keys: the keys themselves are derived when they
-- are needed. `name` is what it was made for, a verification method or a beacon, as absolute DID URL.
CREATE TABLE did_keys (
    did       TEXT NOT NULL REFERENCES dids (did),
    key_index INTEGER NOT NULL,
    name      TEXT NOT NULL,
    created   INTEGER NOT NULL,
    PRIMARY KEY (did, key_index)
) STRICT, WITHOUT ROWID;
INSERT INTO did_keys (did, key_index, name, created)
    SELECT did, key_index, did || '#initialKey', created FROM dids WHERE key_index IS NOT NULL;

-- What a fresh resolution showed of a DID and this agent's own updates do not lead to: its key was used
-- elsewhere too.
CREATE TABLE did_adopted (
    did      TEXT PRIMARY KEY REFERENCES dids (did),
    version  INTEGER NOT NULL,
    document TEXT NOT NULL CHECK (json_valid(document)),
    adopted  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The singleton beacon that announces an update, as absolute DID URL, where no cohort does; and the block of
-- the signal.
ALTER TABLE updates ADD COLUMN service TEXT;
ALTER TABLE updates ADD COLUMN height INTEGER;

-- Signals of singleton beacons that this agent signed. The first one of an update and those that replace it for a
-- higher fee all announce the same 32 bytes and spend the same output.
CREATE TABLE singleton_spends (
    txid           TEXT PRIMARY KEY,
    did            TEXT NOT NULL REFERENCES dids (did),
    target_version INTEGER NOT NULL,
    service        TEXT NOT NULL,
    address        TEXT NOT NULL,
    raw            BLOB NOT NULL,
    fee            INTEGER NOT NULL CHECK (fee > 0),
    state          TEXT NOT NULL CHECK (state IN
        ('signed', 'broadcast', 'confirmed', 'final', 'conflicted', 'dead')),
    height         INTEGER,
    conflict       TEXT,
    reason         TEXT,
    created        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX singleton_spends_by_update ON singleton_spends (did, target_version);
CREATE INDEX singleton_spends_open ON singleton_spends (address) WHERE state NOT IN ('final', 'dead');
-- It was signed, so that it may confirm for as long as its inputs are there.
CREATE TRIGGER singleton_spends_keep_their_bytes BEFORE UPDATE ON singleton_spends
    WHEN NEW.txid <> OLD.txid OR NEW.raw <> OLD.raw OR NEW.did <> OLD.did
        OR NEW.target_version <> OLD.target_version
    BEGIN SELECT RAISE(ABORT, 'a signed transaction keeps its bytes'); END;
CREATE TRIGGER singleton_spends_are_never_deleted BEFORE DELETE ON singleton_spends
    BEGIN SELECT RAISE(ABORT, 'a signed transaction is never deleted'); END;
