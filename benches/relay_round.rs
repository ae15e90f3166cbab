//! A full round over a loopback relay.
#![allow(missing_docs)]
fn main() {}
