//! Commands and what they print.

pub mod args;
pub mod error;
pub mod output;
pub mod render;

pub use crate::agent::control::views;
