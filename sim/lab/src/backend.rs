//! One handle over both chains: in process, or a real bitcoind.
//!
//! Every order goes through JSON-RPC, on either backend, so a scenario that
//! passes on one is the same scenario on the other. Only waiting differs: the
//! in-process chain says when it changed, bitcoind is asked again.
//!
//! Called by `Lab`, and by whoever wants a chain without the rest.

use std::path::Path;
use std::time::Duration;

use bitcoin::{Address, BlockHash, Txid};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::LabError;
use crate::bitcoind::Bitcoind;
use crate::chain::RegtestChain;
use crate::rpc::{RpcAccess, RpcClient, RpcServer};

/// Pause between two looks at a bitcoind's mempool.
const POLL_PAUSE: Duration = Duration::from_millis(50);

/// What a bitcoind answers to our own `rollback`.
const CODE_UNKNOWN_METHOD: i64 = -32601;

enum Backend {
    InProcess {
        chain: RegtestChain,
        server: RpcServer,
    },
    Bitcoind(Bitcoind),
}

/// A running regtest chain with its RPC.
pub struct Chain {
    backend: Backend,
    client: RpcClient,
}

impl Chain {
    /// Starts the in-process chain on a free loopback port.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn in_process() -> Result<Self, LabError> {
        let chain = RegtestChain::new();
        let server = RpcServer::start(chain.clone())
            .await
            .map_err(|source| LabError::Listen {
                what: "the chain's RPC",
                source,
            })?;
        let client = RpcClient::new(server.access().clone());
        let backend = Backend::InProcess { chain, server };
        Self { backend, client }.checked().await
    }

    /// Starts the bitcoind at `exe` with its data under `dir`.
    ///
    /// # Errors
    /// As [`Bitcoind::start`].
    pub async fn bitcoind(exe: &Path, dir: &Path) -> Result<Self, LabError> {
        let bitcoind = Bitcoind::start(exe, dir).await?;
        let client = bitcoind.client().clone();
        let backend = Backend::Bitcoind(bitcoind);
        Self { backend, client }.checked().await
    }

    async fn checked(self) -> Result<Self, LabError> {
        check_regtest(&self.client).await?;
        Ok(self)
    }

    /// What ldk-node needs to use it as its chain source.
    pub fn rpc(&self) -> &RpcAccess {
        self.client.access()
    }

    /// A client that speaks to it.
    pub fn client(&self) -> &RpcClient {
        &self.client
    }

    /// The in-process chain, when that is the backend.
    pub fn engine(&self) -> Option<&RegtestChain> {
        match &self.backend {
            Backend::InProcess { chain, .. } => Some(chain),
            Backend::Bitcoind(_) => None,
        }
    }

    /// A handle for tasks of their own: orders and waiting, without ownership.
    pub fn driver(&self) -> ChainDriver {
        ChainDriver {
            client: self.client.clone(),
            changes: self.engine().map(RegtestChain::changes),
        }
    }

    /// Stops it: bitcoind is asked to flush and exit, the server's port freed.
    pub async fn shutdown(self) {
        match self.backend {
            Backend::InProcess { server, .. } => server.shutdown().await,
            Backend::Bitcoind(bitcoind) => bitcoind.shutdown().await,
        }
    }
}

/// Gives orders to a chain and waits for it. Cheap to clone.
#[derive(Clone)]
pub struct ChainDriver {
    client: RpcClient,
    /// Ticks on change; absent where the chain is another process, which is
    /// polled.
    changes: Option<watch::Receiver<u64>>,
}

impl ChainDriver {
    /// Drives the chain of a lab in another process. It is polled, as bitcoind
    /// is.
    ///
    /// # Errors
    /// When it does not answer or is not regtest.
    pub async fn connect(access: RpcAccess) -> Result<Self, LabError> {
        let client = RpcClient::new(access);
        check_regtest(&client).await?;
        Ok(Self {
            client,
            changes: None,
        })
    }

    /// Height of the best block.
    ///
    /// # Errors
    /// When the RPC fails.
    pub async fn height(&self) -> Result<u32, LabError> {
        let count = self.client.call("getblockcount", json!([])).await?;
        read(count, "getblockcount")
    }

    /// Mines `count` blocks that pay `address`.
    ///
    /// # Errors
    /// When the RPC fails.
    pub async fn generate(
        &self,
        count: u32,
        address: &Address,
    ) -> Result<Vec<BlockHash>, LabError> {
        let params = json!([count, address.to_string()]);
        let hashes = self.client.call("generatetoaddress", params).await?;
        read(hashes, "generatetoaddress")
    }

    /// Takes the last `count` blocks off. Mine `count + 1` for wallets to see it.
    ///
    /// # Errors
    /// When the RPC fails.
    pub async fn rollback(&self, count: u32) -> Result<(), LabError> {
        if count == 0 {
            return Ok(());
        }
        match self.client.call("rollback", json!([count])).await {
            Err(error) if error.code() == Some(CODE_UNKNOWN_METHOD) => {}
            other => return Ok(other.map(drop)?),
        }
        // A bitcoind: declare the lowest block that goes invalid.
        let first = (self.height().await? + 1).saturating_sub(count);
        let hash = self.client.call("getblockhash", json!([first])).await?;
        self.client.call("invalidateblock", json!([hash])).await?;
        Ok(())
    }

    /// Ids of all waiting transactions.
    ///
    /// # Errors
    /// When the RPC fails.
    pub async fn mempool(&self) -> Result<Vec<Txid>, LabError> {
        let txids = self.client.call("getrawmempool", json!([false])).await?;
        read(txids, "getrawmempool")
    }

    /// Waits until `txid` is in the mempool. Wallets broadcast in the
    /// background, so mining right after "channel pending" would miss it.
    ///
    /// # Errors
    /// [`LabError::NotInMempool`] after `bound`.
    pub async fn wait_for_mempool(&self, txid: &Txid, bound: Duration) -> Result<(), LabError> {
        let until = Instant::now() + bound;
        let mut driver = self.clone();
        loop {
            driver.mark_seen();
            if driver.mempool().await?.contains(txid) {
                return Ok(());
            }
            if !driver.changed_before(until).await {
                return Err(LabError::NotInMempool {
                    txid: *txid,
                    seconds: bound.as_secs_f32(),
                });
            }
        }
    }

    /// What happened up to now needs no waking.
    pub(crate) fn mark_seen(&mut self) {
        if let Some(changes) = &mut self.changes {
            changes.mark_unchanged();
        }
    }

    /// Waits for a change; false when `until` passed first. On bitcoind it is a
    /// pause, after which the caller looks again.
    pub(crate) async fn changed_before(&mut self, until: Instant) -> bool {
        if Instant::now() >= until {
            return false;
        }
        match &mut self.changes {
            Some(changes) => {
                let left = until - Instant::now();
                matches!(timeout(left, changes.changed()).await, Ok(Ok(())))
            }
            None => {
                sleep(POLL_PAUSE.min(until - Instant::now())).await;
                true
            }
        }
    }
}

/// The chain itself must say that it is regtest.
async fn check_regtest(client: &RpcClient) -> Result<(), LabError> {
    let info = client.call("getblockchaininfo", json!([])).await?;
    let found = info.get("chain").and_then(Value::as_str).unwrap_or("");
    if found == "regtest" {
        return Ok(());
    }
    Err(LabError::NotRegtest {
        found: found.to_owned(),
    })
}

fn read<T: serde::de::DeserializeOwned>(value: Value, method: &'static str) -> Result<T, LabError> {
    serde_json::from_value(value).map_err(|source| LabError::Unreadable { method, source })
}
