//! Content-addressed storage over the HTTP interfaces of IPFS.
