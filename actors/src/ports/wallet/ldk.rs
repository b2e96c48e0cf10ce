//! The embedded wallet: a Lightning node of our own (crate `ldk-node`).
//!
//! Not a policy: it opens no channel and pays nothing by itself. The pieces:
//! `config` what it is given, `runtime` the threads it runs on, `store` its
//! files, `start` the attempts to start it, `events` the one consumer of LDK's event queue, `pay` and `holds` and
//! `channels` the calls, `peers` the reconnecting, `usable` what channels prove of payments. Called through the traits of
//! the port only.
//!
//! ldk-node's calls are synchronous, write to disk, and panic inside a
//! single-threaded runtime (which every actix arbiter is), so each runs on a
//! blocking thread of the wallet's own runtime, and callers only await.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use ldk_node::config::{AnchorChannelsConfig, Config};
use ldk_node::{Builder, Node};
use parking_lot::Mutex;
use protocol::ids::{LightningId, PaymentHash, Preimage};
use protocol::money::Msat;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

use super::{
    Balance, Channels, EventId, EventStream, Incoming, Invoice, Network, NodeSigner, Outbox,
    Outgoing, PayOutcome, Payment, Wallet, WalletError,
};

mod channels;
mod config;
mod convert;
mod events;
mod holds;
mod invoices;
mod kv;
mod pay;
mod peers;
mod runtime;
mod start;
mod store;
mod usable;

pub use config::{ChainSource, LdkConfig, LogLevel};
pub use runtime::WalletRuntime;

use channels::{ChannelNews, Funding};
use pay::Waiters;
use start::Phase;
use store::{Held, Store};
use usable::Usable;

/// The embedded wallet. Stop it with [`Wallet::stop`]; dropping it does the
/// same in the background.
pub struct LdkWallet {
    inner: Arc<Inner>,
}

struct Inner {
    node: Node,
    node_id: LightningId,
    network: Network,
    config: LdkConfig,
    runtime: Arc<WalletRuntime>,
    store: Store,
    outbox: Arc<Outbox>,
    waiters: Waiters,
    /// Hold payments that have arrived and are neither settled nor cancelled.
    held: Mutex<HashMap<PaymentHash, Held>>,
    /// One channel is opened at a time: the next could spend the same coin.
    /// Holds the last one's funding, where the wallet has not seen it yet.
    opening: tokio::sync::Mutex<Option<Funding>>,
    news: broadcast::Sender<ChannelNews>,
    /// Since when channels can be used.
    usable: Usable,
    /// When this run began; older records may be of payments that never left.
    started_ms: u64,
    stopping: watch::Sender<bool>,
    /// How far LDK's start has come.
    phase: watch::Sender<Phase>,
    tasks: tokio::sync::Mutex<Vec<JoinHandle<()>>>,
    /// Keeps other processes out until the wallet has stopped.
    lock: Mutex<Option<File>>,
}

impl LdkWallet {
    /// Opens the wallet in `config.dir` (created where missing) and starts it in the
    /// background, again and again until its chain source answers. Until then calls that
    /// need the Lightning node end in [`WalletError::NotReady`]; the node id, signatures
    /// and unacknowledged events are there at once.
    ///
    /// # Errors
    /// [`WalletError::Locked`] where another process has it open,
    /// [`WalletError::Setting`] for settings that cannot be used, and
    /// [`WalletError::Open`] where its files cannot be read.
    pub async fn open(config: LdkConfig, runtime: Arc<WalletRuntime>) -> Result<Self, WalletError> {
        let on = runtime.clone();
        let inner = runtime
            .handle()
            .spawn_blocking(move || Inner::open(config, on))
            .await
            .map_err(|error| WalletError::Open {
                reason: error.to_string(),
            })??;
        let mut tasks = inner.tasks.lock().await;
        tasks.push(inner.runtime.handle().spawn(start::run(inner.clone())));
        drop(tasks);
        Ok(Self { inner })
    }

    /// As [`LdkWallet::open`], and waits for the first attempt to start.
    ///
    /// # Errors
    /// As [`LdkWallet::open`], and where that attempt fails; the wallet is stopped then.
    pub async fn start(
        config: LdkConfig,
        runtime: Arc<WalletRuntime>,
    ) -> Result<Self, WalletError> {
        let wallet = Self::open(config, runtime).await?;
        match wallet.opened().await {
            Ok(()) => Ok(wallet),
            Err(error) => {
                wallet.stop().await;
                Err(error)
            }
        }
    }
}

impl Drop for LdkWallet {
    fn drop(&mut self) {
        if *self.inner.stopping.borrow() {
            return;
        }
        let inner = self.inner.clone();
        self.inner
            .runtime
            .handle()
            .spawn(async move { inner.stop().await });
    }
}

impl Inner {
    fn open(config: LdkConfig, runtime: Arc<WalletRuntime>) -> Result<Arc<Self>, WalletError> {
        std::fs::create_dir_all(&config.dir).map_err(|error| WalletError::Open {
            reason: format!("{}: {error}", config.dir.display()),
        })?;
        let lock = lock_folder(&config)?;
        let store = Store::open(&config.dir)?;
        let outbox = Arc::new(Outbox::open(Box::new(store.clone()))?);
        let held = store.load_held()?;
        let usable = Usable::open(store.clone())?;
        let node = build(&config, &store, &runtime)?;
        Ok(Arc::new(Self {
            node_id: LightningId(node.node_id().serialize()),
            network: config.network,
            node,
            config,
            runtime,
            store,
            outbox,
            waiters: Waiters::default(),
            held: Mutex::new(held),
            opening: tokio::sync::Mutex::new(None),
            // Only an open in progress listens, to its own channel.
            news: broadcast::Sender::new(64),
            usable,
            started_ms: now_ms(),
            stopping: watch::Sender::new(false),
            phase: watch::Sender::new(Phase::Starting(None)),
            tasks: tokio::sync::Mutex::new(Vec::new()),
            lock: Mutex::new(Some(lock)),
        }))
    }

    /// Runs `job` on a blocking thread of the wallet's runtime, where the Lightning node
    /// runs.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&Arc<Inner>) -> Result<T, WalletError> + Send + 'static,
    ) -> Result<T, WalletError> {
        if !*self.stopping.borrow() {
            self.phase.borrow().check()?;
        }
        self.reading(job).await
    }

    /// As [`Inner::blocking`], for what needs the wallet's own files alone.
    async fn reading<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&Arc<Inner>) -> Result<T, WalletError> + Send + 'static,
    ) -> Result<T, WalletError> {
        if *self.stopping.borrow() {
            return Err(WalletError::NotRunning);
        }
        self.unchecked(job).await
    }

    async fn unchecked<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&Arc<Inner>) -> Result<T, WalletError> + Send + 'static,
    ) -> Result<T, WalletError> {
        let inner = self.clone();
        self.runtime
            .handle()
            .spawn_blocking(move || job(&inner))
            .await
            .map_err(|_| WalletError::NotRunning)?
    }

    async fn stop(self: &Arc<Self>) {
        self.stopping.send_replace(true);
        let mut tasks = self.tasks.lock().await;
        if tasks.is_empty() {
            return;
        }
        for task in tasks.drain(..) {
            // A task that panicked has ended as well.
            let _ = task.await;
        }
        let runs = *self.phase.borrow() == Phase::Running;
        let stopped = self
            .unchecked(move |inner| match runs {
                true => inner
                    .node
                    .stop()
                    .map_err(convert::node_error("stopping the node")),
                false => Ok(()),
            })
            .await
            // Its last rows as well.
            .and_then(|()| self.store.sync());
        self.outbox.close();
        drop(self.lock.lock().take());
        match stopped {
            Ok(()) => tracing::info!(node = %self.node_id, "wallet stopped"),
            Err(error) => tracing::warn!(node = %self.node_id, %error, "wallet stopped badly"),
        }
    }
}

fn lock_folder(config: &LdkConfig) -> Result<File, WalletError> {
    let path = config.dir.join("wallet.lock");
    let file = File::create(&path).map_err(|error| WalletError::Open {
        reason: format!("{}: {error}", path.display()),
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(WalletError::Locked {
            dir: config.dir.display().to_string(),
        }),
        Err(TryLockError::Error(error)) => Err(WalletError::Open {
            reason: format!("{}: {error}", path.display()),
        }),
    }
}

fn build(config: &LdkConfig, store: &Store, runtime: &WalletRuntime) -> Result<Node, WalletError> {
    let mut builder = Builder::from_config(Config {
        storage_dir_path: config.dir.display().to_string(),
        network: config.network,
        trusted_peers_0conf: convert::keys("trusted", &config.trusted)?,
        anchor_channels_config: Some(AnchorChannelsConfig {
            trusted_peers_no_reserve: convert::keys("trusted", &config.trusted)?,
            ..AnchorChannelsConfig::default()
        }),
        ..Config::default()
    });
    builder.set_runtime(runtime.handle());
    builder.set_entropy_seed_bytes(config.seed);
    builder.set_filesystem_logger(None, Some(config.log.into()));
    let bad = |key: &'static str| {
        move |error: ldk_node::BuildError| WalletError::Setting {
            key,
            reason: error.to_string(),
        }
    };
    if !config.listen.is_empty() {
        let addresses = convert::addresses("listen", &config.listen)?;
        builder
            .set_listening_addresses(addresses)
            .map_err(bad("listen"))?;
    }
    if !config.announce.is_empty() {
        let addresses = convert::addresses("announce", &config.announce)?;
        builder
            .set_announcement_addresses(addresses)
            .map_err(bad("announce"))?;
    }
    if let Some(alias) = &config.alias {
        builder
            .set_node_alias(alias.clone())
            .map_err(bad("alias"))?;
    }
    match &config.chain {
        ChainSource::BitcoindRpc {
            host,
            port,
            user,
            password,
        } => builder.set_chain_source_bitcoind_rpc(
            host.clone(),
            *port,
            user.clone(),
            password.clone(),
        ),
        ChainSource::Esplora { url } => builder.set_chain_source_esplora(url.clone(), None),
        ChainSource::Electrum { url } => builder.set_chain_source_electrum(url.clone(), None),
    };
    builder
        .build_with_store(store.kv())
        .map_err(|error| WalletError::Open {
            reason: error.to_string(),
        })
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

impl Wallet for LdkWallet {
    fn node_id(&self) -> LightningId {
        self.inner.node_id
    }

    fn network(&self) -> Network {
        self.inner.network
    }

    fn create_invoice(
        &self,
        msat: Msat,
        description_hash: [u8; 32],
        expiry_s: u32,
    ) -> BoxFuture<'_, Result<Invoice, WalletError>> {
        self.inner
            .blocking(move |inner| {
                let description = invoices::hashed(description_hash);
                invoices::create(inner, None, msat, &description, expiry_s)
            })
            .boxed()
    }

    fn create_described_invoice(
        &self,
        msat: Msat,
        description: String,
        expiry_s: u32,
    ) -> BoxFuture<'_, Result<Invoice, WalletError>> {
        self.inner
            .blocking(move |inner| {
                let description = invoices::described(description)?;
                invoices::create(inner, None, msat, &description, expiry_s)
            })
            .boxed()
    }

    fn pay(&self, payment: Payment) -> BoxFuture<'_, PayOutcome> {
        pay::pay(self.inner.clone(), payment).boxed()
    }

    fn lookup_outgoing(&self, hash: PaymentHash) -> BoxFuture<'_, Result<Outgoing, WalletError>> {
        self.inner
            .blocking(move |inner| pay::lookup(inner, hash))
            .boxed()
    }

    fn lookup_incoming(&self, hash: PaymentHash) -> BoxFuture<'_, Result<Incoming, WalletError>> {
        self.inner
            .blocking(move |inner| invoices::lookup(inner, hash))
            .boxed()
    }

    fn create_hold_invoice(
        &self,
        hash: PaymentHash,
        msat: Msat,
        description_hash: [u8; 32],
        expiry_s: u32,
    ) -> BoxFuture<'_, Result<Invoice, WalletError>> {
        self.inner
            .blocking(move |inner| {
                let description = invoices::hashed(description_hash);
                invoices::create(inner, Some(hash), msat, &description, expiry_s)
            })
            .boxed()
    }

    fn settle_hold(&self, preimage: Preimage) -> BoxFuture<'_, Result<(), WalletError>> {
        self.inner
            .blocking(move |inner| holds::settle(inner, preimage))
            .boxed()
    }

    fn cancel_hold(&self, hash: PaymentHash) -> BoxFuture<'_, Result<(), WalletError>> {
        self.inner
            .blocking(move |inner| holds::cancel(inner, hash))
            .boxed()
    }

    fn balance(&self) -> BoxFuture<'_, Result<Balance, WalletError>> {
        self.inner
            .blocking(|inner| Ok(channels::balance(inner)))
            .boxed()
    }

    fn events(&self) -> BoxFuture<'_, Result<EventStream, WalletError>> {
        let stream = self.inner.outbox.stream();
        async move { Ok(stream) }.boxed()
    }

    fn ack(&self, id: EventId) -> BoxFuture<'_, Result<(), WalletError>> {
        self.inner
            .reading(move |inner| inner.outbox.ack(id))
            .boxed()
    }

    fn forget(&self, hash: PaymentHash) -> BoxFuture<'_, Result<(), WalletError>> {
        self.inner
            .blocking(move |inner| invoices::forget(inner, hash))
            .boxed()
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        self.inner.stop().boxed()
    }

    fn opened(&self) -> BoxFuture<'_, Result<(), WalletError>> {
        start::opened(&self.inner).boxed()
    }

    fn channels(&self) -> Option<&dyn Channels> {
        Some(self)
    }

    fn signer(&self) -> Option<&dyn NodeSigner> {
        Some(self)
    }
}

impl NodeSigner for LdkWallet {
    fn sign_message(&self, message: &[u8]) -> String {
        self.inner.node.sign_message(message)
    }
}
