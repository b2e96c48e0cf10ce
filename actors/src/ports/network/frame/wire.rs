//! The stream under both halves of a framed stream, and the list of all of them.

use super::super::Protocol;
use super::FrameError;
use super::budget::Budgets;
use futures::{AsyncRead, AsyncWrite};
use parking_lot::Mutex;
use std::io;
use std::sync::{Arc, Weak};
use std::task::Waker;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// What both kinds of stream can do.
pub(in super::super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The stream under both halves.
pub(super) struct Wire {
    /// `None` once reset.
    pub(super) stream: Option<Box<dyn Duplex>>,
    /// Whoever waits in the other half must learn of a reset.
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    pub(super) last_moved: Instant,
    /// Given back when both halves are gone.
    pub(super) _slot: Option<Box<dyn Send>>,
}

pub(super) type Shared = Arc<Mutex<Wire>>;

/// All streams of one swarm and what they share, so that its end is theirs: a stream that somebody
/// merely holds would keep the UDP socket of its QUIC connection open.
#[derive(Clone, Default)]
pub(in super::super) struct Registry(pub(super) Arc<Mutex<Registered>>, Budgets);

#[derive(Default)]
pub(super) struct Registered {
    pub(super) wires: Vec<Weak<Mutex<Wire>>>,
    closed: bool,
}

impl Registry {
    /// The memory that unfinished frames of `protocol` share.
    pub(super) fn room(&self, protocol: Protocol) -> Arc<Semaphore> {
        self.1.of(protocol)
    }

    pub(super) fn register(&self, wire: &Shared) {
        let mut registered = self.0.lock();
        if registered.closed {
            drop(registered);
            reset(wire);
            return;
        }
        // Bounded by twice the streams alive: the dead go before it grows.
        if registered.wires.len() == registered.wires.capacity() {
            registered.wires.retain(|wire| wire.strong_count() > 0);
        }
        registered.wires.push(Arc::downgrade(wire));
    }

    /// Resets every stream, and those that are still to come.
    pub(in super::super) fn close(&self) {
        let wires = {
            let mut registered = self.0.lock();
            registered.closed = true;
            std::mem::take(&mut registered.wires)
        };
        for wire in wires.iter().filter_map(Weak::upgrade) {
            reset(&wire);
        }
    }
}

/// Ends the stream for both halves and for the peer.
pub(super) fn reset(wire: &Shared) {
    let (stream, wakers) = {
        let mut wire = wire.lock();
        (wire.stream.take(), [wire.reader.take(), wire.writer.take()])
    };
    drop(stream);
    for waker in wakers.into_iter().flatten() {
        waker.wake();
    }
}

pub(super) fn was_reset() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "reset on this side")
}

pub(super) fn lost(error: &io::Error) -> FrameError {
    FrameError::Lost {
        reason: error.to_string(),
    }
}
