//! Chain backends and the in-process regtest chain.
