//! The relay's bounds, each with its reason.

use std::time::Duration;

/// Longest message taken, bytes: what many public relays take.
pub(super) const MAX_MESSAGE_BYTES: usize = 65_536;

/// Longest message read at all. Between the two bounds a client gets a NOTICE,
/// above this one the connection ends.
pub(super) const HARD_MESSAGE_BYTES: usize = 4 * MAX_MESSAGE_BYTES;

/// Open subscriptions per connection.
pub(super) const MAX_SUBSCRIPTIONS: usize = 32;

/// Length of a subscription id, characters (NIP-01).
pub(super) const MAX_SUBSCRIPTION_ID: usize = 64;

/// Filters per REQ.
pub(super) const MAX_FILTERS: usize = 16;

/// Values in one list of a filter; a message could carry about as many ids.
pub(super) const MAX_FILTER_VALUES: usize = 1_000;

/// Events one filter gets from the store.
pub(super) const MAX_LIMIT: usize = 500;

/// Tags of one event.
pub(super) const MAX_EVENT_TAGS: usize = 1_000;

/// Content of one event, bytes; leaves room for tags within a message.
pub(super) const MAX_CONTENT_BYTES: usize = 60_000;

/// Events kept. The one with the oldest date goes first.
pub(super) const MAX_EVENTS: usize = 20_000;

/// Deletions remembered. Then new deletions are refused: forgetting an old one
/// would bring a deleted event back.
pub(super) const MAX_TOMBSTONES: usize = 50_000;

/// Connections at once.
pub(super) const MAX_CONNECTIONS: usize = 512;

/// Live events waiting for a slow connection, which is closed beyond.
pub(super) const LIVE_QUEUE: usize = 1_024;

/// How far an event's date may be ahead, seconds: clocks differ.
pub(super) const MAX_AHEAD_SECONDS: u64 = 900;

/// How old or new an authentication may be, seconds (NIP-42: about 10 minutes).
pub(super) const AUTH_WINDOW_SECONDS: u64 = 600;

/// How long one message may take to leave. A peer that does not read is cut.
pub(super) const SEND_TIMEOUT: Duration = Duration::from_secs(10);
