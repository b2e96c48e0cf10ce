//! The runners of a node, and the orders that run at them.

use super::{Runner, serve};
use crate::ports::compute::{Listed, Output};
use parking_lot::Mutex;
use protocol::ids::{ModelDigest, OrderId};
use protocol::work::Job;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// What an order may produce.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gate {
    pub total: u64,
    pub cancelled: bool,
}

/// The runners of a node and the orders at them; clones share both.
#[derive(Debug, Clone, Default)]
pub struct Runners {
    runners: Arc<Mutex<BTreeMap<ModelDigest, Arc<Runner>>>>,
    jobs: Arc<Mutex<BTreeMap<OrderId, watch::Sender<Gate>>>>,
}

impl Runners {
    /// Makes a runner available.
    pub fn add(&self, runner: Arc<Runner>) -> ModelDigest {
        let digest = runner.info.digest;
        self.runners.lock().insert(digest, runner);
        digest
    }

    /// The runner of a model.
    pub fn of(&self, model: &ModelDigest) -> Option<Arc<Runner>> {
        self.runners.lock().get(model).cloned()
    }

    /// Starts a job; its output comes on the receiver.
    pub fn start(
        &self,
        order: OrderId,
        runner: Arc<Runner>,
        job: Job,
        allowed: u64,
        pace: Option<Duration>,
    ) -> mpsc::Receiver<Output> {
        // Two batches: a reader that falls behind holds its own job, not memory.
        let (out, receiver) = mpsc::channel(2);
        let (gate, entry) = watch::channel(Gate {
            total: allowed,
            cancelled: false,
        });
        self.jobs.lock().insert(order, gate);
        let runtime = runner.runtime.clone();
        let listed = Listed {
            jobs: self.jobs.clone(),
            order,
        };
        runtime.spawn(async move {
            let _listed = listed;
            if let Err(error) = serve::serve(&runner, &job, entry, pace, &out).await {
                runner.failed(&error);
                // The receiver may be gone: then nobody wants to know.
                let _ = out.send(Output::Failed(error.for_buyer())).await;
            }
        });
        receiver
    }

    /// Raises a job's allowance to `total` output tokens.
    pub fn allow(&self, order: &OrderId, total: u64) {
        if let Some(job) = self.jobs.lock().get(order) {
            job.send_modify(|gate| gate.total = gate.total.max(total));
        }
    }

    /// Ends a job.
    pub fn cancel(&self, order: &OrderId) {
        if let Some(job) = self.jobs.lock().get(order) {
            job.send_modify(|gate| gate.cancelled = true);
        }
    }

    /// Whether any job runs.
    pub fn is_busy(&self) -> bool {
        !self.jobs.lock().is_empty()
    }

    /// Ends every job.
    pub fn cancel_all(&self) {
        for job in self.jobs.lock().values() {
            job.send_modify(|gate| gate.cancelled = true);
        }
    }
}
