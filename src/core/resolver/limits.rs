//! Bounds on the work that strangers' data can cause. All of them lie far above what honest DIDs need; beyond
//! them a resolution ends with INTERNAL_ERROR, which says nothing about the DID.

/// Most beacon addresses that are looked up for one DID.
pub const MAX_BEACONS: usize = 1_000;

/// Most signals that are read for one DID, those of all its beacons together.
pub const MAX_SIGNALS: usize = 100_000;

/// Most bytes of signed updates that are kept from content-addressed storage.
pub const MAX_RETRIEVED_BYTES: usize = 64 << 20;

/// Most bytes of documents and updates that are worked through: an update costs the bytes of its own and of the
/// document it leads to, so that many updates of a large document end somewhere.
pub const MAX_APPLIED_BYTES: usize = 256 << 20;

/// Most entries of one list of a sidecar.
pub const MAX_SIDECAR_ITEMS: usize = 100_000;

/// Most different proofs that a sidecar can hold for one SMT root. There is a use for one.
pub const MAX_PROOFS_PER_ROOT: usize = 16;
