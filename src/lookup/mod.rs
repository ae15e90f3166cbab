//! Drives a [`crate::resolver`]: chain data from a backend or a recording, objects from a CAS.
