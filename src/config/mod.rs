//! Typed configuration, home directory, relays.
//!
//! | file | what it is |
//! |---|---|
//! | `home` | the agent's directory: paths, permissions, the lock |
//! | `settings` | [`Config`]: every setting with its unit, range, default and meaning |
//! | `rules` | the ranges, as data, and the one [`Config::validate`] |
//! | `source` | settings from file, environment and command line |
//! | `relays` | `relays.toml` |
//! | `address` | which hosts are public |
//! | `duration` | spans of time as people write them: `12h` |
//!
//! Nothing is guessed: an unknown key, a malformed value or a value out of range refuses to start,
//! with one line that names the key, where it was set and what is allowed.

mod address;
mod duration;
mod home;
mod relays;
mod rules;
mod settings;
mod source;

pub use address::{Reach, is_public_ip, reach};
pub use duration::{ParseSpanError, Span};
pub use home::{
    HOME_VARIABLE, Home, HomeError, HomeLock, SOCKET_FILE, check_private, write_private,
};
pub use relays::{Provenance, RELAYS_MAX, RelayEntry, RelayError, RelayList};
pub use rules::{Fault, RULES, Rule, Unit};
pub use settings::{
    Aggregator, Backend, BeaconChoice, Cas, Chain, Chains, Config, Connections, DefaultOf,
    DepositsChoice, EmptyRounds, Fee, Fees, Limits, Money, Participant, PerNetwork, Privacy,
    SeatKey, ServiceUrl, WhenNoUpdate,
};
pub use source::{ConfigError, ENVIRONMENT_PREFIX, Given, Origin, Setting};
