//! SQLite: event log, outbox, artifacts.
