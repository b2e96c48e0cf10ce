//! One websocket connection: reads client messages, answers, forwards.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::ws::{Message, WebSocket};
use nostr::event::Event;
use nostr::prelude::{EventBuilder, FinalizeEvent, Keys, Kind};
use rand::RngCore;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::timeout;

use super::faults::Forgery;
use super::filter::Filter;
use super::store::{Outcome, Stored, is_expired};
use super::{Hub, limits, unix_seconds};

/// Kind of an authentication event (NIP-42).
const KIND_AUTH: u16 = 22_242;

/// Kinds tried for a validly signed event that nobody asked for.
const OFF_FILTER_KINDS: [u16; 4] = [1, 7, 9_999, 1_063];

/// The connection is over.
struct Closed;

struct Subscription {
    filters: Vec<Filter>,
    /// Live events up to this number were in the stored answer.
    served: u64,
}

struct Session {
    hub: Arc<Hub>,
    socket: WebSocket,
    subscriptions: HashMap<String, Subscription>,
    /// NIP-42; sent at the start where writing needs it.
    challenge: String,
    authenticated: bool,
    saw_eose: bool,
}

/// Serves one connection until it ends, the relay stops or a fault cuts it.
pub(super) async fn serve(hub: Arc<Hub>, socket: WebSocket) {
    let mut nonce = [0u8; 16];
    rand::thread_rng().fill_bytes(&mut nonce);
    let mut live = hub.live.subscribe();
    let mut hangups = hub.faults.hangups();
    let mut stop = hub.stop.clone();
    let mut session = Session {
        hub,
        socket,
        subscriptions: HashMap::new(),
        challenge: hex::encode(nonce),
        authenticated: false,
        saw_eose: false,
    };
    if session.greet().await.is_err() {
        return;
    }
    loop {
        let goes_on = tokio::select! {
            // In this order: what happened before a client's message reaches
            // the client before the answer to that message.
            biased;
            () = stopped(&mut stop) => {
                // Best effort: the peer may be gone.
                let close = session.socket.send(Message::Close(None));
                let _ = timeout(limits::SEND_TIMEOUT, close).await;
                return;
            }
            _ = hangups.changed() => return,
            event = live.recv() => session.forward(event).await,
            message = session.socket.recv() => match message {
                Some(Ok(message)) => session.received(message).await,
                Some(Err(_)) | None => Err(Closed),
            },
        };
        if goes_on.is_err() {
            return;
        }
    }
}

/// Returns when the relay stops or is dropped.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

impl Session {
    async fn greet(&mut self) -> Result<(), Closed> {
        if self.hub.options.auth_for_writes {
            let challenge = json!(["AUTH", self.challenge]);
            return self.send(challenge).await;
        }
        Ok(())
    }

    async fn send(&mut self, message: Value) -> Result<(), Closed> {
        if self.saw_eose && self.hub.faults.is_silent_after_eose() {
            return Ok(());
        }
        let message = Message::Text(message.to_string().into());
        match timeout(limits::SEND_TIMEOUT, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Closed),
        }
    }

    async fn notice(&mut self, text: &str) -> Result<(), Closed> {
        self.send(json!(["NOTICE", text])).await
    }

    async fn received(&mut self, message: Message) -> Result<(), Closed> {
        let text = match &message {
            Message::Text(text) => text.as_str(),
            // Pongs are sent by the websocket layer.
            Message::Ping(_) | Message::Pong(_) => return Ok(()),
            Message::Binary(_) => return self.notice("invalid: text messages only").await,
            Message::Close(_) => return Err(Closed),
        };
        if text.len() > limits::MAX_MESSAGE_BYTES {
            let most = limits::MAX_MESSAGE_BYTES;
            return self
                .notice(&format!("invalid: more than {most} bytes"))
                .await;
        }
        let parsed = serde_json::from_str::<Value>(text);
        let Some(parts) = parsed.as_ref().ok().and_then(Value::as_array) else {
            return self.notice("invalid: not a JSON list").await;
        };
        match (parts.first().and_then(Value::as_str), parts.get(1..)) {
            (Some("EVENT"), Some([event, ..])) => self.event(event).await,
            (Some("REQ"), Some([id, filters @ ..])) => self.req(id, filters).await,
            (Some("CLOSE"), Some([id, ..])) => {
                self.subscriptions.remove(id.as_str().unwrap_or(""));
                Ok(())
            }
            (Some("AUTH"), Some([event, ..])) => self.auth(event).await,
            _ => {
                self.notice("invalid: EVENT, REQ, CLOSE or AUTH expected")
                    .await
            }
        }
    }

    async fn event(&mut self, value: &Value) -> Result<(), Closed> {
        let Some(id) = value.get("id").and_then(Value::as_str).map(shortened) else {
            return self.notice("invalid: an event has an id").await;
        };
        let (taken, reason) = match self.judge(value) {
            Ok(reason) => (true, reason),
            Err(reason) => (false, reason),
        };
        self.send(json!(["OK", id, taken, reason])).await
    }

    /// Takes an event in; the text of the OK message either way.
    fn judge(&self, value: &Value) -> Result<String, String> {
        let now = unix_seconds();
        let event = verified(value)?;
        if self.hub.options.auth_for_writes && !self.authenticated {
            return Err("auth-required: authenticate before writing".to_owned());
        }
        if u16::from(event.kind) == KIND_AUTH {
            return Err("invalid: send this kind in an AUTH message".to_owned());
        }
        if event.content.len() > limits::MAX_CONTENT_BYTES {
            return Err("invalid: content too long".to_owned());
        }
        if event.tags.iter().count() > limits::MAX_EVENT_TAGS {
            return Err("invalid: too many tags".to_owned());
        }
        if event.created_at.as_secs() > now.saturating_add(limits::MAX_AHEAD_SECONDS) {
            return Err("invalid: created_at is too far in the future".to_owned());
        }
        if self.hub.faults.drops_events() {
            return Ok(String::new());
        }
        match self.hub.publish(event, now) {
            Outcome::Taken(_) => Ok(String::new()),
            Outcome::Duplicate => Ok("duplicate: already have this event".to_owned()),
            Outcome::Refused(reason) => Err(reason.to_owned()),
        }
    }

    async fn req(&mut self, id: &Value, filters: &[Value]) -> Result<(), Closed> {
        let Some(id) = id.as_str().map(str::to_owned) else {
            return self.notice("invalid: a subscription id is a string").await;
        };
        let filters = match self.admit(&id, filters) {
            Ok(filters) => filters,
            Err(reason) => {
                // A refused REQ also ends an older one under its name.
                self.subscriptions.remove(&id);
                return self.send(json!(["CLOSED", shortened(&id), reason])).await;
            }
        };
        let (stored, served) = {
            let store = self.hub.store.lock();
            let now = unix_seconds();
            (
                store.query(&filters, limits::MAX_LIMIT, now),
                store.arrivals(),
            )
        };
        if self.hub.faults.forgery() == Forgery::OffFilter
            && let Some(lie) = off_filter(&filters)
        {
            self.send(json!(["EVENT", id, lie])).await?;
        }
        for found in stored {
            self.serve_event(&id, &found.event).await?;
        }
        self.send(json!(["EOSE", id])).await?;
        self.saw_eose = true;
        let subscription = Subscription { filters, served };
        self.subscriptions.insert(id, subscription);
        Ok(())
    }

    /// Checks a REQ against the bounds and reads its filters.
    fn admit(&self, id: &str, filters: &[Value]) -> Result<Vec<Filter>, String> {
        if id.is_empty() || id.chars().count() > limits::MAX_SUBSCRIPTION_ID {
            let most = limits::MAX_SUBSCRIPTION_ID;
            return Err(format!(
                "invalid: subscription id of 1 to {most} characters"
            ));
        }
        let fresh = !self.subscriptions.contains_key(id);
        if fresh && self.subscriptions.len() >= limits::MAX_SUBSCRIPTIONS {
            let most = limits::MAX_SUBSCRIPTIONS;
            return Err(format!("error: more than {most} subscriptions"));
        }
        if filters.is_empty() || filters.len() > limits::MAX_FILTERS {
            let most = limits::MAX_FILTERS;
            return Err(format!("invalid: 1 to {most} filters"));
        }
        filters.iter().map(Filter::read).collect()
    }

    /// Passes a live event on to the subscriptions that want it.
    async fn forward(&mut self, event: Result<Arc<Stored>, RecvError>) -> Result<(), Closed> {
        let stored = match event {
            Ok(stored) => stored,
            Err(RecvError::Lagged(_)) => {
                // Never leave a silent gap: the client reconnects and asks anew.
                self.notice("error: too slow, events were lost").await?;
                return Err(Closed);
            }
            Err(RecvError::Closed) => return Err(Closed),
        };
        if is_expired(&stored.event, unix_seconds()) {
            return Ok(());
        }
        let to_all = self.hub.faults.forgery() == Forgery::OffFilter;
        let wanted: Vec<String> = self
            .subscriptions
            .iter()
            .filter(|(_, s)| stored.number > s.served)
            .filter(|(_, s)| to_all || s.filters.iter().any(|f| f.matches(&stored.event)))
            .map(|(id, _)| id.clone())
            .collect();
        for id in wanted {
            self.serve_event(&id, &stored.event).await?;
        }
        Ok(())
    }

    async fn serve_event(&mut self, id: &str, event: &Event) -> Result<(), Closed> {
        let mut value = json!(event);
        match self.hub.faults.forgery() {
            Forgery::None | Forgery::OffFilter => {}
            Forgery::BrokenSignature => value["sig"] = json!(broken(&event.sig.to_string())),
            Forgery::AlteredContent => value["content"] = json!(format!("{} ", event.content)),
        }
        self.send(json!(["EVENT", id, value])).await
    }

    async fn auth(&mut self, value: &Value) -> Result<(), Closed> {
        let Some(id) = value.get("id").and_then(Value::as_str).map(shortened) else {
            return self.notice("invalid: an event has an id").await;
        };
        let outcome = self.check_auth(value);
        self.authenticated |= outcome.is_ok();
        let reason = outcome.as_ref().err().cloned().unwrap_or_default();
        self.send(json!(["OK", id, outcome.is_ok(), reason])).await
    }

    fn check_auth(&self, value: &Value) -> Result<(), String> {
        let event = verified(value)?;
        if u16::from(event.kind) != KIND_AUTH {
            return Err("invalid: an authentication has kind 22242".to_owned());
        }
        let age = unix_seconds().abs_diff(event.created_at.as_secs());
        if age > limits::AUTH_WINDOW_SECONDS {
            return Err("invalid: created_at is not now".to_owned());
        }
        let tag = |wanted: &str| {
            event.tags.iter().find_map(|tag| match tag.as_slice() {
                [name, value, ..] if name == wanted => Some(value.as_str()),
                _ => None,
            })
        };
        if tag("challenge") != Some(self.challenge.as_str()) {
            return Err("invalid: not the challenge of this connection".to_owned());
        }
        let relay = tag("relay").map(|url| url.trim_end_matches('/'));
        if relay != Some(self.hub.url.as_str()) {
            return Err(format!("invalid: the relay tag must be {}", self.hub.url));
        }
        Ok(())
    }
}

/// Reads an event and checks id and signature.
fn verified(value: &Value) -> Result<Event, String> {
    let event: Event = serde_json::from_value(value.clone())
        .map_err(|_| "invalid: not an event of NIP-01".to_owned())?;
    if !event.verify_id() {
        return Err("invalid: the id does not match".to_owned());
    }
    if !event.verify_signature() {
        return Err("invalid: the signature does not match".to_owned());
    }
    Ok(event)
}

/// What a peer sent, short enough to be sent back.
fn shortened(text: &str) -> String {
    text.chars().take(limits::MAX_SUBSCRIPTION_ID).collect()
}

/// The signature with its first digit changed.
fn broken(signature: &str) -> String {
    let first = if signature.starts_with('0') { '1' } else { '0' };
    std::iter::once(first)
        .chain(signature.chars().skip(1))
        .collect()
}

/// A validly signed event that none of the filters asks for, if there can be.
fn off_filter(filters: &[Filter]) -> Option<Event> {
    let keys = Keys::generate();
    OFF_FILTER_KINDS.iter().find_map(|kind| {
        let event = EventBuilder::new(Kind::from(*kind), "nobody asked for this")
            .finalize(&keys)
            .ok()?;
        let unwanted = !filters.iter().any(|filter| filter.matches(&event));
        unwanted.then_some(event)
    })
}
