//! Which replays the engine computes: one of strangers at a time, and none that nobody waits for.

use crate::ports::compute::CancelFlag;
use parking_lot::Mutex;
use protocol::ids::EffectId;
use protocol::message::validator::{Replay, Unrepeatable};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Notify, Semaphore};

/// Replays for strangers that are computed at once. Each holds a blocking thread.
const STRANGERS_MAX: usize = 1;

/// Replays that run or wait; clones share them.
#[derive(Debug, Clone)]
pub struct Replays {
    open: Arc<Mutex<BTreeMap<EffectId, Open>>>,
    strangers: Arc<Semaphore>,
}

#[derive(Debug, Clone, Default)]
struct Open {
    /// Ends the computation.
    cancel: CancelFlag,
    /// Ends the wait for it.
    cancelled: Arc<Notify>,
}

impl Default for Replays {
    fn default() -> Self {
        Replays {
            open: Arc::default(),
            strangers: Arc::new(Semaphore::new(STRANGERS_MAX)),
        }
    }
}

impl Replays {
    /// Enters a replay: from now on it can be cancelled.
    pub fn begin(&self, id: EffectId, stranger: bool) -> Turn {
        let open = Open::default();
        self.open.lock().insert(id, open.clone());
        Turn {
            replays: self.clone(),
            id,
            stranger,
            open,
        }
    }

    /// Ends a replay, whether it runs or waits. What it was to compute is let go at once, or
    /// within a step of the engine.
    pub fn cancel(&self, id: &EffectId) {
        if let Some(open) = self.open.lock().remove(id) {
            open.cancel.cancel();
            open.cancelled.notify_one();
        }
    }

    /// Replays that run or wait.
    #[cfg(test)]
    fn count(&self) -> usize {
        self.open.lock().len()
    }
}

/// A replay that was entered; it leaves when this is dropped.
#[derive(Debug)]
pub struct Turn {
    replays: Replays,
    id: EffectId,
    stranger: bool,
    open: Open,
}

impl Turn {
    /// Computes when its turn comes, on a blocking thread. `None` where it was cancelled.
    pub async fn run(
        self,
        work: impl FnOnce(&CancelFlag) -> Result<Replay, Unrepeatable> + Send + 'static,
    ) -> Option<Result<Replay, Unrepeatable>> {
        let strangers = self.replays.strangers.clone();
        let _place = match self.stranger {
            true => tokio::select! {
                biased;
                () = self.open.cancelled.notified() => return None,
                place = strangers.acquire_owned() => place.ok(),
            },
            false => None,
        };
        let cancel = self.open.cancel.clone();
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&cancel);
            (!cancel.is_cancelled()).then_some(result)
        });
        let failed = || Unrepeatable::Failed("the engine failed on this bundle".to_owned());
        done.await.unwrap_or_else(|_| Some(Err(failed())))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.replays.open.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// Computes until it is cancelled; counts those at work.
    fn endless(
        at_work: &Arc<AtomicUsize>,
    ) -> impl FnOnce(&CancelFlag) -> Result<Replay, Unrepeatable> + Send + 'static {
        let at_work = at_work.clone();
        move |cancel| {
            at_work.fetch_add(1, Ordering::SeqCst);
            while !cancel.is_cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
            at_work.fetch_sub(1, Ordering::SeqCst);
            Err(Unrepeatable::Absent)
        }
    }

    async fn until(what: &str, is: impl Fn() -> bool) {
        let wait = async {
            while !is() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
        assert!(waited.is_ok(), "{what}");
    }

    #[tokio::test]
    async fn strangers_replays_wait_for_each_other_and_end_when_they_are_cancelled() {
        let (replays, at_work) = (Replays::default(), Arc::new(AtomicUsize::new(0)));
        let begin = |n: u64, stranger| {
            let turn = replays.begin(EffectId(n), stranger);
            tokio::spawn(turn.run(endless(&at_work)))
        };
        let running = |n: usize| {
            let at_work = at_work.clone();
            move || at_work.load(Ordering::SeqCst) == n
        };
        let first = begin(1, true);
        until("the first computes", running(1)).await;
        let waiting: Vec<_> = (2..34).map(|n| begin(n, true)).collect();
        let ours = begin(99, false);
        until("ours does not wait, theirs do", running(2)).await;
        assert_eq!(replays.count(), 34);
        // One that waits lets go of its bundle although the first goes on.
        for (n, task) in (2..34).zip(waiting) {
            replays.cancel(&EffectId(n));
            assert_eq!(task.await.unwrap(), None);
        }
        assert_eq!((replays.count(), at_work.load(Ordering::SeqCst)), (2, 2));
        replays.cancel(&EffectId(1));
        assert_eq!(first.await.unwrap(), None);
        let next = begin(40, true);
        until("the place is free", running(2)).await;
        for (n, task) in [(40, next), (99, ours)] {
            replays.cancel(&EffectId(n));
            assert_eq!(task.await.unwrap(), None);
        }
        assert_eq!((replays.count(), at_work.load(Ordering::SeqCst)), (0, 0));
    }
}
