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
