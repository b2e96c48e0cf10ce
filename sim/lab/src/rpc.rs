//! The in-process chain served as bitcoind's JSON-RPC, and a client for it.
//!
//! What it is: an HTTP server on a free port of 127.0.0.1 with Basic auth that
//! answers the 11 methods ldk-node calls, with bitcoind's error codes, plus
//! `getblockcount`, `generatetoaddress` and `rollback`
//! (ours; on a real bitcoind `invalidateblock` does it). [`RpcClient`] speaks to
//! this server and to a real bitcoind alike, so one driver runs on both.
//!
//! What it is not: a general bitcoind. Unknown methods get code -32601.
//!
//! Called by `Chain` (backend), and over HTTP by any ldk-node.
//!
//! Pitfall: a wrong password makes ldk-node retry for ever without an event;
//! hand it [`RpcAccess`] untouched.

mod client;
mod methods;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::RngCore;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use client::{RpcClient, RpcClientError};

use crate::chain::RegtestChain;

/// Largest request body: a transaction of the largest standard weight in hex
/// is under 1 MB.
const MAX_REQUEST_BYTES: usize = 2 * 1024 * 1024;

/// How long a shutdown waits for open connections before it drops them.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// RPC_PARSE_ERROR.
const CODE_PARSE: i64 = -32700;

/// Where a chain's RPC listens and what it asks for. These four values are
/// what `Builder::set_chain_source_bitcoind_rpc` takes, in its order. It can be
/// written down for other processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RpcAccess {
    /// Always "127.0.0.1".
    pub host: String,
    /// A free port chosen at start.
    pub port: u16,
    /// User of the Basic auth.
    pub user: String,
    /// Its password; random for each lab.
    pub password: String,
}

impl RpcAccess {
    /// Access on loopback at `port` with a fresh password.
    pub(crate) fn on_loopback(port: u16) -> Self {
        let mut secret = [0u8; 16];
        rand::thread_rng().fill_bytes(&mut secret);
        Self {
            host: Ipv4Addr::LOCALHOST.to_string(),
            port,
            user: "lab".to_owned(),
            password: hex::encode(secret),
        }
    }

    /// The value of the Authorization header.
    pub(crate) fn authorization(&self) -> String {
        let pair = format!("{}:{}", self.user, self.password);
        format!("Basic {}", STANDARD.encode(pair))
    }
}

/// The running server. Dropping it stops it too, without waiting.
pub struct RpcServer {
    access: RpcAccess,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Served {
    chain: RegtestChain,
    authorization: String,
}

impl RpcServer {
    /// Serves `chain` on a free loopback port.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(chain: RegtestChain) -> std::io::Result<Self> {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(any_port).await?;
        let access = RpcAccess::on_loopback(listener.local_addr()?.port());
        let served = Served {
            chain,
            authorization: access.authorization(),
        };
        let app = Router::new()
            .route("/", post(answer))
            .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
            .with_state(served);
        let (stop, mut stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let shutdown = async move {
                // An error means that the sender is gone: stop as well.
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            let serving = axum::serve(listener, app).with_graceful_shutdown(shutdown);
            if let Err(error) = serving.await {
                tracing::warn!(%error, "the chain's RPC server ended");
            }
        });
        Ok(Self { access, stop, task })
    }

    /// How to reach it.
    pub fn access(&self) -> &RpcAccess {
        &self.access
    }

    /// Stops listening, finishes open requests (bounded), frees the port.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if tokio::time::timeout(SHUTDOWN_GRACE, &mut self.task)
            .await
            .is_err()
        {
            self.task.abort();
        }
    }
}

/// One HTTP request: check the password, parse, dispatch, wrap.
async fn answer(State(served): State<Served>, headers: HeaderMap, body: Bytes) -> Response {
    let given = headers
        .get(header::AUTHORIZATION)
        .map(|value| value.as_bytes());
    if given != Some(served.authorization.as_bytes()) {
        let realm = [(header::WWW_AUTHENTICATE, "Basic realm=\"jsonrpc\"")];
        return (StatusCode::UNAUTHORIZED, realm, "wrong user or password\n").into_response();
    }
    let Ok(request) = serde_json::from_slice::<Value>(&body) else {
        return failure(Value::Null, CODE_PARSE, "Parse error");
    };
    let id = request.get("id").cloned().unwrap_or(Value::Null);
    let method = request.get("method").and_then(Value::as_str).unwrap_or("");
    let empty = Vec::new();
    let params = request
        .get("params")
        .and_then(Value::as_array)
        .unwrap_or(&empty);
    match methods::call(&served.chain, method, params) {
        Ok(result) => {
            axum::Json(json!({"result": result, "error": null, "id": id})).into_response()
        }
        Err(error) => failure(id, error.code, &error.message),
    }
}

/// An error answer; HTTP status as bitcoind chooses it (`httprpc.cpp`).
fn failure(id: Value, code: i64, message: &str) -> Response {
    let status = match code {
        methods::CODE_UNKNOWN_METHOD => StatusCode::NOT_FOUND,
        methods::CODE_INVALID_REQUEST => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let error = json!({"code": code, "message": message});
    let body = axum::Json(json!({"result": null, "error": error, "id": id}));
    (status, body).into_response()
}
