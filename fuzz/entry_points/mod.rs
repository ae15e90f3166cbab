//! What each fuzz target does with its bytes. The library's own test suite (`tests/it/entry_points.rs`) calls the same
//! functions with the committed corpus, with random bytes and with damaged ones, so that these invariants hold on every
//! `cargo test`.
//!
//! Each returns whether the bytes were accepted. None may panic but by a broken invariant.

pub mod files;
pub mod resolution;
pub mod wire;

/// A target: bytes in, whether they were accepted out.
pub type Target = fn(&[u8]) -> bool;

/// Every target, by the name of its corpus and of its binary.
pub const TARGETS: &[(&str, Target)] = &[
    ("did", resolution::did),
    ("update", resolution::update),
    ("patch", resolution::patch),
    ("smt_proof", resolution::smt_proof),
    ("cas_announcement", resolution::cas_announcement),
    ("sidecar", resolution::sidecar),
    ("event", wire::event),
    ("envelope", wire::envelope),
    ("message", wire::message),
    ("terms", wire::terms),
    ("share_link", wire::share_link),
    ("relay_url", wire::relay_url),
    ("relay_information", wire::relay_information),
    ("recording", wire::recording),
    ("options", wire::options),
    ("participant", wire::participant),
    ("aggregator", wire::aggregator),
    ("psbt", files::psbt),
];
