//! What the caller of the relay port decides: relays, key, bounds.
//!
//! Not a relay's own limits (`info`).

use super::dial::{Dial, DirectDial};
use super::signer::EventSigner;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Everything a pool needs at its start.
#[derive(Clone)]
pub struct RelayConfig {
    /// Relay addresses, `wss://…` or `ws://…`; at least three are advised.
    pub relays: Vec<String>,
    /// The key for AUTH (NIP-42); without one, relays that demand AUTH are of no use.
    /// It is shown to a relay only when that relay asks for it.
    pub auth: Option<Arc<dyn EventSigner>>,
    /// Bounds on size, number and time.
    pub limits: RelayLimits,
    /// How streams are opened.
    pub dialer: Arc<dyn Dial>,
}

impl RelayConfig {
    /// Takes these relays, dialled directly, with no key and the default bounds.
    pub fn new(relays: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            relays: relays.into_iter().map(Into::into).collect(),
            auth: None,
            limits: RelayLimits::default(),
            dialer: Arc::new(DirectDial),
        }
    }

    /// Uses `signer` where a relay demands AUTH.
    pub fn with_auth(mut self, signer: Arc<dyn EventSigner>) -> Self {
        self.auth = Some(signer);
        self
    }
}

impl fmt::Debug for RelayConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayConfig")
            .field("relays", &self.relays)
            .field("auth", &self.auth.as_ref().map(|signer| signer.author()))
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Bounds on one pool. The defaults say why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayLimits {
    /// Relays in a pool: more bring no more hosts, only more duplicates.
    pub max_relays: usize,
    /// Bytes of one incoming websocket message. Relays take 16 to 64 KiB, some 512 KiB;
    /// nothing that freehold reads is near 128 KiB.
    pub max_message_bytes: usize,
    /// Subscriptions at once; relays commonly allow 20.
    pub max_subscriptions: usize,
    /// Filters per subscription; NIP-01 sets no bound, relays commonly take 10.
    pub max_filters: usize,
    /// Stored events taken from one relay for one subscription; the rest is passed over.
    pub max_stored_events: usize,
    /// Event ids remembered against duplicates: about 150 bytes each.
    pub max_seen: usize,
    /// Events waiting for the receiver; beyond it sockets are not read.
    pub channel: usize,
    /// Events of ours that wait for one relay's answer.
    pub max_pending_publishes: usize,
    /// Offences on one connection after which it is closed and the relay left alone for
    /// `backoff_max`.
    pub max_offences: u32,
    /// Time for TCP, TLS and the websocket handshake together.
    pub connect_timeout: Duration,
    /// Time to wait for OK.
    pub publish_timeout: Duration,
    /// Time the other relays get after the first one took the event.
    pub publish_grace: Duration,
    /// Pause between pings: under the 60 s after which proxies drop idle connections.
    pub ping_every: Duration,
    /// Silence after which a connection counts as dead: two pings and some slack.
    pub idle_timeout: Duration,
    /// Shortest wait before a reconnect.
    pub backoff_min: Duration,
    /// Longest wait before a reconnect.
    pub backoff_max: Duration,
    /// How far before the last contact a resumed subscription asks again, in seconds: covers
    /// clocks that disagree and events dated before they were mined and sent.
    pub resume_overlap_secs: u64,
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self {
            max_relays: 16,
            max_message_bytes: 128 * 1024,
            max_subscriptions: 16,
            max_filters: 8,
            max_stored_events: 5_000,
            max_seen: 20_000,
            channel: 256,
            max_pending_publishes: 64,
            max_offences: 20,
            connect_timeout: Duration::from_secs(15),
            publish_timeout: Duration::from_secs(10),
            publish_grace: Duration::from_secs(2),
            ping_every: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(300),
            resume_overlap_secs: 900,
        }
    }
}
