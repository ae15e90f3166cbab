//! Everything Nostr: relay connections here, codec, lanes and outbox in the core.
//!
//! | module | what it is |
//! |---|---|
//! | [`link`] | live connections to the relays |
//! | [`information`] | asks relays what they are (NIP-11) |
//! | [`relay`] | an in-memory relay on loopback, for the demo and the tests |
//! | the others | see [`btcr2_core::nostr`] |
//!
//! No type of `nostr-sdk` is part of this module's public interface: its next line replaces this one behind [`link`]
//! (and, for NIP-19 and NIP-44, [`advert`] and [`seal`]) alone.

pub mod information;
pub mod link;
pub mod relay;

pub use btcr2_core::nostr::{
    Event, EventDraft, EventFault, EventId, Filter, RelayUrl, VerifiedEvent, advert, chunks,
    envelope, event, filter, known, lanes, outbox, policy, pow, relay_list, seal,
};
