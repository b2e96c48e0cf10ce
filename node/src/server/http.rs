//! HTTP connections: how many, and how long one may take to say what it wants.
//!
//! Not what is asked: that is [`super::guard`]'s. Bounds whoever opens connections and says
//! nothing, sends its headers or its body byte by byte, or does not read its answer.

mod patient;

use super::errors::ApiError;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use patient::Patient;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

/// Bytes of an answer that the system keeps for a client that does not read. Small: what
/// lies there was bought. Linux doubles it for its own bookkeeping.
const SEND_BUFFER_BYTES: u32 = 16 << 10;
/// Largest head of a request, and the most of an answer that waits in this process. Bytes.
const HEAD_MAX_BYTES: usize = 16 << 10;
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1_024;

/// Bounds of one server's connections.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections open at once; further ones wait to be accepted.
    pub connections: usize,
    /// Longest wait for the head of a request, the first byte included.
    pub head: Duration,
    /// Longest wait for a client to take more of an answer.
    pub write: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            // Four for each request that the gateway serves at once by default. Each takes
            // a file descriptor, of which a process commonly has 1,024.
            connections: 256,
            // A program sends its head in one piece; a connection without work is closed.
            head: Duration::from_secs(15),
            // A program reads at once; one on a lost line comes back within seconds.
            write: Duration::from_secs(30),
        }
    }
}

/// Longest wait for the body of a request. Two MiB over a slow line take some seconds.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Listens on a TCP address, with small buffers for answers.
///
/// # Errors
/// What the system says.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit it.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves connections until `stop`; those that are open then end their request.
pub async fn serve<L: Listener>(
    mut listener: L,
    router: Router,
    bounds: Bounds,
    mut stop: watch::Receiver<bool>,
) where
    L::Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let places = Arc::new(Semaphore::new(bounds.connections));
    let mut open = JoinSet::new();
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let place = places.clone().acquire_owned().await.ok()?;
            Some((listener.accept().await.0, place))
        };
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = accepted => accepted,
        };
        let Some((io, place)) = accepted else { break };
        while open.try_join_next().is_some() {}
        open.spawn(connection(io, router.clone(), bounds, stop.clone(), place));
    }
    drop(listener);
    while open.join_next().await.is_some() {}
}

async fn connection<I>(
    io: I,
    router: Router,
    bounds: Bounds,
    mut stop: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .max_buf_size(HEAD_MAX_BYTES)
        .serve_connection(
            TokioIo::new(Patient::new(io, bounds.write)),
            TowerToHyperService::new(router),
        );
    tokio::pin!(serving);
    // An error here is a client that went away or spoke no HTTP.
    tokio::select! {
        _ = serving.as_mut() => return,
        _ = stop.wait_for(|stop| *stop) => serving.as_mut().graceful_shutdown(),
    }
    let _ = serving.await;
}

/// Takes the whole body of a request before anything is done for it: at most `most` bytes,
/// within `within`.
pub async fn whole_body(request: Request, next: Next, most: usize, within: Duration) -> Response {
    let (head, body) = request.into_parts();
    match tokio::time::timeout(within, axum::body::to_bytes(body, most)).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(head, Body::from(bytes))).await,
        Ok(Err(error)) => {
            let too_long = std::error::Error::source(&error)
                .is_some_and(|source| source.to_string().contains("length limit"));
            let (status, message) = match too_long {
                true => (413, format!("the request has more than {most} bytes")),
                false => (400, format!("the request did not arrive whole: {error}")),
            };
            ApiError::new(
                status,
                message,
                "send less, or raise gateway.max_body_bytes",
            )
            .into_response()
        }
        Err(_) => ApiError::new(
            408,
            format!("the request did not arrive within {} s", within.as_secs()),
            "send it in one piece",
        )
        .into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::middleware;
    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    /// Bytes of an answer that no buffer takes whole.
    const LARGE: usize = 64 << 20;

    /// A server with one place, on a free port.
    async fn server(bounds: Bounds) -> (SocketAddr, watch::Sender<bool>) {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = watch::Sender::new(false);
        let router = Router::new()
            .route(
                "/",
                post(|body: String| async move { body.len().to_string() }),
            )
            .route("/large", get(|| async { vec![b'x'; LARGE] }))
            .layer(middleware::from_fn(|request, next| {
                whole_body(request, next, 16, Duration::from_millis(200))
            }));
        tokio::spawn(serve(listener, router, bounds, stop.subscribe()));
        (address, stop)
    }

    fn one_place() -> Bounds {
        Bounds {
            connections: 1,
            head: Duration::from_millis(200),
            write: Duration::from_millis(500),
        }
    }

    /// Everything that the server says to `sent`, until it closes.
    async fn answer(address: SocketAddr, sent: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut said = Vec::new();
        // A server that closes on unread bytes resets the connection.
        let _ = stream.read_to_end(&mut said).await;
        String::from_utf8(said).unwrap()
    }

    const GOOD: &str =
        "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nab";

    #[tokio::test]
    async fn connections_that_say_nothing_give_their_places_back() {
        let (address, _stop) = server(one_place()).await;
        let mut silent = Vec::new();
        for _ in 0..3 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        // Behind all of them, and answered once each has been silent for long enough.
        assert!(answer(address, GOOD).await.ends_with("\r\n\r\n2"));
    }

    #[tokio::test]
    async fn headers_that_come_byte_by_byte_are_not_waited_for() {
        let (address, _stop) = server(one_place()).await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"POST / HTTP/1.1\r\nx-slow: ")
            .await
            .unwrap();
        assert!(answer(address, GOOD).await.ends_with("\r\n\r\n2"));
        let mut rest = Vec::new();
        let _ = slow.read_to_end(&mut rest).await;
    }

    #[tokio::test]
    async fn who_does_not_read_its_answer_gives_its_place_back_and_who_does_gets_it_whole() {
        let (address, _stop) = server(one_place()).await;
        let ask = "GET /large HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let mut deaf = TcpStream::connect(address).await.unwrap();
        deaf.write_all(ask.as_bytes()).await.unwrap();
        let waited = tokio::time::timeout(Duration::from_secs(30), answer(address, GOOD)).await;
        assert!(waited.is_ok_and(|said| said.ends_with("\r\n\r\n2")));
        // Slow, and with pauses below the bound.
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(ask.as_bytes()).await.unwrap();
        let mut said = vec![0; 4 << 20];
        let mut count = 0;
        loop {
            let read = slow.read(&mut said).await.unwrap();
            if read == 0 {
                break;
            }
            count += read;
            if count < 8 << 20 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        assert!(count > LARGE, "{count} of {LARGE} bytes");
        drop(deaf);
    }

    #[tokio::test]
    async fn little_is_kept_by_the_system_for_a_client_that_does_not_read() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let client = TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(4 << 10).unwrap();
        let connecting = client.connect(listener.local_addr().unwrap());
        let (deaf, accepted) = tokio::join!(connecting, listener.accept());
        let (stream, _) = accepted.unwrap();
        let mut kept = 0;
        // What the other side's system takes needs a moment.
        for _ in 0..50 {
            while let Ok(taken) = stream.try_write(&[0; 4 << 10]) {
                kept += taken;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(kept < 256 << 10, "{kept} bytes");
        drop(deaf);
    }

    #[tokio::test]
    async fn a_body_that_never_comes_ends_in_408_and_one_too_long_in_413() {
        let (address, _stop) = server(Bounds::default()).await;
        let head = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: ";
        let said = answer(address, &format!("{head}9\r\n\r\nab")).await;
        assert!(said.starts_with("HTTP/1.1 408"), "{said}");
        let said = answer(address, &format!("{head}17\r\n\r\n{}", "a".repeat(17))).await;
        assert!(said.starts_with("HTTP/1.1 413"), "{said}");
    }
}
