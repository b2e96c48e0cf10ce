//! One relay's life: look up its limits, connect, hold a session, wait, again.
//!
//! Not the protocol on an open connection (`session`). Commands are obeyed at every
//! stage, so that nobody waits for a relay that is away.

use super::backoff::Backoff;
use super::config::RelayConfig;
use super::info::{self, RelayInfo};
use super::outbox::{Outbox, Publish};
use super::seen::Seen;
use super::session::{Session, Socket};
use super::status::{Deed, RelayStatus};
use super::subscriptions::Subscriptions;
use super::{DisconnectReason, Filter, RelayError, RelayEvent};
use nostr::types::url::RelayUrl;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::client_async_tls_with_config;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// Commands waiting for one relay: a burst of publishes, never a backlog.
const COMMAND_QUEUE: usize = 64;

/// How long a relay's information document is believed: limits change rarely, and a
/// flapping connection should not ask each time.
const INFO_LIFE: Duration = Duration::from_secs(3_600);

/// A connection that lasted this long counts as good, and the next wait is short again.
const GOOD_CONNECTION: Duration = Duration::from_secs(30);

/// What all relays of a pool share.
pub struct Shared {
    /// What the caller decided.
    pub config: RelayConfig,
    /// Events handed on already.
    pub seen: Mutex<Seen>,
    /// For NIP-11.
    pub http: reqwest::Client,
}

/// What the handle tells a relay's task.
#[derive(Debug)]
pub enum Command {
    /// Ask for this, stored and new.
    Subscribe {
        /// The caller's name for it.
        id: Arc<str>,
        /// A number unique in the pool.
        generation: u64,
        /// What is wanted.
        filters: Arc<[Filter]>,
    },
    /// Ask no more.
    Unsubscribe {
        /// The caller's name for it.
        id: Arc<str>,
    },
    /// Offer an event.
    Publish(Publish),
}

/// The handle's end of one relay.
#[derive(Debug)]
pub struct Link {
    /// Its address as configured.
    pub url: Arc<str>,
    /// Its commands.
    pub commands: mpsc::Sender<Command>,
    /// How it does.
    pub status: Arc<Mutex<RelayStatus>>,
}

/// One relay, as its task sees it.
pub struct Relay {
    /// Its address as configured.
    pub url: Arc<str>,
    /// The same, for AUTH.
    pub relay_url: RelayUrl,
    /// What all relays share.
    pub shared: Arc<Shared>,
    /// From the handle.
    pub commands: mpsc::Receiver<Command>,
    /// To the receiver.
    pub events: mpsc::Sender<RelayEvent>,
    /// True once the pool shuts down.
    pub stopped: watch::Receiver<bool>,
    /// How it does.
    pub status: Arc<Mutex<RelayStatus>>,
    /// What is asked of it.
    pub subscriptions: Subscriptions,
    /// What is offered to it.
    pub outbox: Outbox,
    /// Its limits, as far as it states any.
    pub info: RelayInfo,
    info_until: Option<Instant>,
}

/// The pool is shutting down.
pub struct Stopped;

/// Checks and lists the configured addresses, without repetitions.
pub fn addresses(config: &RelayConfig) -> Result<Vec<(Arc<str>, RelayUrl)>, RelayError> {
    let mut found: Vec<(Arc<str>, RelayUrl)> = Vec::new();
    for text in &config.relays {
        let bad = || RelayError::BadUrl { url: text.clone() };
        let url = RelayUrl::parse(text.trim()).map_err(|_| bad())?;
        url.host().ok_or_else(bad)?;
        let known = url.as_str_without_trailing_slash();
        if found
            .iter()
            .all(|(_, other)| other.as_str_without_trailing_slash() != known)
        {
            found.push((text.trim().into(), url));
        }
    }
    let (have, max) = (found.len(), config.limits.max_relays);
    match have {
        0 => Err(RelayError::NoRelays),
        _ if have > max => Err(RelayError::TooManyRelays { have, max }),
        _ => Ok(found),
    }
}

/// Builds the client for NIP-11. No redirects: a relay must not send us elsewhere. No
/// proxy from the environment: the websocket would not take it either.
pub fn http_client() -> Result<reqwest::Client, RelayError> {
    // Both TLS users below take the process's provider; the first choice stands.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(|error| RelayError::Http {
            error: error.to_string(),
        })
}

/// Starts a relay's task.
pub fn spawn(
    (url, relay_url): (Arc<str>, RelayUrl),
    shared: Arc<Shared>,
    events: mpsc::Sender<RelayEvent>,
    stopped: watch::Receiver<bool>,
) -> (Link, JoinHandle<()>) {
    let (sender, commands) = mpsc::channel(COMMAND_QUEUE);
    let status = Arc::new(Mutex::new(RelayStatus::new(&url)));
    let link = Link {
        url: url.clone(),
        commands: sender,
        status: status.clone(),
    };
    let relay = Relay {
        url,
        relay_url,
        shared,
        commands,
        events,
        stopped,
        status,
        subscriptions: Subscriptions::default(),
        outbox: Outbox::default(),
        info: RelayInfo::default(),
        info_until: None,
    };
    let task = tokio::spawn(async move {
        // `Stopped` is the only way out.
        let Err(Stopped) = relay.run().await;
    });
    (link, task)
}

impl Relay {
    async fn run(mut self) -> Result<std::convert::Infallible, Stopped> {
        let limits = self.shared.config.limits.clone();
        let mut backoff = Backoff::new(limits.backoff_min, limits.backoff_max);
        loop {
            let reason = match self.connect().await? {
                Ok(socket) => {
                    let since = Instant::now();
                    let reason = self.hold(socket).await;
                    if since.elapsed() >= GOOD_CONNECTION {
                        backoff.reset();
                    }
                    reason
                }
                Err(reason) => reason,
            };
            if reason == DisconnectReason::Shutdown {
                return Err(Stopped);
            }
            if reason == DisconnectReason::Misbehaved {
                backoff.punish();
            }
            self.lost(reason).await?;
            let wait = backoff.next_wait(&mut rand::thread_rng());
            self.meanwhile(sleep(wait)).await?;
        }
    }

    async fn connect(&mut self) -> Result<Result<Socket, DisconnectReason>, Stopped> {
        let direct = self.shared.config.dialer.is_direct();
        if direct && self.info_until.is_none_or(|until| until < Instant::now()) {
            let (shared, url) = (self.shared.clone(), self.url.clone());
            let found = self
                .meanwhile(async move { info::fetch(&shared.http, &url).await })
                .await?;
            self.info_until = found.is_some().then(|| Instant::now() + INFO_LIFE);
            self.info = found.unwrap_or_default();
        }
        let opening = open(
            self.shared.clone(),
            self.url.clone(),
            self.relay_url.clone(),
        );
        let bound = self.shared.config.limits.connect_timeout;
        let opened = self.meanwhile(timeout(bound, opening)).await?;
        Ok(opened.unwrap_or(Err(DisconnectReason::ConnectTimeout)))
    }

    async fn hold(&mut self, socket: Socket) -> DisconnectReason {
        {
            let mut status = self.status.lock();
            status.connected = true;
            status.last_error = None;
            status.note(Deed::Connected);
        }
        self.subscriptions.connection_opened(Instant::now());
        self.outbox.connection_opened();
        let reason = Session::new(self, socket).run().await;
        self.status.lock().connected = false;
        reason
    }

    async fn lost(&mut self, reason: DisconnectReason) -> Result<(), Stopped> {
        tracing::debug!(relay = %self.url, %reason, "relay connection ended");
        {
            let mut status = self.status.lock();
            status.last_error = Some(reason.to_string());
            status.note(Deed::Failed);
        }
        let url = self.url.clone();
        let events = self.events.clone();
        let event = RelayEvent::Disconnected { url, reason };
        let sent = self
            .meanwhile(async move { events.send(event).await })
            .await?;
        sent.map_err(|_| Stopped)
    }

    /// Obeys commands until `other` is done.
    async fn meanwhile<T>(&mut self, other: impl Future<Output = T>) -> Result<T, Stopped> {
        tokio::pin!(other);
        loop {
            tokio::select! {
                done = &mut other => return Ok(done),
                command = self.commands.recv() => {
                    self.obey(command.ok_or(Stopped)?);
                }
                () = stopped(&mut self.stopped) => return Err(Stopped),
                () = self.events.closed() => return Err(Stopped),
            }
        }
    }

    /// Notes a command in the tables; returns the wire name of a subscription to close.
    pub fn obey(&mut self, command: Command) -> Option<String> {
        match command {
            Command::Subscribe {
                id,
                generation,
                filters,
            } => {
                let replaced = self.subscriptions.remove(&id);
                self.subscriptions
                    .add(id, generation, filters, Instant::now());
                replaced
            }
            Command::Unsubscribe { id } => self.subscriptions.remove(&id),
            Command::Publish(publish) => {
                let max = self.shared.config.limits.max_pending_publishes;
                self.outbox.add(publish, max);
                None
            }
        }
    }
}

/// Waits until the pool shuts down; a pool without a handle is one.
pub async fn stopped(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn open(
    shared: Arc<Shared>,
    url: Arc<str>,
    relay_url: RelayUrl,
) -> Result<Socket, DisconnectReason> {
    let failed = |error: &dyn std::fmt::Display| DisconnectReason::Unreachable {
        error: super::reason::clean(&error.to_string()),
    };
    let request = (&*url)
        .into_client_request()
        .map_err(|error| failed(&error))?;
    let host = request.uri().host().unwrap_or_default().to_owned();
    let default_port = if relay_url.scheme().is_secure() {
        443
    } else {
        80
    };
    let port = request.uri().port_u16().unwrap_or(default_port);
    let dialled = shared.config.dialer.dial(&host, port).await;
    let stream = dialled.map_err(|error| failed(&error))?;
    let bound = shared.config.limits.max_message_bytes;
    let config = WebSocketConfig::default()
        .max_message_size(Some(bound))
        .max_frame_size(Some(bound));
    let opened = client_async_tls_with_config(request, stream, Some(config), None).await;
    opened
        .map(|(socket, _)| socket)
        .map_err(|error| failed(&error))
}
