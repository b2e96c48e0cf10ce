//! Pools, events and waiting with a bound, for the relay tests.

use actors::ports::relay::{
    Event, EventSigner, Filter, Kind, RelayConfig, RelayEvent, RelayHandle, RelayLimits, RelayPool,
    SecretSigner, Tag, UnsignedEvent, public_key, sign_event,
};
use lab::relay::{Relay, RelayOptions};
use protocol::time::WallTime;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// Nothing here takes longer on a loaded machine.
pub const BOUND: Duration = Duration::from_secs(30);

/// A relay to test against: the one from outside, or a fresh one of the lab.
pub enum Target {
    /// From `FREEHOLD_RELAY_URL`.
    Outside(String),
    /// The lab's.
    Lab(Relay),
}

impl Target {
    pub async fn new() -> Self {
        match std::env::var("FREEHOLD_RELAY_URL") {
            Ok(url) if !url.is_empty() => Self::Outside(url),
            _ => Self::Lab(lab_relay().await),
        }
    }

    pub fn url(&self) -> String {
        match self {
            Self::Outside(url) => url.clone(),
            Self::Lab(relay) => relay.url(),
        }
    }
}

pub async fn lab_relay() -> Relay {
    Relay::start(RelayOptions::default()).await.unwrap()
}

/// A running pool.
pub struct Pool {
    pub handle: RelayHandle,
    pub events: mpsc::Receiver<RelayEvent>,
}

impl Pool {
    pub fn start(urls: &[String]) -> Self {
        Self::with(config(urls))
    }

    pub fn with(config: RelayConfig) -> Self {
        let (handle, events) = RelayPool::start(config).unwrap();
        Self { handle, events }
    }

    /// Waits for the first event that `wanted` accepts; returns it and what came before.
    pub async fn until(
        &mut self,
        mut wanted: impl FnMut(&RelayEvent) -> bool,
    ) -> (RelayEvent, Vec<RelayEvent>) {
        let mut before = Vec::new();
        let search = async {
            loop {
                let event = self.events.recv().await.expect("the pool ended");
                if wanted(&event) {
                    return event;
                }
                before.push(event);
            }
        };
        match tokio::time::timeout(BOUND, search).await {
            Ok(event) => (event, before),
            Err(_) => panic!("not within {BOUND:?}; what came instead: {before:#?}"),
        }
    }

    /// Waits for an event with this id.
    pub async fn event(&mut self, wanted: &Event) -> Vec<RelayEvent> {
        let is_it = |event: &RelayEvent| matches!(event, RelayEvent::Event { event, .. } if event.id == wanted.id);
        self.until(is_it).await.1
    }

    /// Waits for the end of stored events of `name` on one relay.
    pub async fn eose(&mut self, name: &str) -> Vec<RelayEvent> {
        let is_it = |event: &RelayEvent| matches!(event, RelayEvent::Eose { subscription, .. } if **subscription == *name);
        self.until(is_it).await.1
    }
}

/// Bounds for tests: short waits between reconnects.
pub fn config(urls: &[String]) -> RelayConfig {
    RelayConfig {
        limits: RelayLimits {
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_millis(200),
            ..RelayLimits::default()
        },
        ..RelayConfig::new(urls)
    }
}

pub fn signer() -> SecretSigner {
    SecretSigner::random()
}

pub fn auth(signer: &SecretSigner) -> Arc<dyn EventSigner> {
    Arc::new(signer.clone())
}

pub fn now() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    WallTime(since.as_millis() as u64)
}

/// A word that no other test uses, in this run or another against the same relay.
pub fn unique(word: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{word}-{}-{}-{count}", std::process::id(), now().0)
}

/// A note under a topic of its own.
pub fn note(signer: &SecretSigner, topic: &str, content: &str) -> Event {
    dated_note(signer, topic, content, now().secs())
}

pub fn dated_note(signer: &SecretSigner, topic: &str, content: &str, secs: u64) -> Event {
    let author = public_key(signer).unwrap();
    let tags = [Tag::custom("t", [topic])];
    let unsigned = UnsignedEvent::new(author, secs.into(), Kind::TextNote, tags, content);
    sign_event(unsigned, signer).unwrap()
}

pub fn topic_filter(topic: &str) -> Vec<Filter> {
    vec![Filter::new().kind(Kind::TextNote).hashtag(topic)]
}

/// The contents of the events among `events`.
pub fn contents(events: &[RelayEvent]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|event| match event {
            RelayEvent::Event { event, .. } => Some(event.content.as_str()),
            _ => None,
        })
        .collect()
}
