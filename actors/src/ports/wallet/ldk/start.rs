//! Starting the Lightning node, until it succeeds.
//!
//! ldk-node does not start without fee estimates, so a chain source that is away at the
//! start is waited for here, outside the calls: they say what is missed. Spawned by
//! [`super::LdkWallet::open`]; once the node runs it becomes the task that handles its
//! events and keeps its peers connected.

use std::net::{TcpListener, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use super::{Inner, events, peers};
use crate::ports::wallet::WalletError;

/// Pause after the first failed attempt; doubles with each.
const RETRY_MIN: Duration = Duration::from_secs(1);

/// Longest pause between two attempts: a chain source that is back is noticed within it.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// How far the start has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not there yet; why the last attempt failed, if one has ended.
    Starting(Option<String>),
    /// The Lightning node runs.
    Running,
}

impl Phase {
    /// Whether calls can be answered.
    pub fn check(&self) -> Result<(), WalletError> {
        match self {
            Phase::Running => Ok(()),
            Phase::Starting(why) => Err(WalletError::NotReady {
                reason: why.clone().unwrap_or_else(|| "it is starting".to_owned()),
            }),
        }
    }
}

/// Waits for the first attempt, and says how it ended.
pub(super) async fn opened(inner: &Arc<Inner>) -> Result<(), WalletError> {
    let (mut phase, mut stopping) = (inner.phase.subscribe(), inner.stopping.subscribe());
    tokio::select! {
        // Both senders live as long as `inner`.
        _ = phase.wait_for(|phase| *phase != Phase::Starting(None)) => {}
        _ = stopping.wait_for(|stopping| *stopping) => return Err(WalletError::NotRunning),
    }
    inner.phase.borrow().check()
}

/// Starts the node, then serves it until the wallet stops.
pub(super) async fn run(inner: Arc<Inner>) {
    if until_started(&inner).await {
        tokio::join!(events::run(inner.clone()), peers::run(inner));
    }
}

/// Tries until the node runs; `false` where the wallet stops first.
async fn until_started(inner: &Arc<Inner>) -> bool {
    let mut stopping = inner.stopping.subscribe();
    let mut pause = RETRY_MIN;
    loop {
        if *stopping.borrow() {
            return false;
        }
        // Not cut short by a stop: half of a start cannot be taken back.
        let why = match inner.unchecked(start).await {
            Ok(()) => {
                inner.phase.send_replace(Phase::Running);
                tracing::info!(node = %inner.node_id, network = %inner.network, "wallet started");
                return true;
            }
            Err(WalletError::Open { reason }) => reason,
            Err(error) => error.to_string(),
        };
        let next = Phase::Starting(Some(why.clone()));
        if inner.phase.send_replace(next.clone()) != next {
            tracing::warn!(node = %inner.node_id, %why, "wallet not started; it is tried again");
        }
        tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => return false,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// One attempt. Blocks, for some five seconds where nobody answers.
fn start(inner: &Arc<Inner>) -> Result<(), WalletError> {
    // ldk-node looks at its addresses last, when a part of it runs already, and could not
    // be started again after that.
    for address in &inner.config.listen {
        free(address).map_err(|error| WalletError::Open {
            reason: format!("lightning.listen ({address}) cannot be listened on: {error}"),
        })?;
    }
    inner.node.start().map_err(|error| WalletError::Open {
        reason: format!(
            "the chain source ({}) gives no answer: {error}",
            inner.config.chain
        ),
    })
}

/// Whether an address can be listened on.
fn free(address: &str) -> std::io::Result<()> {
    let addresses: Vec<_> = address.to_socket_addrs()?.collect();
    TcpListener::bind(addresses.as_slice()).map(drop)
}
