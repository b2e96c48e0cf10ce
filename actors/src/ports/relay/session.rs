//! The protocol on one open connection: NIP-01 messages, AUTH (NIP-42), pings.
//!
//! Not the connection's making or mending (`task`), and not the tables of what is asked
//! and offered (`subscriptions`, `outbox`). What goes to the receiver is queued here and
//! sent as it has room; until then the socket is not read, but commands and pings go on.

use super::outbox::Outcome;
use super::reason::{Reason, ReasonKind, clean};
use super::signer::{public_key, sign_event};
use super::status::Deed;
use super::subscriptions::{AfterClose, Fit};
use super::task::{Command, Relay, Shared, stopped};
use super::{DisconnectReason, Event, EventId, RelayEvent, RelayOffence, RelayStream};
use futures::{SinkExt, StreamExt};
use nostr::event::{FinalizeUnsignedEvent, IntoEventBuilder};
use nostr::message::{ClientMessage, RelayMessage, SubscriptionId};
use nostr::nips::nip42::ClientAuthentication;
use nostr::types::time::Timestamp;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::{Bytes, Error as WsError, Message, Utf8Bytes};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// An open websocket.
pub type Socket = WebSocketStream<MaybeTlsStream<Box<dyn RelayStream>>>;

/// Longest time one write may take before the relay counts as not reading.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time a polite goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest AUTH challenge answered, in bytes; real ones are under 100.
const MAX_CHALLENGE_BYTES: usize = 512;

/// AUTH events signed on one connection: a relay must not make us sign for ever.
const MAX_AUTHS: u32 = 4;

/// How long everything waits for AUTH where the relay's document asks for it: a relay
/// that then sends no challenge is asked without.
const AUTH_WAIT: Duration = Duration::from_secs(5);

/// Messages read from one relay in a second; beyond it the socket waits. A signature takes
/// some 60 microseconds to check, so one relay cannot occupy more than a tenth of a core.
const MAX_MESSAGES_PER_SEC: u32 = 1_500;

/// What can happen after a step.
type Step = Result<(), DisconnectReason>;

#[derive(Debug, PartialEq, Eq)]
enum Auth {
    /// Nobody asked.
    Idle,
    /// Wanted, but the relay's challenge has not come yet.
    Wanted,
    /// Sent; its OK is awaited.
    Sent(EventId),
    /// The relay took it.
    Done,
    /// The relay refused it, or there is no key.
    Failed,
}

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

    async fn text(&mut self, text: Utf8Bytes) -> Step {
        let Ok(message) = RelayMessage::from_json(text.as_bytes()) else {
            return match is_extension(&text) {
                true => Ok(()),
                false => self.offence(RelayOffence::Malformed),
            };
        };
        match message {
            RelayMessage::Event {
                subscription_id,
                event,
            } => self.event(subscription_id.as_str(), event.into_owned()),
            RelayMessage::EndOfStoredEvents(id) => {
                if let Some(subscription) = self.relay.subscriptions.eose(id.as_str()) {
                    self.relay.status.lock().note(Deed::Served);
                    let url = self.relay.url.clone();
                    self.ready.push_back(RelayEvent::Eose { url, subscription });
                }
                Ok(())
            }
            RelayMessage::Ok {
                event_id,
                status,
                message,
            } => self.answer(event_id, status, &message).await,
            RelayMessage::Closed {
                subscription_id,
                message,
            } => self.closed(subscription_id.as_str(), &message).await,
            RelayMessage::Notice(text) => {
                let url = self.relay.url.clone();
                let text = clean(&text);
                self.ready.push_back(RelayEvent::Notice { url, text });
                Ok(())
            }
            RelayMessage::Auth { challenge } => self.challenge(challenge.into_owned()).await,
            // Not asked for: COUNT (NIP-45) and set reconciliation (NIP-77).
            _ => Ok(()),
        }
    }

    /// Judges an event: cheap checks first, the signature last.
    fn event(&mut self, wire_id: &str, event: Event) -> Step {
        let limits = &self.shared.config.limits;
        let Some(subscription) = self.relay.subscriptions.by_wire_id(wire_id) else {
            // One that was just ended may still be answered.
            return match self.relay.subscriptions.was_ours(wire_id) {
                true => Ok(()),
                false => self.offence(RelayOffence::UnknownSubscription),
            };
        };
        match subscription.judge(&event, limits) {
            Fit::Wanted => {}
            Fit::NotMatched => return self.offence(RelayOffence::NotMatched),
            Fit::Flood => return self.offence(RelayOffence::Flood),
        }
        let (id, generation) = (subscription.id.clone(), subscription.generation);
        let key = (generation, event.id.to_bytes());
        if self.shared.seen.lock().touch(&key) {
            return Ok(());
        }
        // Only verified ids enter the memory: a forgery must not hide the genuine event.
        if event.verify().is_err() {
            return self.offence(RelayOffence::Forged);
        }
        if self.shared.seen.lock().insert(key) {
            self.relay.status.lock().events += 1;
            self.ready.push_back(RelayEvent::Event {
                url: self.relay.url.clone(),
                subscription: id,
                event: Box::new(event),
            });
        }
        Ok(())
    }

    async fn answer(&mut self, id: EventId, accepted: bool, message: &str) -> Step {
        let reason = Reason::parse(message);
        if self.auth == Auth::Sent(id) {
            return self.auth_answered(accepted, reason);
        }
        if accepted || reason.kind == ReasonKind::Duplicate {
            if self.relay.outbox.finish(&id, Outcome::Accepted) {
                self.relay.status.lock().note(Deed::Served);
            }
            return Ok(());
        }
        if reason.kind == ReasonKind::AuthRequired && self.relay.outbox.needs_auth(&id) {
            return self.authenticate().await;
        }
        self.relay.outbox.finish(&id, Outcome::Refused(reason));
        Ok(())
    }

    async fn closed(&mut self, wire_id: &str, message: &str) -> Step {
        let reason = Reason::parse(message);
        let wants_auth = reason.kind == ReasonKind::AuthRequired
            && !matches!(self.auth, Auth::Done | Auth::Failed);
        let next = match wants_auth {
            true => AfterClose::NeedsAuth,
            false if reason.is_retryable() => AfterClose::Retry,
            false => AfterClose::GiveUp,
        };
        if wants_auth {
            self.relay
                .subscriptions
                .closed(wire_id, next, Instant::now());
            return self.authenticate().await;
        }
        self.subscription_closed(wire_id, next, reason);
        Ok(())
    }

    fn subscription_closed(&mut self, wire_id: &str, next: AfterClose, reason: Reason) {
        let now = Instant::now();
        if let Some(subscription) = self.relay.subscriptions.closed(wire_id, next, now) {
            let url = self.relay.url.clone();
            self.ready.push_back(RelayEvent::Closed {
                url,
                subscription,
                reason,
            });
        }
    }

    async fn challenge(&mut self, challenge: String) -> Step {
        if challenge.is_empty() || challenge.len() > MAX_CHALLENGE_BYTES {
            return self.offence(RelayOffence::Malformed);
        }
        self.challenge = Some(challenge);
        match self.auth {
            Auth::Wanted => self.authenticate().await,
            _ => Ok(()),
        }
    }

    /// Signs the relay's challenge, if there is one, and a key, and it was not refused yet.
    async fn authenticate(&mut self) -> Step {
        if matches!(self.auth, Auth::Sent(_)) {
            return Ok(());
        }
        let Some(signer) = self.shared.config.auth.clone() else {
            let text = "auth-required: the relay wants a key; configure one or use another relay";
            return self.auth_answered(false, Reason::parse(text));
        };
        if self.auth == Auth::Failed || self.auths >= MAX_AUTHS {
            let text = "auth-required: the relay does not take this key's AUTH";
            return self.auth_answered(false, Reason::parse(text));
        }
        let Some(challenge) = self.challenge.take() else {
            self.auth = Auth::Wanted;
            return Ok(());
        };
        self.auths += 1;
        let signed = public_key(&*signer).and_then(|author| {
            let auth = ClientAuthentication::new(challenge, self.relay.relay_url.clone());
            sign_event(
                auth.into_event_builder().finalize_unsigned(author),
                &*signer,
            )
        });
        match signed {
            Ok(event) => {
                self.auth = Auth::Sent(event.id);
                self.send(ClientMessage::Auth(Cow::Owned(event))).await
            }
            Err(error) => self.auth_answered(false, Reason::local(error.to_string())),
        }
    }

    fn auth_answered(&mut self, accepted: bool, reason: Reason) -> Step {
        let relay = &mut *self.relay;
        if accepted {
            self.auth = Auth::Done;
            relay.subscriptions.auth_succeeded(Instant::now());
            relay.outbox.auth_succeeded();
            return Ok(());
        }
        self.auth = Auth::Failed;
        relay.outbox.auth_failed(&reason);
        for subscription in relay.subscriptions.auth_failed() {
            let (url, reason) = (relay.url.clone(), reason.clone());
            self.ready.push_back(RelayEvent::Closed {
                url,
                subscription,
                reason,
            });
        }
        Ok(())
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

/// Tells a message of some extension, which is passed over, from garbage.
fn is_extension(text: &str) -> bool {
    const KNOWN: [&str; 6] = ["EVENT", "EOSE", "OK", "CLOSED", "NOTICE", "AUTH"];
    let parsed = serde_json::from_str::<Vec<serde_json::Value>>(text);
    let verb = parsed.ok().and_then(|parts| parts.into_iter().next());
    verb.is_some_and(|verb| verb.as_str().is_some_and(|verb| !KNOWN.contains(&verb)))
}

fn now_secs() -> u64 {
    Timestamp::now().as_secs()
}
