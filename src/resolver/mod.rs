//! Resolution of did:btcr2 (spec.md §3.3, §3.4), without any input or output.
