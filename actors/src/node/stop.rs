//! The end of a node: what is under way is settled, the listing is taken back, and every part
//! stops in order, each within a bound.

use super::Node;
use crate::driver::{Flush, Halt};
use protocol::message::inference::Admission;
use protocol::route::Actor;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long running orders may take to end at a shutdown, their settlement included.
const DRAIN: Duration = Duration::from_secs(20);
/// How often a shutdown looks whether orders still run.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long relays may take to take back our listing at a shutdown.
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(5);
/// How long what is still to be written may take at a shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the actors' threads may take to end.
const THREADS_TIMEOUT: Duration = Duration::from_secs(5);

impl Node {
    /// Takes no new orders and purchases, withdraws the listing, lets running orders end and be
    /// settled, and stops everything, each within a bound.
    pub async fn shutdown(&self) {
        let Some(system) = self.inner.system.lock().take() else {
            return;
        };
        self.inner.draining.store(true, Ordering::Release);
        let told = async {
            self.admit(Admission::Draining).await;
            self.inner.offers.withdraw().await;
        };
        // A disk that takes nothing holds the actors up.
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, told).await;
        let drained = async {
            let mut wait = tokio::time::interval(DRAIN_POLL_INTERVAL);
            while !self.inner.parts.clients.lock().is_empty()
                || self.inner.parts.compute.is_busy()
                || self.active_orders().await > 0
            {
                wait.tick().await;
            }
        };
        let _ = tokio::time::timeout(DRAIN, drained).await;
        self.inner.parts.compute.cancel_all();
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, self.flush()).await;
        let withdrawn = self.inner.parts.withdrawal.lock().take();
        if let Some(withdrawn) = withdrawn {
            // Relays that do not answer learn from the listing's expiry.
            let _ = tokio::time::timeout(WITHDRAW_TIMEOUT, withdrawn).await;
        }
        self.inner.parts.shared.set_stopping();
        for halt in self.inner.actors.halts() {
            let _ = tokio::time::timeout(FLUSH_TIMEOUT, halt.send(Halt)).await;
        }
        if let Some(relays) = &self.inner.parts.relays {
            relays.shutdown().await;
        }
        if let Some(serving) = &self.inner.parts.serving {
            serving.shutdown().await;
        }
        self.inner.parts.dialer.shutdown().await;
        // A wallet whose disk is full may never stop.
        let _ = tokio::time::timeout(DRAIN, self.inner.parts.wallet.stop()).await;
        let stopped = tokio::task::spawn_blocking(move || {
            system.system.stop();
            let _ = system.thread.join();
        });
        let _ = tokio::time::timeout(THREADS_TIMEOUT, stopped).await;
        // What was told last is on disk before the process may end.
        let _ = self.inner.parts.shared.storage.commit(Vec::new()).await;
    }

    /// Waits until what the machines decided so far is carried out: as many times as there are
    /// machines, for what one's effects made another decide.
    async fn flush(&self) {
        for _ in Actor::ALL {
            for actor in self.inner.actors.flushes() {
                let (done, flushed) = oneshot::channel();
                if actor.send(Flush(done)).await.is_ok() {
                    let _ = flushed.await;
                }
            }
        }
    }
}
