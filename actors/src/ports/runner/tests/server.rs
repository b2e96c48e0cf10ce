//! A server that says what a test tells it: `GET models` is answered with a list, each
//! `POST` with the next reply.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Notify};

/// What one request is answered with, and whether the connection then stays open.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    bytes: Vec<u8>,
    hangs: bool,
}

const STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

/// An event with a piece of text.
pub(super) fn delta(text: &str) -> String {
    serde_json::json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]}).to_string()
}

/// The last two events: the end, and the totals.
pub(super) fn last(finish: &str, prompt: u64, output: u64) -> String {
    format!(
        "{{\"choices\":[{{\"delta\":{{}},\"finish_reason\":\"{finish}\"}}]}}\n\ndata: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":{prompt},\"completion_tokens\":{output}}}}}\n\ndata: [DONE]"
    )
}

impl Reply {
    pub fn raw(parts: &[&str]) -> Self {
        Reply {
            bytes: parts.concat().into_bytes(),
            hangs: false,
        }
    }

    pub fn status(status: u16, body: &str) -> Self {
        let length = body.len();
        Self::raw(&[&format!(
            "HTTP/1.1 {status} No\r\ncontent-length: {length}\r\n\r\n{body}"
        )])
    }

    /// Events, the last of them `last`.
    pub fn stream(events: &[String], last: &str) -> Self {
        let mut reply = Self::cut(events);
        reply.bytes.extend(format!("data: {last}\n\n").into_bytes());
        reply
    }

    /// Events, and then the end of the connection.
    pub fn cut(events: &[String]) -> Self {
        let events: String = events
            .iter()
            .map(|event| format!("data: {event}\n\n"))
            .collect();
        Self::raw(&[STREAM, &events])
    }

    /// Events, and then silence.
    pub fn hang(events: &[String]) -> Self {
        Reply {
            hangs: true,
            ..Self::cut(events)
        }
    }
}

struct Shared {
    models: String,
    replies: Mutex<std::collections::VecDeque<Reply>>,
    asked: parking_lot::Mutex<Vec<String>>,
    hung_up: Notify,
    gone: AtomicBool,
}

/// A running server; stops with the test's runtime.
pub(super) struct Server {
    pub url: String,
    shared: Arc<Shared>,
}

impl Server {
    /// Lists the model `m` and gives these replies.
    pub async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        Self::listing(r#"{"object":"list","data":[{"id":"m"}]}"#, replies).await
    }

    /// Gives this list of models, and these replies.
    pub async fn listing(models: &str, replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            models: models.to_owned(),
            replies: Mutex::new(replies.into_iter().collect()),
            asked: parking_lot::Mutex::default(),
            hung_up: Notify::new(),
            gone: AtomicBool::new(false),
        });
        let server = shared.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, server.clone()));
            }
        });
        Server { url, shared }
    }

    /// Head and body of every request so far.
    pub fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().clone()
    }

    /// Resolves when the client of a reply that hangs has gone.
    pub async fn hung_up(&self) {
        while !self.shared.gone.load(Ordering::Acquire) {
            self.shared.hung_up.notified().await;
        }
    }
}

async fn answer(mut stream: TcpStream, server: Arc<Shared>) {
    let Some(request) = read(&mut stream).await else {
        return;
    };
    let lists = request.starts_with("GET");
    server.asked.lock().push(request);
    if lists {
        let (length, body) = (server.models.len(), &server.models);
        let reply = format!(
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let _ = stream.write_all(reply.as_bytes()).await;
        return;
    }
    let reply = server.replies.lock().await.pop_front();
    let reply = reply.unwrap_or_else(|| Reply::status(500, "no reply is left"));
    let _ = stream.write_all(&reply.bytes).await;
    if reply.hangs {
        // Until the client has gone.
        let _ = stream.read(&mut [0; 64]).await;
        server.gone.store(true, Ordering::Release);
        server.hung_up.notify_waiters();
        server.hung_up.notify_one();
    }
    let _ = stream.shutdown().await;
}

/// Head and body of a request.
async fn read(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let n = stream.read(&mut piece).await.ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&piece[..n]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return Some(text);
        }
    }
}
