//! The threads that embedded wallets run on.
//!
//! ldk-node blocks in place, which a single-threaded runtime does not allow, so
//! wallets get a multi-threaded one of their own. Several wallets of one
//! process may share it.

use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::ports::wallet::WalletError;

/// Worker threads. LDK's work per payment is some milliseconds; two let one
/// wallet sign while another writes.
const WORKERS: usize = 2;

/// Most threads for blocking calls, which end themselves when idle. Each
/// concurrent payment needs one for some milliseconds.
const BLOCKING: usize = 48;

/// How long an idle blocking thread stays.
const IDLE: Duration = Duration::from_secs(5);

/// A multi-threaded runtime that may be dropped anywhere.
pub struct WalletRuntime {
    runtime: Option<Runtime>,
    handle: Handle,
}

impl WalletRuntime {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`WalletError::Open`] where the system gives no threads.
    pub fn new() -> Result<Self, WalletError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(BLOCKING)
            .thread_keep_alive(IDLE)
            .thread_name("wallet")
            .enable_all()
            .build()
            .map_err(|error| WalletError::Open {
                reason: format!("no threads: {error}"),
            })?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    /// A handle to start work on it.
    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for WalletRuntime {
    fn drop(&mut self) {
        // A runtime dropped in asynchronous context panics unless it is let go.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
