//! A small Nostr relay over websocket, with switches that make it misbehave.
//!
//! What it is: NIP-01 (EVENT, REQ, CLOSE; EOSE, OK, CLOSED, NOTICE; replaceable,
//! addressable and ephemeral kinds), NIP-09 (deletion by id and by address),
//! NIP-11 (its document), NIP-40 (expired events are refused and never served),
//! NIP-42 (optional: writing needs authentication). Ids and signatures are
//! verified. Everything is bounded, and the bounds are in the NIP-11 document.
//!
//! What it is not: a public relay. Events live in memory, there is no rate
//! limit, no COUNT, no search, and it listens on loopback only.
//!
//! Called by `Lab`; speaks to any Nostr client.
//!
//! The fault switches ([`Faults`]) may be thrown at any time. They exist so that
//! a client can be tested against a relay that lies.

mod faults;
mod filter;
mod limits;
mod session;
mod store;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use nostr::event::Event;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, broadcast, watch};
use tokio::task::JoinHandle;

pub use faults::{Faults, Forgery};

use store::{Outcome, Store, Stored};

/// How long a shutdown waits for connections to close.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// How a relay behaves from the start.
#[derive(Clone, Debug, Default)]
pub struct RelayOptions {
    /// NIP-42: events are taken only from connections that authenticated.
    pub auth_for_writes: bool,
}

/// What all connections share.
struct Hub {
    options: RelayOptions,
    url: String,
    store: Mutex<Store>,
    live: broadcast::Sender<Arc<Stored>>,
    faults: Arc<Faults>,
    /// One permit per open connection.
    connections: Arc<Semaphore>,
    stop: watch::Receiver<bool>,
}

impl Hub {
    /// Stores and forwards one verified event.
    fn publish(&self, event: Event, now: u64) -> Outcome {
        let mut store = self.store.lock();
        let outcome = store.insert(event, now);
        if let Outcome::Taken(stored) = &outcome {
            // Sent under the lock, so that numbers arrive in order. The error
            // only says that nobody listens.
            let _ = self.live.send(stored.clone());
        }
        outcome
    }
}

/// A running relay. Dropping it stops it as well, without waiting.
pub struct Relay {
    hub: Arc<Hub>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Starts a relay on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(options: RelayOptions) -> std::io::Result<Self> {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(any_port).await?;
        let url = format!("ws://{}", listener.local_addr()?);
        let (stop, stopped) = watch::channel(false);
        let hub = Arc::new(Hub {
            options,
            url,
            store: Mutex::new(Store::default()),
            live: broadcast::Sender::new(limits::LIVE_QUEUE),
            faults: Arc::new(Faults::default()),
            connections: Arc::new(Semaphore::new(limits::MAX_CONNECTIONS)),
            stop: stopped.clone(),
        });
        let app = Router::new()
            .route("/", get(front_door))
            .with_state(hub.clone());
        let mut stopping = stopped;
        let task = tokio::spawn(async move {
            let shutdown = async move {
                // An error means that the relay was dropped: stop as well.
                let _ = stopping.wait_for(|stop| *stop).await;
            };
            let serving = axum::serve(listener, app).with_graceful_shutdown(shutdown);
            if let Err(error) = serving.await {
                tracing::warn!(%error, "the relay ended");
            }
        });
        Ok(Self { hub, stop, task })
    }

    /// `ws://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        self.hub.url.clone()
    }

    /// The switches that make it misbehave.
    pub fn faults(&self) -> &Faults {
        &self.hub.faults
    }

    /// All stored events that have not expired, newest first.
    pub fn events(&self) -> Vec<Event> {
        let everything = [filter::Filter::default()];
        let store = self.hub.store.lock();
        let found = store.query(&everything, usize::MAX, unix_seconds());
        found.iter().map(|stored| stored.event.clone()).collect()
    }

    /// Puts an event in as if a client had sent it, without checking its
    /// signature; true when it was taken. For tests that need a lie stored.
    pub fn inject(&self, event: Event) -> bool {
        matches!(self.hub.publish(event, unix_seconds()), Outcome::Taken(_))
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        limits::MAX_CONNECTIONS - self.hub.connections.available_permits()
    }

    /// Closes all connections, stops listening, frees the port (bounded).
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        let all = limits::MAX_CONNECTIONS as u32;
        let drained = async {
            // Errors here mean that there is nothing left to wait for.
            let _ = (&mut self.task).await;
            let _ = self.hub.connections.acquire_many(all).await;
        };
        if tokio::time::timeout(SHUTDOWN_GRACE, drained).await.is_err() {
            self.task.abort();
        }
    }
}

/// GET /: the NIP-11 document, a websocket, or a word for browsers.
async fn front_door(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
    if accept.is_some_and(|a| a.contains("application/nostr+json")) {
        let cors = [
            (header::CONTENT_TYPE, "application/nostr+json"),
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "*"),
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET"),
        ];
        return (cors, document(&hub.options).to_string()).into_response();
    }
    let Ok(upgrade) = upgrade else {
        return "A Nostr relay of a freehold lab: connect by websocket.\n".into_response();
    };
    if hub.faults.refuses_connections() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let Ok(permit) = hub.connections.clone().try_acquire_owned() else {
        return StatusCode::TOO_MANY_REQUESTS.into_response();
    };
    upgrade
        .max_message_size(limits::HARD_MESSAGE_BYTES)
        .max_frame_size(limits::HARD_MESSAGE_BYTES)
        .on_upgrade(move |socket| async move {
            session::serve(hub, socket).await;
            drop(permit);
        })
}

/// The NIP-11 document: the bounds as they are enforced.
fn document(options: &RelayOptions) -> Value {
    json!({
        "name": "freehold lab relay",
        "description": "In-memory relay of a regtest lab; everything is gone when it stops.",
        "supported_nips": [1, 9, 11, 40, 42],
        "version": env!("CARGO_PKG_VERSION"),
        "limitation": {
            "max_message_length": limits::MAX_MESSAGE_BYTES,
            "max_subscriptions": limits::MAX_SUBSCRIPTIONS,
            "max_limit": limits::MAX_LIMIT,
            "default_limit": limits::MAX_LIMIT,
            "max_subid_length": limits::MAX_SUBSCRIPTION_ID,
            "max_event_tags": limits::MAX_EVENT_TAGS,
            "max_content_length": limits::MAX_CONTENT_BYTES,
            "min_pow_difficulty": 0,
            // NIP-11 means "before anything"; reading is free here.
            "auth_required": false,
            "payment_required": false,
            "restricted_writes": options.auth_for_writes,
            "created_at_upper_limit": limits::MAX_AHEAD_SECONDS,
        },
    })
}

/// Seconds since 1970; 0 on a clock set before that.
fn unix_seconds() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
