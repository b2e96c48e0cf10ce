//! The sending half of a framed stream.

use super::super::Protocol;
use super::wire::{Duplex, Shared, lost, reset, was_reset};
use super::{FrameError, HEADER};
use futures::AsyncWrite;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Frames up to this size are sent with their header in one write.
const JOINED: usize = 16 << 10;

#[derive(Clone, Copy, PartialEq, Eq)]
enum WriterState {
    Open,
    /// Inside a frame; seen at the start of a call only if a `send` was dropped.
    Writing,
    Finished,
}

/// The sending half of a `FramedStream`.
pub struct FrameWriter {
    wire: Shared,
    protocol: Protocol,
    state: WriterState,
    timeout: Duration,
}

impl FrameWriter {
    pub(super) fn new(wire: Shared, protocol: Protocol, timeout: Duration) -> Self {
        Self {
            wire,
            protocol,
            state: WriterState::Open,
            timeout,
        }
    }

    /// Sends one frame and returns when the transport has taken all of it,
    /// which waits for the peer once the transport's window is full. That is
    /// no acknowledgement by the peer.
    ///
    /// Not cancel safe: a `send` that was dropped half way ends the stream.
    pub async fn send(&mut self, frame: &[u8]) -> Result<(), FrameError> {
        let (protocol, limit) = (self.protocol, self.protocol.frame_limit());
        let length = match u32::try_from(frame.len()) {
            Ok(0) => return Err(FrameError::Empty),
            Ok(length) if frame.len() <= limit => length,
            _ => {
                return Err(FrameError::TooLarge {
                    protocol,
                    length: frame.len(),
                    limit,
                });
            }
        };
        self.enter()?;
        let header = length.to_be_bytes();
        if frame.len() <= JOINED {
            let mut joined = Vec::with_capacity(HEADER + frame.len());
            joined.extend_from_slice(&header);
            joined.extend_from_slice(frame);
            self.write(&[&joined], false).await?;
        } else {
            self.write(&[&header, frame], false).await?;
        }
        self.state = WriterState::Open;
        Ok(())
    }

    /// Says that all was sent and closes this direction; the other one stays
    /// open. Doing it twice is no error.
    pub async fn finish(&mut self) -> Result<(), FrameError> {
        if self.state == WriterState::Finished {
            return Ok(());
        }
        self.enter()?;
        self.write(&[&[0; HEADER]], true).await?;
        self.state = WriterState::Finished;
        Ok(())
    }

    /// Returns once the stream has been reset: by the reading half, whose peer went away or broke
    /// a rule, or by the end of the swarm. Before that it waits, for ever if need be.
    pub async fn broken(&mut self) {
        poll_fn(|cx| {
            let mut wire = self.wire.lock();
            if wire.stream.is_none() {
                return Poll::Ready(());
            }
            wire.writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn enter(&mut self) -> Result<(), FrameError> {
        match self.state {
            WriterState::Open => {
                self.state = WriterState::Writing;
                Ok(())
            }
            WriterState::Writing => {
                reset(&self.wire);
                Err(FrameError::Abandoned)
            }
            WriterState::Finished => Err(FrameError::Finished),
        }
    }

    async fn write(&mut self, parts: &[&[u8]], close: bool) -> Result<(), FrameError> {
        let deadline = Instant::now() + self.timeout;
        let all = async {
            for part in parts {
                let mut rest = *part;
                while !rest.is_empty() {
                    let taken = poll_fn(|cx| self.poll_wire(cx, |s, cx| s.poll_write(cx, rest)));
                    match taken.await? {
                        0 => return Err(io::Error::from(io::ErrorKind::WriteZero)),
                        taken => rest = rest.get(taken..).unwrap_or_default(),
                    }
                }
            }
            poll_fn(|cx| self.poll_wire(cx, |s, cx| s.poll_flush(cx))).await?;
            if close {
                poll_fn(|cx| self.poll_wire(cx, |s, cx| s.poll_close(cx))).await?;
            }
            Ok(())
        };
        let error = match timeout_at(deadline, all).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => lost(&error),
            Err(_) => FrameError::Stalled {
                after: self.timeout,
            },
        };
        reset(&self.wire);
        Err(error)
    }

    fn poll_wire<T>(
        &self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut Box<dyn Duplex>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let mut wire = self.wire.lock();
        let Some(stream) = wire.stream.as_mut() else {
            return Poll::Ready(Err(was_reset()));
        };
        let polled = poll(Pin::new(stream), cx);
        match &polled {
            Poll::Pending => wire.writer = Some(cx.waker().clone()),
            Poll::Ready(_) => wire.last_moved = Instant::now(),
        }
        polled
    }
}
