//! Beacons: how updates become 32 bytes, and how those 32 bytes reach the chain.
