//! A deterministic simulator over the pure cores: one aggregator, its members, relays and a chain, in one thread.
//!
//! Every run is a function of its seed: who is there, what the terms say, which faults are on, and when each happens.
//! What is real: both state machines, lanes, outbox, signer. What is modelled: the runtime around them (what is
//! stored before what, as in `agent/`), relays, the chain, time. Secret nonces are real and come from the operating
//! system, as always; nothing that is decided depends on their value, so that a trace does not either.
//!
//! `docs/simulator.md` says what is checked, and what is not simulated.

// What a test asserts may panic.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod adversary;
mod blocks;
mod chain;
mod check;
mod config;
mod deposits;
mod extras;
mod fallback;
mod funding;
mod leaving;
mod members;
mod money;
mod network;
mod post;
mod process;
mod recheck;
mod relay;
mod restore;
mod rng;
mod runtime;
mod signing;
mod users;
mod world;

pub use config::{Config, Family};
pub use extras::Extra;
pub use world::{Run, World};

/// Runs one seed of a family. `Err` is a rule that was broken, with the trace that leads there.
pub fn run(seed: u64, family: Option<Family>) -> Run {
    World::new(Config::draw(seed, family)).run()
}

/// Runs one seed of a family with one of the extras.
pub fn run_with(seed: u64, family: Option<Family>, extra: Option<Extra>) -> Run {
    World::new(Config::draw_with(seed, family, extra)).run()
}
