//! Yamux: many streams over one connection that has none of its own (TCP).
//!
//! In place of libp2p's, which sets neither of two bounds on what a peer makes this node hold. Here
//! the windows of a connection grow by [`YAMUX_WINDOW_GROWTH`] together, and streams that nobody has
//! taken yet are [`WAITING_STREAMS`], as each may come with a full window of bytes; more are reset.

use super::bounds::{MUXED_STREAMS, WAITING_STREAMS, YAMUX_WINDOW_GROWTH};
use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use yamux::{Connection, ConnectionError, DEFAULT_CREDIT, Mode, Stream};

/// Makes a [`Muxer`] of a connection.
#[derive(Debug, Clone)]
pub(super) struct Yamux(yamux::Config);

impl Yamux {
    pub(super) fn new() -> Self {
        let mut config = yamux::Config::default();
        let least = MUXED_STREAMS * DEFAULT_CREDIT as usize;
        config
            .set_max_num_streams(MUXED_STREAMS)
            .set_max_connection_receive_window(Some(least + YAMUX_WINDOW_GROWTH));
        Self(config)
    }
}

impl UpgradeInfo for Yamux {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> InboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Muxer<C>, Infallible>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        ready(Ok(Muxer::new(socket, self.0, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Muxer<C>, Infallible>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        ready(Ok(Muxer::new(socket, self.0, Mode::Client)))
    }
}

/// See the head of the file.
pub(super) struct Muxer<C> {
    connection: Connection<C>,
    /// Streams that the peer opened and nobody has taken.
    waiting: VecDeque<Stream>,
    /// Who waits for one of them.
    taker: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    fn new(socket: C, config: yamux::Config, mode: Mode) -> Self {
        Self {
            connection: Connection::new(socket, config, mode),
            waiting: VecDeque::new(),
            taker: None,
        }
    }

    /// Drives the connection until the peer opens a stream.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        let next = ready!(self.connection.poll_next_inbound(cx));
        Poll::Ready(next.unwrap_or(Err(ConnectionError::Closed)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionError>> {
        if let Some(stream) = self.waiting.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let next = self.poll_next(cx);
        if next.is_pending() {
            self.taker = Some(cx.waker().clone());
        }
        next
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionError>> {
        self.connection.poll_new_outbound(cx)
    }

    fn poll_close(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ConnectionError>> {
        self.connection.poll_close(cx)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        let stream = ready!(self.poll_next(cx))?;
        // Beyond the bound it is reset, by being dropped.
        if self.waiting.len() < WAITING_STREAMS {
            self.waiting.push_back(stream);
            if let Some(taker) = self.taker.take() {
                taker.wake();
            }
        }
        // There may be more to do; others have their turn first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
