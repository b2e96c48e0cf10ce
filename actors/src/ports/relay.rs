//! The Nostr port: events in and out of several relays at once.
//!
//! A small client over the `nostr` crate's types: websocket, NIP-01 (subscriptions, OK,
//! EOSE, CLOSED, NOTICE), NIP-11 (limits, read before anything is sent), NIP-42 (AUTH).
//! It is not a relay, keeps no events, and judges no content: whoever drains the receiver
//! does, with [`listing`] for kind 38717. Started by the discovery shell.
//!
//! **Trust.** A relay is a stranger. Each event is bounded in size, must match a filter of
//! the subscription it came under, must carry the right id and signature, and is handed on
//! once whatever number of relays serve it. What fails is dropped and reported as
//! [`RelayEvent::Misbehaved`]; a relay that keeps on is disconnected and left alone.
//!
//! **Time.** Each relay is one task, which reconnects for ever: first after
//! `backoff_min`, then doubling with jitter up to `backoff_max`. After a reconnect, every
//! subscription is asked again from `resume_overlap_secs` before the last contact.
//!
//! **Back-pressure.** The receiver is bounded and nothing is dropped on overflow: sockets
//! are not read until it is drained. So drain it from a task of its own; a task that
//! awaits [`RelayHandle::publish`] and drains in turn would wait for itself.

mod backoff;
mod config;
mod dial;
mod handle;
mod info;
pub mod listing;
mod outbox;
mod pow;
mod reason;
mod seen;
mod session;
mod signer;
mod status;
mod subscriptions;
mod task;

pub use config::{RelayConfig, RelayLimits};
pub use dial::{Dial, DirectDial, RelayStream};
pub use handle::{PublishReport, RelayHandle};
pub use info::RelayInfo;
pub use reason::{Reason, ReasonKind};
pub use signer::{BadSigner, EventSigner, SecretSigner, public_key, sign_event};
pub use status::RelayStatus;

// The types of Nostr that this port's callers handle.
pub use nostr::event::{Event, EventId, Kind, Tag, UnsignedEvent};
pub use nostr::filter::Filter;

use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// What the relays bring.
#[derive(Debug, Clone, PartialEq)]
pub enum RelayEvent {
    /// A relay is connected and was asked for every subscription.
    Connected {
        /// The relay.
        url: Arc<str>,
    },
    /// A connection ended, or an attempt failed; it will be tried again.
    Disconnected {
        /// The relay.
        url: Arc<str>,
        /// Why.
        reason: DisconnectReason,
    },
    /// An event: verified, matching, and not handed on before under this subscription.
    Event {
        /// The relay that was first to bring it.
        url: Arc<str>,
        /// The caller's name of the subscription.
        subscription: Arc<str>,
        /// The event.
        event: Box<Event>,
    },
    /// A relay has delivered all its stored events; what follows is new.
    Eose {
        /// The relay.
        url: Arc<str>,
        /// The caller's name of the subscription.
        subscription: Arc<str>,
    },
    /// A relay ended a subscription, or its limits forbid to ask. Passing reasons are
    /// retried; the rest wait for the next connection.
    Closed {
        /// The relay.
        url: Arc<str>,
        /// The caller's name of the subscription.
        subscription: Arc<str>,
        /// Why.
        reason: Reason,
    },
    /// A relay says something to a person.
    Notice {
        /// The relay.
        url: Arc<str>,
        /// Its words, bounded.
        text: String,
    },
    /// A relay did what an honest one does not; the data was dropped.
    Misbehaved {
        /// The relay.
        url: Arc<str>,
        /// What it did.
        kind: RelayOffence,
    },
}

/// What a relay can do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RelayOffence {
    /// A message that is not Nostr's.
    Malformed,
    /// A message beyond `max_message_bytes`.
    TooLarge,
    /// An event whose id or signature is wrong.
    Forged,
    /// An event that no filter of its subscription asked for.
    NotMatched,
    /// An event for a subscription that never existed.
    UnknownSubscription,
    /// More stored events than a filter's `limit` asked for.
    Flood,
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DisconnectReason {
    /// It could not be opened.
    #[error("cannot connect: {error}")]
    Unreachable {
        /// What the network, TLS or websocket layer said.
        error: String,
    },
    /// It was not open within `connect_timeout`.
    #[error("no connection within the time limit")]
    ConnectTimeout,
    /// The relay closed it.
    #[error("the relay closed the connection: {text}")]
    ClosedByRelay {
        /// Its words, bounded; may be empty.
        text: String,
    },
    /// The connection broke.
    #[error("the connection broke: {error}")]
    Broken {
        /// What the network layer said.
        error: String,
    },
    /// Nothing came for `idle_timeout`, not even an answer to a ping.
    #[error("the relay fell silent")]
    Silent,
    /// The relay does not read what is sent to it.
    #[error("the relay does not read")]
    NotReading,
    /// Too many offences; it is left alone for `backoff_max`.
    #[error("the relay misbehaved too often")]
    Misbehaved,
    /// This side is shutting down.
    #[error("shut down")]
    Shutdown,
}

/// Why a pool cannot start, or cannot take a subscription.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// No relay is configured.
    #[error("no relay is configured; name at least one, better three, in the config")]
    NoRelays,
    /// More relays than the bound.
    #[error("{have} relays are configured, at most {max} are allowed; remove some")]
    TooManyRelays {
        /// Relays named.
        have: usize,
        /// The bound.
        max: usize,
    },
    /// An address that is no relay's.
    #[error("`{url}` is no relay address; write wss://host or ws://host:port")]
    BadUrl {
        /// The address.
        url: String,
    },
    /// The HTTP client for NIP-11 could not be made.
    #[error("cannot set up HTTP for relay information: {error}")]
    Http {
        /// What it said.
        error: String,
    },
    /// A subscription without a filter asks for nothing.
    #[error("a subscription needs at least one filter")]
    NoFilters,
    /// A subscription with more filters than the bound.
    #[error("{have} filters in one subscription, at most {max} are allowed")]
    TooManyFilters {
        /// Filters given.
        have: usize,
        /// The bound.
        max: usize,
    },
    /// More subscriptions than the bound.
    #[error("{max} subscriptions are open; unsubscribe one first")]
    TooManySubscriptions {
        /// The bound.
        max: usize,
    },
    /// The pool was shut down.
    #[error("the relay pool was shut down")]
    Stopped,
}

/// Starts pools.
#[derive(Debug)]
pub struct RelayPool;

impl RelayPool {
    /// Starts one task per relay on the current tokio runtime. They end when every handle
    /// or the receiver is dropped, or at [`RelayHandle::shutdown`].
    pub fn start(
        config: RelayConfig,
    ) -> Result<(RelayHandle, mpsc::Receiver<RelayEvent>), RelayError> {
        let urls = task::addresses(&config)?;
        let http = task::http_client()?;
        let (events, receiver) = mpsc::channel(config.limits.channel.max(1));
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(task::Shared {
            seen: Mutex::new(seen::Seen::new(config.limits.max_seen)),
            config,
            http,
        });
        let links = urls
            .into_iter()
            .map(|url| task::spawn(url, shared.clone(), events.clone(), stopped.clone()));
        let handle = RelayHandle::new(links.collect(), shared.config.limits.clone(), stop);
        Ok((handle, receiver))
    }
}
