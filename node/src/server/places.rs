//! How many purchases run with one host at once: the others wait here for a place.
//!
//! Beyond its slots and its queue a host refuses, and beyond its streams for one peer it
//! does not even say so. Clients that fan out would hear of that as failures of the host.

use parking_lot::Mutex;
use protocol::ids::NodeKey;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Purchases with one host at once. Hosts take twelve orders by default (four run, eight
/// wait), twelve of one peer that nobody paid for yet, and sixteen streams of one peer.
const PER_HOST: usize = 12;
/// How long a purchase waits for a place: clients mostly give up after a minute.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Places with all hosts.
#[derive(Debug, Default)]
pub struct Places(Mutex<BTreeMap<NodeKey, Arc<Semaphore>>>);

impl Places {
    /// Takes a place with a host; `None` where none was free in time.
    pub async fn take(&self, host: NodeKey, patience: Duration) -> Option<OwnedSemaphorePermit> {
        let places = {
            let mut hosts = self.0.lock();
            // Hosts with nothing under way: a permit and whoever waits hold a count each.
            hosts.retain(|_, places| Arc::strong_count(places) > 1);
            hosts
                .entry(host)
                .or_insert_with(|| Arc::new(Semaphore::new(PER_HOST)))
                .clone()
        };
        let taken = tokio::time::timeout(patience, places.acquire_owned()).await;
        // The semaphore is never closed.
        taken.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn purchases_beyond_a_hosts_places_wait_for_one_of_it() {
        let places = Places::default();
        let (one, other) = (NodeKey([1; 32]), NodeKey([2; 32]));
        let mut held = Vec::new();
        for _ in 0..PER_HOST {
            held.push(places.take(one, PATIENCE).await.unwrap());
        }
        let mut waiting = Box::pin(places.take(one, PATIENCE));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(places.take(other, PATIENCE).await.is_some());
        assert!(places.take(one, Duration::ZERO).await.is_none());
        held.pop();
        assert!(waiting.await.is_some());
    }

    #[tokio::test]
    async fn hosts_with_nothing_under_way_are_forgotten() {
        let places = Places::default();
        for byte in 0..9 {
            drop(places.take(NodeKey([byte; 32]), PATIENCE).await);
        }
        assert_eq!(places.0.lock().len(), 1);
    }
}
