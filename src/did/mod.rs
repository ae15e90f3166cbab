//! did:btcr2 identifiers, documents, JSON hashing and signed updates.
