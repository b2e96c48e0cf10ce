//! A JSON-RPC client just big enough for a lab: one connection per call.
//!
//! Not for production use: no keep-alive, no TLS, loopback only.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::RpcAccess;

/// How long one call may take. Mining 2,000 blocks takes about a second here.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Largest answer read: a full block in hex is 8 MB.
const MAX_ANSWER_BYTES: u64 = 16 * 1024 * 1024;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum RpcClientError {
    /// The server answered with an error object.
    #[error("{method}: {message} (code {code})")]
    Refused {
        /// The method called.
        method: String,
        /// bitcoind's code.
        code: i64,
        /// bitcoind's words.
        message: String,
    },
    /// The connection broke or could not be made.
    #[error("{method}: no connection to the chain's RPC")]
    Io {
        /// The method called.
        method: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No answer in time.
    #[error("{method}: no answer within {seconds} s")]
    TimedOut {
        /// The method called.
        method: String,
        /// The bound.
        seconds: u64,
    },
    /// The answer is no JSON-RPC; a wrong password answers so.
    #[error("{method}: HTTP answer '{status}' holds no JSON-RPC answer")]
    BadAnswer {
        /// The method called.
        method: String,
        /// The HTTP status line.
        status: String,
    },
}

impl RpcClientError {
    /// bitcoind's code, where bitcoind answered.
    pub fn code(&self) -> Option<i64> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// Calls one RPC server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RpcClient {
    access: RpcAccess,
}

impl RpcClient {
    /// A client for the server at `access`; connects on each call.
    pub fn new(access: RpcAccess) -> Self {
        Self { access }
    }

    /// Where it calls.
    pub fn access(&self) -> &RpcAccess {
        &self.access
    }

    /// Calls `method` with positional `params` (a JSON array) and returns
    /// `result`.
    ///
    /// # Errors
    /// [`RpcClientError`]; `Refused` carries bitcoind's code.
    pub async fn call(&self, method: &str, params: Value) -> Result<Value, RpcClientError> {
        let request = json!({"jsonrpc": "1.0", "id": "lab", "method": method, "params": params});
        let io = |source| RpcClientError::Io {
            method: method.to_owned(),
            source,
        };
        let raw = tokio::time::timeout(CALL_TIMEOUT, self.exchange(request.to_string()))
            .await
            .map_err(|_| RpcClientError::TimedOut {
                method: method.to_owned(),
                seconds: CALL_TIMEOUT.as_secs(),
            })?
            .map_err(io)?;
        read_answer(method, &raw)
    }

    async fn exchange(&self, body: String) -> std::io::Result<Vec<u8>> {
        let RpcAccess { host, port, .. } = &self.access;
        let mut stream = TcpStream::connect((host.as_str(), *port)).await?;
        // HTTP/1.0: the server closes when done and never answers in chunks, so
        // the answer is simply everything up to the end.
        let head = format!(
            "POST / HTTP/1.0\r\nHost: {host}:{port}\r\nAuthorization: {}\r\n\
             Content-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            self.access.authorization(),
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        let mut raw = Vec::new();
        stream.take(MAX_ANSWER_BYTES).read_to_end(&mut raw).await?;
        Ok(raw)
    }
}

fn read_answer(method: &str, raw: &[u8]) -> Result<Value, RpcClientError> {
    let gap = raw.windows(4).position(|w| w == b"\r\n\r\n");
    let (head, body) = match gap {
        Some(at) => (&raw[..at], &raw[at + 4..]),
        None => (raw, &raw[raw.len()..]),
    };
    let bad = || RpcClientError::BadAnswer {
        method: method.to_owned(),
        status: String::from_utf8_lossy(head)
            .lines()
            .next()
            .unwrap_or("")
            .chars()
            .take(100)
            .collect(),
    };
    let mut answer: Value = serde_json::from_slice(body).map_err(|_| bad())?;
    match answer.get("error") {
        None | Some(Value::Null) => {
            let result = answer.get_mut("result").ok_or_else(bad)?;
            Ok(result.take())
        }
        Some(error) => Err(RpcClientError::Refused {
            method: method.to_owned(),
            code: error.get("code").and_then(Value::as_i64).unwrap_or(0),
            message: error
                .get("message")
                .and_then(Value::as_str)
                .unwrap_or("")
                .to_owned(),
        }),
    }
}
