//! Typed configuration, home directory, relays.
