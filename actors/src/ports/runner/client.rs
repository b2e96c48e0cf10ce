//! HTTP towards one OpenAI-compatible server: requests, statuses, bounded answers.
//!
//! No redirects (a key must not travel on) and no proxy from the environment. What the
//! server says in an error stays in this machine's log: it may name paths and people.

use super::events::{Decoder, EventError};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::Value;
use std::time::Duration;

/// How long a connection may take: the server is near or it is away.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a list of models may take.
const LIST: Duration = Duration::from_secs(10);
/// How long until an answer begins, prefill included. Below a buyer's own patience
/// (180 s), so that it hears why.
const FIRST: Duration = Duration::from_secs(150);
/// Longest list of models that is read. Bytes.
const MAX_LIST: usize = 4 << 20;
/// As much of an error's text as goes to the log. Bytes.
const MAX_ERROR: usize = 600;
/// Wait after "busy" where the server names none, and the longest that is believed.
const BUSY: Duration = Duration::from_secs(10);
const LONGEST_BUSY: Duration = Duration::from_secs(600);

/// Why a call came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CallError {
    /// Nobody answers there.
    #[error("nothing answers at its address: start it, or correct `runner` ({detail})")]
    Unreachable {
        /// What the system said.
        detail: String,
    },
    /// HTTP 401.
    #[error("it refuses the key: correct `runner_key`")]
    Key,
    /// HTTP 404.
    #[error(
        "it does not know the model or the path: correct `runner_model` and the end of `runner`, mostly /v1 ({detail})"
    )]
    NotFound {
        /// What it said.
        detail: String,
    },
    /// HTTP 429 or 503.
    #[error("it is busy")]
    Busy {
        /// When to try again.
        after: Duration,
    },
    /// Another status.
    #[error("it answered with HTTP {status}: {detail}")]
    Status {
        /// The status.
        status: u16,
        /// What it said.
        detail: String,
    },
    /// It broke the dialect or a bound, or fell silent.
    #[error("{0}")]
    Broken(String),
}

impl From<EventError> for CallError {
    fn from(error: EventError) -> Self {
        CallError::Broken(error.to_string())
    }
}

impl CallError {
    /// Whether the server is of no use until somebody sees to it. What it says of one request (it is
    /// moderated, it names something unknown) is no reason: buyers write requests.
    pub fn is_away(&self) -> bool {
        matches!(self, CallError::Unreachable { .. } | CallError::Key)
    }

    /// Whether it did not like what the request said.
    pub fn is_bad_request(&self) -> bool {
        matches!(
            self,
            CallError::Status {
                status: 400 | 422,
                ..
            }
        )
    }

    /// What a buyer is told: nothing of the server's own words.
    pub fn for_buyer(&self) -> String {
        match self {
            CallError::Busy { after } => format!(
                "the server behind this listing is busy; try again in {} s",
                after.as_secs().max(1)
            ),
            CallError::Status { status, .. } => {
                format!("the server behind this listing answered with HTTP {status}")
            }
            CallError::NotFound { .. } => {
                "the server behind this listing answered with HTTP 404".to_owned()
            }
            CallError::Broken(what) => format!("the server behind this listing failed: {what}"),
            _ => "the server behind this listing is away".to_owned(),
        }
    }
}

/// A server and the key to it.
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<HeaderValue>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.base)
    }
}

impl Client {
    /// A client for the server at `base`; `None` where the key is no header or no TLS
    /// can be had.
    pub fn new(base: &str, key: Option<&str>) -> Option<Self> {
        // Other TLS users take the process's provider; the first choice stands.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let key = match key {
            Some(key) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {key}")).ok()?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .tcp_nodelay(true)
            .build()
            .ok()?;
        Some(Client {
            http,
            base: base.trim_end_matches('/').to_owned(),
            key,
        })
    }

    /// The base address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The list of models as the server sends it; `None` where it has no such list.
    pub async fn models(&self) -> Result<Option<Vec<u8>>, CallError> {
        let request = self.http.get(format!("{}/models", self.base));
        let call = async {
            match self.call(request).await {
                Ok(response) => whole(response, MAX_LIST).await.map(Some),
                // Some servers have answers and no list.
                Err(CallError::NotFound { .. } | CallError::Status { status: 405, .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        tokio::time::timeout(LIST, call)
            .await
            .unwrap_or_else(|_| Err(CallError::Broken("it is silent".to_owned())))
    }

    /// Asks for a streamed answer of at most `limit` bytes.
    pub async fn answer(
        &self,
        path: &str,
        body: &Value,
        limit: usize,
    ) -> Result<Events, CallError> {
        let request = self.http.post(format!("{}/{path}", self.base)).json(body);
        let response = tokio::time::timeout(FIRST, self.call(request))
            .await
            .map_err(|_| CallError::Broken("it began no answer in time".to_owned()))??;
        let kind = response.headers().get(CONTENT_TYPE);
        let streams = kind
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(|kind| kind.starts_with("text/event-stream"));
        if !streams {
            return Err(CallError::Broken("it does not stream answers".to_owned()));
        }
        Ok(Events {
            response,
            decoder: Decoder::new(limit),
            over: false,
        })
    }

    async fn call(&self, request: RequestBuilder) -> Result<Response, CallError> {
        let request = match &self.key {
            Some(key) => request.header(AUTHORIZATION, key.clone()),
            None => request,
        };
        let response = request.send().await.map_err(|error| {
            let detail = innermost(&error);
            match error.is_connect() || error.is_timeout() {
                true => CallError::Unreachable { detail },
                false => CallError::Broken(format!("its connection broke: {detail}")),
            }
        })?;
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::UNAUTHORIZED => Err(CallError::Key),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Err(CallError::Busy {
                    after: retry_after(&response),
                })
            }
            StatusCode::NOT_FOUND => Err(CallError::NotFound {
                detail: said(response).await,
            }),
            status => Err(CallError::Status {
                status: status.as_u16(),
                detail: said(response).await,
            }),
        }
    }
}

/// A streamed answer.
#[derive(Debug)]
pub(super) struct Events {
    response: Response,
    decoder: Decoder,
    over: bool,
}

impl Events {
    /// An event that is here already.
    pub fn ready(&mut self) -> Result<Option<String>, CallError> {
        Ok(self.decoder.next()?)
    }

    /// The data of the next event; `None` at the end. May be dropped and called again.
    pub async fn next(&mut self) -> Result<Option<String>, CallError> {
        loop {
            if let Some(event) = self.decoder.next()? {
                return Ok(Some(event));
            }
            if self.over {
                return Ok(None);
            }
            match self.response.chunk().await {
                Ok(Some(bytes)) => self.decoder.push(&bytes)?,
                Ok(None) => {
                    self.over = true;
                    return Ok(self.decoder.finish()?);
                }
                Err(error) => {
                    let detail = innermost(&error);
                    return Err(CallError::Broken(format!("its connection broke: {detail}")));
                }
            }
        }
    }
}

async fn whole(mut response: Response, limit: usize) -> Result<Vec<u8>, CallError> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(bytes)) if body.len() + bytes.len() <= limit => body.extend_from_slice(&bytes),
            Ok(Some(_)) => return Err(CallError::Broken("its list of models is endless".into())),
            Ok(None) => return Ok(body),
            Err(error) => {
                let detail = innermost(&error);
                return Err(CallError::Broken(format!("its connection broke: {detail}")));
            }
        }
    }
}

/// The beginning of an error's text, on one line.
async fn said(mut response: Response) -> String {
    let mut body = Vec::new();
    let read = async {
        while let Ok(Some(bytes)) = response.chunk().await {
            body.extend_from_slice(&bytes);
            if body.len() >= MAX_ERROR {
                break;
            }
        }
    };
    // What it has said by then is enough.
    let _ = tokio::time::timeout(Duration::from_secs(2), read).await;
    body.truncate(MAX_ERROR);
    let text = String::from_utf8_lossy(&body);
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn retry_after(response: &Response) -> Duration {
    let seconds = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok());
    seconds.map_or(BUSY, Duration::from_secs).min(LONGEST_BUSY)
}

/// The cause that says something: the outer ones repeat the address.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
