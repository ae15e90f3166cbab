//! What is kept of DIDs: sidecar data, bundle, recovery. Whole agents lose and regain it in [`super::e2e`].

mod bundle;
pub mod made;
mod sidecar;
