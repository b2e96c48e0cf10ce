//! How bytes reach a relay: a plain TCP connection, or whatever the caller injects
//! (a SOCKS proxy, a Tor stream).
//!
//! Not TLS and not the websocket: `task` wraps the stream in both. A relay that is
//! reached through an injected dialer is never also contacted directly: its NIP-11
//! document is then not fetched, and unknown limits count as none.

use futures::future::BoxFuture;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A byte stream to a relay.
pub trait RelayStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> RelayStream for T {}

/// Opens byte streams by host name and port.
pub trait Dial: Send + Sync {
    /// Connects to `host` (a name, an address or an onion name). The caller bounds the time.
    fn dial<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Box<dyn RelayStream>>>;

    /// Reports whether the operating system's own network may be used beside it.
    fn is_direct(&self) -> bool {
        false
    }
}

/// Dials with the operating system's network.
#[derive(Debug, Clone, Copy, Default)]
pub struct DirectDial;

impl Dial for DirectDial {
    fn dial<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Box<dyn RelayStream>>> {
        Box::pin(async move {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let stream = TcpStream::connect((host, port)).await?;
            // Small frames both ways: Nagle would only add latency.
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn RelayStream>)
        })
    }

    fn is_direct(&self) -> bool {
        true
    }
}
