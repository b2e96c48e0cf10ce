//! A background task that mines whenever something waits in the mempool.
//!
//! For opening channels without scripting each block. Not for scenarios that
//! count blocks (reorgs, force closes): those mine by order.

use std::time::Duration;

use bitcoin::Address;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::{ChainDriver, LabError};

/// How long the miner sleeps when nothing changes, before it looks anyway.
const IDLE_LOOK: Duration = Duration::from_secs(5);

/// How a miner behaves.
#[derive(Clone, Copy, Debug)]
pub struct MinerOptions {
    /// Blocks per round. Six confirm an announced channel at once; one would
    /// leave it waiting for blocks that never come, the mempool being empty.
    pub blocks: u32,
    /// Pause between seeing a transaction and mining, so that several made
    /// together share the round.
    pub gather: Duration,
}

impl Default for MinerOptions {
    fn default() -> Self {
        Self {
            blocks: 6,
            gather: Duration::from_millis(50),
        }
    }
}

/// A running miner; stops when dropped.
pub struct Miner {
    task: JoinHandle<()>,
}

impl Miner {
    /// Mines on `driver`'s chain to `address`.
    pub(crate) fn start(driver: ChainDriver, address: Address, options: MinerOptions) -> Self {
        let task = tokio::spawn(async move {
            if let Err(error) = mine_on_demand(driver, address, options).await {
                tracing::warn!(%error, "the background miner ended");
            }
        });
        Self { task }
    }

    /// Stops it and waits until it has.
    pub async fn stop(mut self) {
        self.task.abort();
        // The only error is the abort just ordered.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Miner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn mine_on_demand(
    mut driver: ChainDriver,
    address: Address,
    options: MinerOptions,
) -> Result<(), LabError> {
    loop {
        driver.mark_seen();
        if driver.mempool().await?.is_empty() {
            driver.changed_before(Instant::now() + IDLE_LOOK).await;
            continue;
        }
        sleep(options.gather).await;
        driver.generate(options.blocks, &address).await?;
    }
}
