-- Version 3: years. The log is shortened behind snapshots of the state it leads to.

-- The whole state of a cohort in one role, as of an entry of its log. `digest` is the SHA-256 of the rest of the row.
CREATE TABLE snapshots (
    cohort  BLOB NOT NULL CHECK (length(cohort) = 32),
    role    TEXT NOT NULL CHECK (role IN ('aggregator', 'participant')),
    seq     INTEGER NOT NULL,
    format  INTEGER NOT NULL,
    digest  BLOB NOT NULL CHECK (length(digest) = 32),
    body    TEXT NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (cohort, role, seq)
) STRICT;
CREATE TRIGGER snapshots_are_never_changed BEFORE UPDATE ON snapshots
    BEGIN SELECT RAISE(ABORT, 'a snapshot is never changed'); END;
-- The newest one may turn out to be damaged; then the one before it, and the log since, lead to the same.
CREATE TRIGGER snapshots_the_last_two_stay BEFORE DELETE ON snapshots
    WHEN (SELECT count(*) FROM snapshots AS newer WHERE newer.cohort = OLD.cohort
              AND newer.role = OLD.role AND newer.seq > OLD.seq) < 2
    BEGIN SELECT RAISE(ABORT, 'the last two snapshots of a cohort stay'); END;

DROP TRIGGER log_is_never_deleted;
CREATE TRIGGER log_is_shortened_behind_two_snapshots BEFORE DELETE ON log
    WHEN (SELECT count(*) FROM snapshots WHERE snapshots.cohort = OLD.cohort
              AND snapshots.role = OLD.role AND snapshots.seq >= OLD.seq) < 2
    BEGIN SELECT RAISE(ABORT, 'the log is append-only, but for what two snapshots make up for'); END;

-- Entries of the log up to this one are gone.
ALTER TABLE cohorts ADD COLUMN log_cut INTEGER NOT NULL DEFAULT 0;

-- What was sent is found by its number, and what has had its time by its date, however much there is.
DROP INDEX outbox_by_cohort;
CREATE INDEX outbox_by_number ON outbox (cohort, lane_author, lane_recipient, seq);
CREATE INDEX outbox_by_expiry ON outbox (expires) WHERE done = 1;
CREATE INDEX outbox_by_date ON outbox (created);
