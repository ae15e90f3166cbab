//! Announcing an update singly: through a beacon of the DID's own key, by a transaction that this agent pays and
//! signs alone.
//!
//! | file | what happens |
//! |---|---|
//! | `paying` | what a signal costs, and what pays for it |
//! | `signing` | it is signed, and stored before it is sent |
//! | `following` | sending it, again and again until it is confirmed; where it stands |
//! | `joining` | binding an existing DID to a cohort by a signal of its own |
//!
//! Order: the signed update is stored; then, in one store transaction, the signed transaction, the pin on the
//! update's bytes and where they stand; only then is the transaction sent. Whoever stops this program in between
//! finds it sent by the next start. Everything that is announced for one version of a DID is the same 32 bytes, and
//! a transaction for a higher fee spends what the one before it spends (DESIGN §6, rule 10; BIP-125).
//!
//! Keys: the DID keys of this program are points with even Y, and their addresses commit to those. What signs
//! ([`UnsignedSpend::sign`](crate::beacon::singleton::UnsignedSpend::sign)) would spend from the odd point's addresses
//! too, which an imported key may have.

mod following;
mod joining;
mod paying;
mod signing;

use std::collections::HashMap;

use bitcoin::Txid;

pub use joining::{Registration, Step};
pub use paying::{Announce, Funds, FundsQuestion, Quote};
pub use signing::{Announced, SignedSpend};

use crate::time::UnixTime;

/// What is remembered of signals while the agent runs.
#[derive(Debug, Default)]
pub(super) struct Sending {
    /// When each was sent last. Forgotten by a restart: then all are sent again.
    attempts: HashMap<Txid, UnixTime>,
}
