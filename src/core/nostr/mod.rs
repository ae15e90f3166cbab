//! What Nostr messages are, and how they are kept in order: events, ciphertexts, lanes, outbox.
//!
//! | module | what it is |
//! |---|---|
//! | [`event`] | signed events (NIP-01), and the type of an event whose signature was checked |
//! | [`known`] | events that several relays deliver, verified once |
//! | [`filter`] | what a client asks a relay for (NIP-01) |
//! | [`advert`] | a cohort's public advert, kind 38327, and its share link |
//! | [`seal`] | directed and channel messages, kind 8327, encrypted with NIP-44 |
//! | [`envelope`] | what is inside the ciphertext |
//! | [`chunks`] | messages larger than one event |
//! | [`lanes`] | sequence numbers, deduplication and acknowledgements per lane |
//! | [`outbox`] | what is sent again when, to which relay |
//! | [`pow`] | proof of work for relays that want it |
//! | [`policy`] | which relay addresses may be dialled |
//! | [`information`] | what relays tell of themselves (NIP-11) |
//! | [`relay_list`] | where an aggregator reads and writes (NIP-65) |
//!
//! No type of the `nostr` crate is part of this module's public interface, and no socket is opened: the connections
//! are the business of the `btcr2-agent` crate. Time comes in as a value.

pub mod advert;
pub mod chunks;
pub mod envelope;
pub mod event;
pub mod filter;
pub mod information;
pub mod known;
pub mod lanes;
pub mod outbox;
pub mod policy;
pub mod pow;
pub mod relay_list;
pub mod seal;

pub use event::{Event, EventDraft, EventFault, EventId, VerifiedEvent};
pub use filter::Filter;
pub use policy::RelayUrl;
