//! Events that nobody has acknowledged yet.
//!
//! Between the wallet's own event queue, which holds one event back until it is
//! confirmed, and our consumers, which may be slow or absent: an event is
//! written here first, then confirmed there, so neither waits for the other.
//! Not a log: an acknowledged event is gone. Used by wallet implementations.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Delivery, EventId, EventStream, WalletError, WalletEvent};

/// Most events kept. About an hour of payments at the pace of one channel;
/// beyond it the wallet's own queue waits, and the log says so.
const MAX_UNACKNOWLEDGED: usize = 16_384;

/// Where unacknowledged events are kept. A write survives the process on return, and a power
/// cut no later than the wallet forgets the event itself.
pub trait OutboxStore: Send + Sync {
    /// Keeps `bytes` under `id`.
    ///
    /// # Errors
    /// When it cannot be written.
    fn put(&self, id: u64, bytes: Vec<u8>) -> Result<(), WalletError>;

    /// Drops what is under `id`, if anything.
    ///
    /// # Errors
    /// When it cannot be written.
    fn remove(&self, id: u64) -> Result<(), WalletError>;

    /// Everything kept.
    ///
    /// # Errors
    /// When it cannot be read.
    fn load(&self) -> Result<Vec<(u64, Vec<u8>)>, WalletError>;
}

/// The unacknowledged events of one wallet.
pub struct Outbox {
    store: Box<dyn OutboxStore>,
    state: Mutex<State>,
    /// Counts changes; `None` once closed.
    changed: watch::Sender<Option<u64>>,
}

struct State {
    next: u64,
    events: BTreeMap<u64, WalletEvent>,
}

impl Outbox {
    /// Loads what an earlier run left.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(store: Box<dyn OutboxStore>) -> Result<Self, WalletError> {
        let mut events = BTreeMap::new();
        for (id, bytes) in store.load()? {
            let event = serde_json::from_slice(&bytes).map_err(|error| WalletError::Storage {
                reason: format!("unacknowledged event {id} is damaged: {error}"),
            })?;
            events.insert(id, event);
        }
        // Ids grow across restarts even when everything was acknowledged.
        let clock = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(0));
        let next = events
            .last_key_value()
            .map_or(0, |(id, _)| id + 1)
            .max(clock);
        Ok(Self {
            store,
            state: Mutex::new(State { next, events }),
            changed: watch::Sender::new(Some(0)),
        })
    }

    /// Writes an event and tells the streams. Blocks for the write. Called from
    /// one task only.
    ///
    /// # Errors
    /// When it cannot be written; then nobody has been told.
    pub fn push(&self, event: WalletEvent) -> Result<(), WalletError> {
        let bytes = serde_json::to_vec(&event).map_err(|error| WalletError::Storage {
            reason: format!("event cannot be written: {error}"),
        })?;
        // The lock is not held while writing: readers must not wait for a disk.
        // There is one pusher, so events still appear in order.
        let id = {
            let mut state = self.state.lock();
            state.next += 1;
            state.next - 1
        };
        self.store.put(id, bytes)?;
        self.state.lock().events.insert(id, event);
        self.tick();
        Ok(())
    }

    /// Drops an event. Blocks for the write. Idempotent.
    ///
    /// # Errors
    /// When it cannot be written; then the event comes again after a restart.
    pub fn ack(&self, id: EventId) -> Result<(), WalletError> {
        let known = self.state.lock().events.remove(&id.0).is_some();
        if known {
            self.store.remove(id.0)?;
            self.tick();
        }
        Ok(())
    }

    /// Waits until there is room for another event. `false` once closed.
    pub async fn room(&self) -> bool {
        let mut changed = self.changed.subscribe();
        loop {
            if changed.borrow_and_update().is_none() {
                return false;
            }
            if self.state.lock().events.len() < MAX_UNACKNOWLEDGED {
                return true;
            }
            tracing::error!(
                unacknowledged = MAX_UNACKNOWLEDGED,
                "nobody acknowledges wallet events; the wallet's queue waits"
            );
            if changed.changed().await.is_err() {
                return false;
            }
        }
    }

    /// A stream over everything unacknowledged, then what follows.
    pub fn stream(self: &Arc<Self>) -> EventStream {
        let start = (self.clone(), self.changed.subscribe(), None);
        futures::stream::unfold(start, |(outbox, mut changed, last)| async move {
            loop {
                let closed = changed.borrow_and_update().is_none();
                if closed {
                    return None;
                }
                if let Some(delivery) = outbox.after(last) {
                    let last = Some(delivery.id);
                    return Some((delivery, (outbox, changed, last)));
                }
                if changed.changed().await.is_err() {
                    return None;
                }
            }
        })
        .boxed()
    }

    /// Ends all streams. What is unacknowledged stays for the next run.
    pub fn close(&self) {
        self.changed.send_replace(None);
    }

    fn after(&self, last: Option<EventId>) -> Option<Delivery> {
        let from = last.map_or(0, |id| id.0 + 1);
        let state = self.state.lock();
        state
            .events
            .range(from..)
            .next()
            .map(|(id, event)| Delivery {
                id: EventId(*id),
                event: event.clone(),
            })
    }

    fn tick(&self) {
        self.changed.send_modify(|count| {
            if let Some(count) = count {
                *count += 1;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::ids::PaymentHash;
    use protocol::money::Msat;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<BTreeMap<u64, Vec<u8>>>>);

    impl OutboxStore for Memory {
        fn put(&self, id: u64, bytes: Vec<u8>) -> Result<(), WalletError> {
            self.0.lock().insert(id, bytes);
            Ok(())
        }
        fn remove(&self, id: u64) -> Result<(), WalletError> {
            self.0.lock().remove(&id);
            Ok(())
        }
        fn load(&self) -> Result<Vec<(u64, Vec<u8>)>, WalletError> {
            Ok(self.0.lock().clone().into_iter().collect())
        }
    }

    fn received(n: u8) -> WalletEvent {
        WalletEvent::Received {
            hash: PaymentHash([n; 32]),
            msat: Msat(u64::from(n)),
        }
    }

    #[tokio::test]
    async fn what_is_not_acknowledged_comes_again_after_a_restart_and_ids_grow() {
        let disk = Memory::default();
        let outbox = Arc::new(Outbox::open(Box::new(disk.clone())).unwrap());
        outbox.push(received(1)).unwrap();
        outbox.push(received(2)).unwrap();
        let mut stream = outbox.stream();
        let first = stream.next().await.unwrap();
        let second = stream.next().await.unwrap();
        assert_eq!((&first.event, &second.event), (&received(1), &received(2)));
        outbox.ack(first.id).unwrap();
        outbox.ack(first.id).unwrap();

        let again = Arc::new(Outbox::open(Box::new(disk.clone())).unwrap());
        let mut stream = again.stream();
        assert_eq!(stream.next().await.unwrap(), second);
        again.ack(second.id).unwrap();

        let empty = Arc::new(Outbox::open(Box::new(disk)).unwrap());
        empty.push(received(3)).unwrap();
        let third = empty.stream().next().await.unwrap();
        assert!(third.id > second.id);
    }

    #[tokio::test]
    async fn a_closed_outbox_ends_its_streams_and_keeps_its_events() {
        let disk = Memory::default();
        let outbox = Arc::new(Outbox::open(Box::new(disk.clone())).unwrap());
        outbox.push(received(1)).unwrap();
        let mut stream = outbox.stream();
        outbox.close();
        assert_eq!(stream.next().await, None);
        assert!(!outbox.room().await);
        assert_eq!(disk.load().unwrap().len(), 1);
    }
}
