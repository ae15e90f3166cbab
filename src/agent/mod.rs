//! The runtime: feeds the core, carries out its effects, owns the clock and the randomness.

pub mod control;
