//! One open connection: what goes out, what comes in, pings, silence.
//!
//! What the relay says is understood in `incoming`, AUTH (NIP-42) is done in `auth`.
//!
//! Not the connection's making or mending (`task`), and not the tables of what is asked
//! and offered (`subscriptions`, `outbox`). What goes to the receiver is queued here and
//! sent as it has room; until then the socket is not read, but commands and pings go on.

mod auth;
mod incoming;

use self::auth::Auth;
use super::outbox::Outcome;
use super::reason::{Reason, clean};
use super::status::Deed;
use super::subscriptions::AfterClose;
use super::task::{Command, Relay, Shared, stopped};
use super::{DisconnectReason, RelayEvent, RelayOffence, RelayStream};
use futures::{SinkExt, StreamExt};
use nostr::message::{ClientMessage, SubscriptionId};
use nostr::types::time::Timestamp;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::{Bytes, Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// An open websocket.
pub type Socket = WebSocketStream<MaybeTlsStream<Box<dyn RelayStream>>>;

/// Longest time one write may take before the relay counts as not reading.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time a polite goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long everything waits for AUTH where the relay's document asks for it: a relay
/// that then sends no challenge is asked without.
const AUTH_WAIT: Duration = Duration::from_secs(5);

/// Messages read from one relay in a second; beyond it the socket waits. A signature takes
/// some 60 microseconds to check, so one relay cannot occupy more than a tenth of a core.
const MAX_MESSAGES_PER_SEC: u32 = 1_500;

/// What can happen after a step.
type Step = Result<(), DisconnectReason>;

/// What a session was woken by.
enum Woken {
    Stop,
    Command(Command),
    Delivered,
    Frame(Option<Result<Message, WsError>>),
    Timer,
}

/// One connection's state.
pub struct Session<'a> {
    relay: &'a mut Relay,
    shared: Arc<Shared>,
    socket: Socket,
    /// What waits for room in the receiver: a few events, made by one message.
    ready: VecDeque<RelayEvent>,
    auth: Auth,
    auths: u32,
    challenge: Option<String>,
    offences: u32,
    opened: Instant,
    last_heard: Instant,
    last_heard_secs: u64,
    next_ping: Instant,
    pinged: Option<Instant>,
    second: Instant,
    read_this_second: u32,
}

impl<'a> Session<'a> {
    /// Takes over an open socket.
    pub fn new(relay: &'a mut Relay, socket: Socket) -> Self {
        let now = Instant::now();
        let url = relay.url.clone();
        let auth = match relay.info.auth_required && relay.shared.config.auth.is_some() {
            true => Auth::Wanted,
            false => Auth::Idle,
        };
        Self {
            shared: relay.shared.clone(),
            relay,
            socket,
            ready: VecDeque::from([RelayEvent::Connected { url }]),
            auth,
            auths: 0,
            challenge: None,
            offences: 0,
            opened: now,
            last_heard: now,
            last_heard_secs: now_secs(),
            next_ping: now,
            pinged: None,
            second: now,
            read_this_second: 0,
        }
    }

    /// Holds the connection until it ends; returns why it did.
    pub async fn run(mut self) -> DisconnectReason {
        let reason = match self.serve().await {
            Err(reason) => reason,
            Ok(never) => match never {},
        };
        self.relay
            .subscriptions
            .connection_lost(self.last_heard_secs);
        let _ = timeout(CLOSE_TIMEOUT, self.socket.close(None)).await;
        // What was verified before the end is still worth having.
        for event in std::mem::take(&mut self.ready) {
            if self.relay.events.try_send(event).is_err() {
                break;
            }
        }
        reason
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, DisconnectReason> {
        loop {
            self.send_due().await?;
            let now = Instant::now();
            let paused = self.read_this_second >= MAX_MESSAGES_PER_SEC;
            let reading = self.ready.is_empty() && !paused;
            let wake = self.wake(now, reading, paused);
            let relay = &mut *self.relay;
            // Nothing borrowed may leave the select, or its other branches could not act.
            let woken = tokio::select! {
                () = stopped(&mut relay.stopped) => Woken::Stop,
                () = relay.events.closed() => Woken::Stop,
                command = relay.commands.recv() => command.map_or(Woken::Stop, Woken::Command),
                () = deliver(&relay.events, &mut self.ready), if !self.ready.is_empty() => Woken::Delivered,
                frame = self.socket.next(), if reading => Woken::Frame(frame),
                () = sleep_until(wake) => Woken::Timer,
            };
            match woken {
                Woken::Stop => return Err(DisconnectReason::Shutdown),
                Woken::Command(command) => {
                    if let Some(wire_id) = self.relay.obey(command) {
                        let id = SubscriptionId::new(wire_id);
                        self.send(ClientMessage::Close(Cow::Owned(id))).await?;
                    }
                }
                // Silence is only counted while we listen.
                Woken::Delivered => self.last_heard = Instant::now(),
                Woken::Frame(frame) => self.frame(frame).await?,
                Woken::Timer => self.tick(reading).await?,
            }
        }
    }

    fn wake(&self, now: Instant, reading: bool, paused: bool) -> Instant {
        let limits = &self.shared.config.limits;
        let mut wake = self.next_ping;
        if reading {
            wake = wake.min(self.last_heard + limits.idle_timeout);
        }
        if paused {
            wake = wake.min(self.second + Duration::from_secs(1));
        }
        if self.auth_comes_first(now) {
            wake = wake.min(self.opened + AUTH_WAIT);
        }
        wake.min(self.relay.subscriptions.deadline(now).unwrap_or(wake))
    }

    async fn tick(&mut self, reading: bool) -> Step {
        let now = Instant::now();
        let limits = &self.shared.config.limits;
        if reading && now >= self.last_heard + limits.idle_timeout {
            return Err(DisconnectReason::Silent);
        }
        if now >= self.second + Duration::from_secs(1) {
            self.second = now;
            self.read_this_second = 0;
        }
        if now >= self.next_ping {
            self.next_ping = now + limits.ping_every;
            self.relay.outbox.expire(now);
            self.pinged = Some(now);
            self.write(Message::Ping(Bytes::new())).await?;
        }
        Ok(())
    }

    fn auth_comes_first(&self, now: Instant) -> bool {
        self.relay.info.auth_required
            && matches!(self.auth, Auth::Wanted | Auth::Sent(_))
            && now < self.opened + AUTH_WAIT
    }

    /// Sends what the tables say is due, unless AUTH must come first.
    async fn send_due(&mut self) -> Step {
        if self.auth_comes_first(Instant::now()) {
            return Ok(());
        }
        while let Some(publish) = self.relay.outbox.next_due() {
            let message = &publish.message;
            match self
                .relay
                .info
                .refuses(&publish.event, message.len(), now_secs())
            {
                Some(reason) => {
                    self.relay
                        .outbox
                        .finish(&publish.event.id, Outcome::Refused(reason));
                }
                None => self.write(Message::text(&**message)).await?,
            }
        }
        let limits = self.shared.config.limits.clone();
        loop {
            let (now, relay) = (Instant::now(), &mut *self.relay);
            let Some(request) = relay.subscriptions.next_due(now, &limits, &relay.info) else {
                return Ok(());
            };
            let message = ClientMessage::Req {
                subscription_id: Cow::Owned(SubscriptionId::new(&*request.wire_id)),
                filters: request.filters.into_iter().map(Cow::Owned).collect(),
            };
            let text = message.as_json();
            let limit = self.relay.info.max_message_length;
            if let Some(limit) = limit.filter(|&limit| text.len() as u64 > limit) {
                let reason = Reason::local(format!("the filters exceed the relay's {limit} bytes"));
                self.subscription_closed(&request.wire_id, AfterClose::GiveUp, reason);
            } else {
                self.write(Message::text(text)).await?;
            }
        }
    }

    async fn frame(&mut self, frame: Option<Result<Message, WsError>>) -> Step {
        self.last_heard = Instant::now();
        self.last_heard_secs = now_secs();
        self.read_this_second += 1;
        match frame {
            Some(Ok(Message::Text(text))) => self.text(text).await,
            Some(Ok(Message::Pong(_))) => {
                if let Some(pinged) = self.pinged.take() {
                    let ms = u64::try_from(pinged.elapsed().as_millis()).unwrap_or(u64::MAX);
                    self.relay.status.lock().latency_ms = Some(ms);
                }
                Ok(())
            }
            Some(Ok(Message::Ping(_))) => {
                // The library has queued the pong; it goes out with a flush.
                self.flush().await
            }
            Some(Ok(Message::Binary(_))) => self.offence(RelayOffence::Malformed),
            Some(Ok(Message::Close(frame))) => {
                let text = frame.map(|frame| clean(&frame.reason)).unwrap_or_default();
                Err(DisconnectReason::ClosedByRelay { text })
            }
            Some(Ok(Message::Frame(_))) => Ok(()),
            Some(Err(WsError::Capacity(_))) => {
                self.offence(RelayOffence::TooLarge)?;
                Err(DisconnectReason::Misbehaved)
            }
            Some(Err(error)) => {
                let error = clean(&error.to_string());
                Err(DisconnectReason::Broken { error })
            }
            None => Err(DisconnectReason::ClosedByRelay {
                text: String::new(),
            }),
        }
    }

    fn offence(&mut self, kind: RelayOffence) -> Step {
        tracing::debug!(relay = %self.relay.url, ?kind, "relay misbehaved");
        self.relay.status.lock().note(Deed::Offended);
        let url = self.relay.url.clone();
        self.ready.push_back(RelayEvent::Misbehaved { url, kind });
        self.offences += 1;
        match self.offences > self.shared.config.limits.max_offences {
            true => Err(DisconnectReason::Misbehaved),
            false => Ok(()),
        }
    }

    async fn send(&mut self, message: ClientMessage<'_>) -> Step {
        self.write(Message::text(message.as_json())).await
    }

    async fn write(&mut self, message: Message) -> Step {
        written(timeout(WRITE_TIMEOUT, self.socket.send(message)).await)
    }

    async fn flush(&mut self) -> Step {
        written(timeout(WRITE_TIMEOUT, self.socket.flush()).await)
    }
}

/// Hands on the oldest event once there is room; harmless when cancelled before.
async fn deliver(events: &mpsc::Sender<RelayEvent>, ready: &mut VecDeque<RelayEvent>) {
    // A closed receiver is noticed beside this.
    if let Ok(permit) = events.reserve().await
        && let Some(event) = ready.pop_front()
    {
        permit.send(event);
    }
}

fn written(result: Result<Result<(), WsError>, tokio::time::error::Elapsed>) -> Step {
    let sent = result.map_err(|_| DisconnectReason::NotReading)?;
    sent.map_err(|error| DisconnectReason::Broken {
        error: clean(&error.to_string()),
    })
}

fn now_secs() -> u64 {
    Timestamp::now().as_secs()
}
