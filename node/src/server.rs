//! The node's HTTP servers: the gateway under `/v1` on a TCP address, the control API under
//! `/control` on a socket of its own.
//!
//! Not a public service: the gateway is bound to the loopback unless the operator says
//! otherwise, with checks against pages in a browser (see [`guard`]), and no other address
//! ever reaches the control API. Decides nothing about money: caps are the payment
//! machine's.

use crate::config::{Config, Gateway, GatewayKey};
use crate::control::ModelRow;
use crate::service::models::Loaded;
use actors::node::{Node, NodeError};
use parking_lot::RwLock;
use protocol::ids::ModelDigest;
use protocol::message::discovery::HostRow;
use protocol::money::Msat;
use protocol::refusal::Refusal;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;

pub mod answer;
pub mod completions;
pub mod control;
pub mod embeddings;
pub mod errors;
pub mod guard;
pub mod health;
pub mod http;
pub mod models;
pub mod names;
pub mod openai;
pub mod order;
pub mod places;
pub mod purchase;
mod wallet;

/// Random bytes of the control token.
const TOKEN_BYTES: usize = 32;
/// Prompts that are counted at once. Each takes a core.
const COUNTING: usize = 2;
/// How long requests that are open at a stop may take to end.
const GRACE: Duration = Duration::from_secs(2);
/// How old a list of hosts may be. Prices and loads change by the second at most.
const LISTED: Duration = Duration::from_millis(400);
/// When a client that found no place may ask again. A short answer takes about that long.
pub(crate) const BUSY_RETRY_MS: u64 = 2_000;

/// What the control API listens on.
#[cfg(unix)]
pub type ControlListener = tokio::net::UnixListener;
/// What the control API listens on: no other system has sockets in a folder.
#[cfg(not(unix))]
pub type ControlListener = TcpListener;

/// What request handlers share.
pub struct App {
    pub(crate) node: Node,
    pub(crate) gateway: Gateway,
    pub(crate) per_order: Msat,
    pub(crate) network: &'static str,
    pub(crate) slots: Arc<Semaphore>,
    /// Prompts that are counted at once for models of this machine.
    pub(crate) counting: Semaphore,
    /// Purchases under way, by host.
    pub(crate) places: Arc<places::Places>,
    pub(crate) shutdown: watch::Sender<bool>,
    pub(crate) url: std::sync::OnceLock<String>,
    models: RwLock<Models>,
    /// What names of models meant so far.
    pub(crate) names: Arc<names::Names>,
    listed: tokio::sync::Mutex<Option<(Instant, Arc<Vec<HostRow>>)>>,
    token: String,
}

/// The models of this machine.
#[derive(Default)]
struct Models {
    rows: Vec<ModelRow>,
    names: Vec<(String, ModelDigest)>,
}

impl App {
    /// Puts the state together and draws a token.
    pub fn new(node: Node, config: &Config, loaded: Loaded) -> Self {
        let mut token = [0u8; TOKEN_BYTES];
        rand::RngCore::fill_bytes(&mut rand::rngs::OsRng, &mut token);
        let app = App {
            network: config.network.name(),
            node,
            gateway: config.gateway.clone(),
            per_order: config.budget.per_order.0,
            slots: Arc::new(Semaphore::new(config.gateway.max_requests)),
            counting: Semaphore::new(COUNTING),
            places: Arc::default(),
            shutdown: watch::Sender::new(false),
            url: std::sync::OnceLock::new(),
            models: RwLock::default(),
            names: Arc::default(),
            listed: tokio::sync::Mutex::default(),
            token: hex::encode(token),
        };
        app.set_models(loaded);
        app
    }

    /// Keeps what names of models mean in a file.
    pub fn with_names(mut self, file: std::path::PathBuf) -> Self {
        self.names = Arc::new(names::Names::open(file));
        self
    }

    /// Says which models of this machine there are.
    pub fn set_models(&self, loaded: Loaded) {
        let names = loaded.models.iter();
        *self.models.write() = Models {
            names: names
                .map(|model| (model.name.clone(), model.digest()))
                .collect(),
            rows: loaded.rows,
        };
    }

    /// The models of this machine, for tables.
    pub(crate) fn rows(&self) -> Vec<ModelRow> {
        self.models.read().rows.clone()
    }

    /// The hosts known, of this moment or a moment ago: the list may be long, and many
    /// requests at once share one copy.
    ///
    /// # Errors
    /// Where the node does not answer.
    pub(crate) async fn hosts(&self) -> Result<Arc<Vec<HostRow>>, NodeError> {
        let mut listed = self.listed.lock().await;
        if let Some((at, rows)) = listed.as_ref()
            && at.elapsed() < LISTED
        {
            return Ok(rows.clone());
        }
        let rows = Arc::new(self.node.hosts().await?);
        *listed = Some((Instant::now(), rows.clone()));
        Ok(rows)
    }

    /// The secret that `/control` asks for.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Keys that `/v1` asks for; none: it asks for nothing.
    pub(crate) fn keys(&self) -> &[GatewayKey] {
        &self.gateway.keys
    }

    /// The answer to a purchase that was refused.
    pub(crate) async fn refused(&self, refusal: Refusal) -> errors::ApiError {
        errors::of_purchase(self.node.wallet().as_ref(), refusal).await
    }

    /// A place among the requests that are served at once.
    pub(crate) fn slot(&self) -> Result<OwnedSemaphorePermit, errors::ApiError> {
        self.slots.clone().try_acquire_owned().map_err(|_| {
            let most = self.gateway.max_requests;
            let mut error = errors::ApiError::new(
                503,
                format!("{most} requests are being served already"),
                "try again later, or raise gateway.max_requests",
            );
            error.retry_after_ms = Some(BUSY_RETRY_MS);
            error
        })
    }

    /// The local model of a name or digest.
    pub(crate) fn local(
        &self,
        wanted: &protocol::message::inference::ModelSelector,
        embeds: bool,
    ) -> Option<(String, ModelDigest)> {
        use protocol::message::inference::ModelSelector;
        let fits = |(name, digest): &&(String, ModelDigest)| match wanted {
            ModelSelector::Name(wanted) => name == wanted,
            ModelSelector::Digest(wanted) => digest == wanted,
            ModelSelector::Any => {
                let model = self.node.compute().model(digest);
                model.is_some_and(|model| model.is_encoder() == embeds)
            }
        };
        self.models.read().names.iter().find(fits).cloned()
    }
}

/// The servers of a running node.
pub struct Server {
    app: Arc<App>,
    gateway: Option<String>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts both servers on what they listen on.
    ///
    /// # Errors
    /// Where the system does not say what that is.
    pub fn start(
        app: Arc<App>,
        gateway: Option<TcpListener>,
        control: ControlListener,
    ) -> std::io::Result<Server> {
        let stop = watch::Sender::new(false);
        let mut tasks = Vec::new();
        let gateway = match gateway {
            None => None,
            Some(listener) => {
                let url = format!("http://{}", reachable(listener.local_addr()?));
                // Set once, here.
                let _ = app.url.set(url.clone());
                let router = guard::gateway(app.clone());
                let bounds = http::Bounds::default();
                tasks.push(tokio::spawn(http::serve(
                    listener,
                    router,
                    bounds,
                    stop.subscribe(),
                )));
                Some(url)
            }
        };
        tasks.push(tokio::spawn(http::serve(
            control,
            guard::control(app.clone()),
            http::Bounds::default(),
            stop.subscribe(),
        )));
        Ok(Server {
            app,
            gateway,
            stop,
            tasks,
        })
    }

    /// What its handlers share.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Base address of the gateway, where there is one.
    pub fn gateway(&self) -> Option<&str> {
        self.gateway.as_deref()
    }

    /// Resolves when a client asked for a shutdown.
    pub async fn shutdown_asked(&self) {
        // The sender lives in `self`, so this cannot fail.
        let mut asked = self.app.shutdown.subscribe();
        let _ = asked.wait_for(|asked| *asked).await;
    }

    /// Stops; what is still open is cut.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let end = tokio::time::Instant::now() + GRACE;
        for task in self.tasks {
            let abort = task.abort_handle();
            if tokio::time::timeout_at(end, task).await.is_err() {
                abort.abort();
            }
        }
    }
}

/// A wildcard address is reached over the loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    if !address.ip().is_unspecified() {
        return address;
    }
    SocketAddr::from(([127, 0, 0, 1], address.port()))
}
