//! Commands and what they print.

pub mod args;
