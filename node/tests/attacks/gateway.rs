//! The gateway's HTTP, from programs of the same machine.

use super::fitness::Range;
use super::stranger::Target;
use super::{alone, long};
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Connections of one attack: more than the gateway serves at once.
const CONNECTIONS: usize = 300;
/// How long a client waits for an answer that it does not expect.
const QUIET: Duration = Duration::from_millis(300);
/// A request that would be answered, hidden in the body of another.
const HIDDEN: &str = "GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n";

fn question(more: &str) -> String {
    format!(
        "{{\"model\":\"pocket\",\"messages\":[{{\"role\":\"user\",\"content\":\"What is a sat?\"}}]{more}}}"
    )
}

fn head(length: impl std::fmt::Display) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
}

/// Connections that say nothing.
async fn idle(at: SocketAddr) -> Result<String> {
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        open.push(TcpStream::connect(at).await?);
    }
    tokio::time::sleep(long()).await;
    Ok(format!("{CONNECTIONS} idle connections"))
}

/// Heads that come byte by byte and never end.
async fn slow_heads(at: SocketAddr) -> Result<String> {
    let until = Instant::now() + long();
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(at).await?;
        stream
            .write_all(b"POST /v1/chat/completions HTTP/1.1\r\nx-slow: ")
            .await?;
        open.push(stream);
    }
    while Instant::now() < until {
        for stream in &mut open {
            // A connection that was given up takes no more.
            let _ = stream.write_all(b"a").await;
        }
        tokio::time::sleep(QUIET).await;
    }
    Ok(format!("{CONNECTIONS} heads without end"))
}

/// Bodies that are announced as huge, or never end, or trickle.
async fn huge_bodies(at: SocketAddr) -> Result<String> {
    let until = Instant::now() + long();
    let mut writers = JoinSet::new();
    for number in 0..64 {
        writers.spawn(async move {
            let mut sent = 0u64;
            while Instant::now() < until {
                let Ok(mut stream) = TcpStream::connect(at).await else {
                    continue;
                };
                let (start, piece) = match number % 3 {
                    0 => (head(8u64 << 30), vec![b'['; 64 << 10]),
                    1 => {
                        let start =
                            head(0).replace("content-length: 0", "transfer-encoding: chunked");
                        let piece = [&b"10000\r\n"[..], &vec![b' '; 64 << 10], b"\r\n"].concat();
                        (start, piece)
                    }
                    _ => (head(2 << 20), vec![b'{']),
                };
                if stream.write_all(start.as_bytes()).await.is_err() {
                    continue;
                }
                while Instant::now() < until {
                    let written = tokio::time::timeout(QUIET, stream.write_all(&piece)).await;
                    if !matches!(written, Ok(Ok(()))) {
                        break;
                    }
                    sent += piece.len() as u64;
                    if piece.len() == 1 {
                        tokio::time::sleep(QUIET).await;
                    }
                }
            }
            sent
        });
    }
    let mut sent = 0;
    while let Some(writer) = writers.join_next().await {
        sent += writer?;
    }
    Ok(format!("{} MiB of bodies", sent >> 20))
}

/// Answers that nobody reads.
async fn unread(at: SocketAddr) -> Result<String> {
    let mut open = Vec::new();
    let body = question(",\"stream\":true,\"max_tokens\":900");
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(at).await?;
        let request = head(body.len()) + &body;
        stream.write_all(request.as_bytes()).await?;
        open.push(stream);
    }
    tokio::time::sleep(long()).await;
    Ok(format!("{CONNECTIONS} streams that nobody reads"))
}

/// Everything that is said to `sent`, until the gateway closes or says no more.
async fn said(at: SocketAddr, sent: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect(at).await?;
    stream.write_all(sent).await?;
    let (mut said, mut piece) = (Vec::new(), vec![0; 4_096]);
    while let Ok(Ok(read)) = tokio::time::timeout(QUIET, stream.read(&mut piece)).await {
        if read == 0 {
            break;
        }
        said.extend_from_slice(&piece[..read]);
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// Requests whose length can be read in two ways, with another request where the readings differ:
/// it must not be answered.
async fn smuggled(at: SocketAddr) -> Result<String> {
    let length = HIDDEN.len();
    let heads = [
        format!("content-length: 0\r\ncontent-length: {length}"),
        format!("content-length: 0\r\ntransfer-encoding: chunked\r\ncontent-length: {length}"),
        "content-length: 4\r\ntransfer-encoding: chunked".to_owned(),
        "transfer-encoding: xchunked".to_owned(),
        "transfer-encoding: chunked, identity".to_owned(),
        "transfer-encoding:\u{b}chunked".to_owned(),
        "content-length : 0".to_owned(),
        "content-length: +0".to_owned(),
        "content-length: 0x0".to_owned(),
        "content-length: 18446744073709551616".to_owned(),
        "x: y\r\n content-length: 0".to_owned(),
        "\r\ncontent-length: 0".replace("\r\n", "\n"),
    ];
    let mut sent = 0;
    for line in heads {
        let start = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
        for body in [HIDDEN.to_owned(), format!("0\r\n\r\n{HIDDEN}")] {
            let request = format!("{start}{line}\r\n\r\n{body}");
            let answer = said(at, request.as_bytes()).await?;
            ensure!(!answer.contains("HTTP/1.1 200"), "{line:?}: {answer}");
            sent += 1;
        }
    }
    // Heads beyond every bound.
    for line in [
        "x: ".to_owned() + &"a".repeat(1 << 20),
        "a: b\r\n".repeat(5_000),
    ] {
        let request = format!("GET /v1/models HTTP/1.1\r\nhost: localhost\r\n{line}\r\n\r\n");
        // It may be closed in the middle.
        if let Ok(answer) = said(at, request.as_bytes()).await {
            ensure!(!answer.contains("HTTP/1.1 200"), "{answer}");
        }
        sent += 1;
    }
    Ok(format!("{sent} requests of doubtful length"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_fit_after_http_that_is_slow_idle_huge_unread_or_smuggled() -> Result<()> {
    let _alone = alone().await;
    let range = Range::start().await?;
    let gateway = range.host().gateway.strip_prefix("http://");
    let at: SocketAddr = gateway.context("no gateway")?.parse()?;
    range.survives("HTTP idle", |_: Target| idle(at)).await?;
    range
        .survives("HTTP heads", |_: Target| slow_heads(at))
        .await?;
    range
        .survives("HTTP bodies", |_: Target| huge_bodies(at))
        .await?;
    range
        .survives("HTTP unread", |_: Target| unread(at))
        .await?;
    range
        .survives("HTTP smuggled", |_: Target| smuggled(at))
        .await?;
    range.end().await
}
