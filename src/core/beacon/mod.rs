//! Beacons: how updates become 32 bytes, and how those 32 bytes reach the chain.
//!
//! | module | what it is |
//! |---|---|
//! | [`smt`] | sparse Merkle tree of an SMT beacon: leaves, tree, proofs (spec.md §2.6, §5) |
//! | [`cas`] | announcement of a CAS beacon: DID to update hash (spec.md §2.5) |
//! | [`address`] | the taproot address of a beacon, and payment URIs to it |
//! | [`fallback`] | the k-of-n leaf beside the n-of-n key, where the terms have one (spec.md §6.6 S2) |
//! | [`psbt`] | funding transactions whose outputs can be refunded before they are sent |
//! | [`refund`] | how the money of a beacon output comes back without a script path (rule 2, second form) |
//! | [`signal`] | the one transaction form that carries a signal (spec.md §4, DESIGN §6 rule 2) |
//! | [`singleton`] | the signal that one key sends alone, from its own address (spec.md §4) |
//! | [`explain`] | what a transaction is to a beacon, by its form alone |
//! | [`history`] | what the chain says about one beacon address: outputs, signals, the tip (rule 4) |

pub mod address;
pub mod cas;
pub mod explain;
pub mod fallback;
pub mod history;
pub mod psbt;
pub mod refund;
pub mod signal;
pub mod singleton;
pub mod smt;
