//! Everything Nostr: codec, relay connections, inbox, outbox, channel.
