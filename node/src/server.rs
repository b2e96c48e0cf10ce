//! The node's HTTP server: the gateway under `/v1`, the control API under `/control`.
//!
//! Not a public service: bound to the loopback unless the owner says otherwise,
//! with checks against pages in a browser (see [`guard`]). Decides nothing about
//! money: caps are the payment machine's.

use crate::config::{Config, Gateway, GatewayKey};
use crate::control::ModelRow;
use crate::models::LocalModel;
use actors::node::Node;
use protocol::ids::ModelDigest;
use protocol::money::Msat;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;

pub mod answer;
pub mod completions;
pub mod control;
pub mod embeddings;
pub mod errors;
pub mod guard;
pub mod models;
pub mod openai;
pub mod order;
pub mod purchase;
mod wallet;

/// Random bytes of the control token.
const TOKEN_BYTES: usize = 32;

/// What request handlers share.
pub struct App {
    pub(crate) node: Node,
    pub(crate) gateway: Gateway,
    pub(crate) per_order: Msat,
    pub(crate) network: &'static str,
    pub(crate) rows: Vec<ModelRow>,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) shutdown: watch::Sender<bool>,
    pub(crate) url: std::sync::OnceLock<String>,
    local: Vec<(String, ModelDigest)>,
    token: String,
}

impl App {
    /// Puts the state together and draws a token.
    pub fn new(node: Node, config: &Config, served: &[LocalModel], rows: Vec<ModelRow>) -> Self {
        let mut token = [0u8; TOKEN_BYTES];
        rand::RngCore::fill_bytes(&mut rand::rngs::OsRng, &mut token);
        App {
            network: config.network.name(),
            node,
            gateway: config.gateway.clone(),
            per_order: config.budget.per_order.0,
            local: served
                .iter()
                .map(|model| (model.name.clone(), model.digest()))
                .collect(),
            rows,
            slots: Arc::new(Semaphore::new(config.gateway.max_requests)),
            shutdown: watch::Sender::new(false),
            url: std::sync::OnceLock::new(),
            token: hex::encode(token),
        }
    }

    /// The secret that `/control` asks for.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Keys that `/v1` asks for; none: it asks for nothing.
    pub(crate) fn keys(&self) -> &[GatewayKey] {
        &self.gateway.keys
    }

    /// A place among the requests that are served at once.
    pub(crate) fn slot(&self) -> Result<OwnedSemaphorePermit, errors::ApiError> {
        self.slots.clone().try_acquire_owned().map_err(|_| {
            let most = self.gateway.max_requests;
            errors::ApiError::new(
                503,
                format!("{most} requests are being served already"),
                "try again later, or raise gateway.max_requests",
            )
        })
    }

    /// The local model of a name or digest, where requests may be run here.
    pub(crate) fn local(
        &self,
        wanted: &protocol::inference::io::ModelSelector,
        embeds: bool,
    ) -> Option<(String, ModelDigest)> {
        use protocol::inference::io::ModelSelector;
        if !self.gateway.local_first {
            return None;
        }
        let fits = |(name, digest): &&(String, ModelDigest)| match wanted {
            ModelSelector::Name(wanted) => name == wanted,
            ModelSelector::Digest(wanted) => digest == wanted,
            ModelSelector::Any => {
                let model = self.node.compute().model(digest);
                model.is_some_and(|model| model.is_encoder() == embeds)
            }
        };
        self.local.iter().find(fits).cloned()
    }
}

/// A running server.
pub struct Server {
    address: SocketAddr,
    shutdown: watch::Sender<bool>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resolves when a client asked for a shutdown.
    pub async fn shutdown_asked(&self) {
        // The sender lives in `self`, so this cannot fail.
        let _ = self.shutdown.subscribe().wait_for(|asked| *asked).await;
    }

    /// Stops; what is still open is cut.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let grace = std::time::Duration::from_secs(2);
        let abort = self.task.abort_handle();
        if tokio::time::timeout(grace, self.task).await.is_err() {
            abort.abort();
        }
    }
}

/// Starts the server.
///
/// # Errors
/// Where the address cannot be listened on.
pub async fn start(app: App, address: SocketAddr) -> std::io::Result<Server> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let (shutdown, stop) = (app.shutdown.clone(), watch::Sender::new(false));
    // Set once, here.
    let _ = app.url.set(format!("http://{address}"));
    let router = guard::router(Arc::new(app));
    let mut stopped = stop.subscribe();
    let task = tokio::spawn(async move {
        let signal = async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        if let Err(error) = axum::serve(listener, router)
            .with_graceful_shutdown(signal)
            .await
        {
            tracing::error!(%error, "the HTTP server failed");
        }
    });
    Ok(Server {
        address,
        shutdown,
        stop,
        task,
    })
}
