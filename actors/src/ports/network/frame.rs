//! Length-prefixed frames over one stream, split into a reader and a writer.
//!
//! A frame is its length (u32, big-endian) and its bytes. The empty frame says
//! "I have sent all"; it is what [`FrameWriter::finish`] sends before it closes
//! its direction. Transports report a lost connection and an orderly end alike
//! (yamux reads both as end of file), so without that mark a host that died
//! could pass for one that was done.
//!
//! Knows nothing of what frames mean. Made by the swarm for inbound streams and
//! by [`NetworkHandle::open`](super::NetworkHandle::open); owned by whoever
//! drives the protocol on it.
//!
//! Invariants: a reader never holds more than the protocol's frame limit, and
//! no more than has really arrived plus one chunk; after an error both halves
//! are dead and the peer sees a reset; dropping both halves resets the stream
//! unless both directions have finished.

use super::bounds::Timing;
use super::{Misbehaviour, NodeKey, PeerId, Protocol, Reporter};
use futures::{AsyncRead, AsyncWrite};
use parking_lot::Mutex;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Bytes of the length.
const HEADER: usize = 4;
/// A reader's buffer grows by this much, so that a peer which announces 8 MiB
/// and sends nothing costs 64 KiB.
const CHUNK: usize = 64 << 10;
/// Frames up to this size are sent with their header in one write.
const JOINED: usize = 16 << 10;

/// Why a stream is of no more use. Except for `TooLarge` and `Empty`, which
/// refuse the caller's own frame, the stream has been reset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The peer announced a frame beyond the protocol's limit.
    #[error("the peer announced a frame of {length} bytes; {protocol} allows {limit}")]
    Oversized {
        /// The protocol of the stream.
        protocol: Protocol,
        /// Announced length, bytes.
        length: usize,
        /// The limit, bytes.
        limit: usize,
    },
    /// The stream ended inside a frame.
    #[error("the stream ended after {received} of {expected} bytes of a frame")]
    Truncated {
        /// Bytes of the frame (or of its length) that arrived.
        received: usize,
        /// Bytes that should have.
        expected: usize,
    },
    /// The stream ended between frames, without the peer's end mark.
    #[error("the stream was lost ({reason}); the peer may be gone: order again or choose another")]
    Lost {
        /// What the transport said.
        reason: String,
    },
    /// Nothing moved in either direction.
    #[error("nothing was sent or received for {after:?}")]
    Idle {
        /// The limit.
        after: Duration,
    },
    /// A frame was begun and not completed in time.
    #[error("the peer sent {received} of {expected} bytes of a frame in {after:?}")]
    SlowFrame {
        /// Bytes that arrived.
        received: usize,
        /// Bytes of the frame.
        expected: usize,
        /// The limit.
        after: Duration,
    },
    /// The peer did not take a frame in time.
    #[error("the peer did not take a frame within {after:?}")]
    Stalled {
        /// The limit.
        after: Duration,
    },
    /// The caller's frame is beyond the protocol's limit; nothing was sent.
    #[error("a frame of {length} bytes cannot be sent; {protocol} allows {limit}")]
    TooLarge {
        /// The protocol of the stream.
        protocol: Protocol,
        /// Length, bytes.
        length: usize,
        /// The limit, bytes.
        limit: usize,
    },
    /// The caller's frame is empty, which would be the end mark.
    #[error("an empty frame cannot be sent; use finish")]
    Empty,
    /// The writer has finished.
    #[error("this direction of the stream is finished")]
    Finished,
    /// A `send` was dropped half way, so the peer could not find the next frame.
    #[error("an earlier frame was abandoned half way")]
    Abandoned,
}

/// What both kinds of stream can do.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The stream under both halves.
struct Wire {
    /// `None` once reset.
    stream: Option<Box<dyn Duplex>>,
    /// Whoever waits in the other half must learn of a reset.
    reader: Option<Waker>,
    writer: Option<Waker>,
    last_moved: Instant,
    /// Given back when both halves are gone.
    _slot: Option<Box<dyn Send>>,
}

type Shared = Arc<Mutex<Wire>>;

/// All streams of one swarm, so that its end is theirs: a stream that somebody
/// merely holds would keep the UDP socket of its QUIC connection open.
#[derive(Clone, Default)]
pub(super) struct Registry(Arc<Mutex<Registered>>);

#[derive(Default)]
struct Registered {
    wires: Vec<Weak<Mutex<Wire>>>,
    closed: bool,
}

impl Registry {
    fn register(&self, wire: &Shared) {
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
    pub(super) fn close(&self) {
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

fn reset(wire: &Shared) {
    let (stream, wakers) = {
        let mut wire = wire.lock();
        (wire.stream.take(), [wire.reader.take(), wire.writer.take()])
    };
    drop(stream);
    for waker in wakers.into_iter().flatten() {
        waker.wake();
    }
}

fn was_reset() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "reset on this side")
}

/// A stream of frames to one peer.
pub struct FramedStream {
    /// Who is at the other end; proved in the handshake.
    pub peer: PeerId,
    /// The peer's node key, if it uses one as its identity.
    pub node: Option<NodeKey>,
    /// What is spoken on it.
    pub protocol: Protocol,
    reader: FrameReader,
    writer: FrameWriter,
}

impl std::fmt::Debug for FramedStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FramedStream({} with {})", self.protocol, self.peer)
    }
}

impl FramedStream {
    pub(super) fn new(
        stream: Box<dyn Duplex>,
        protocol: Protocol,
        timing: &Timing,
        reporter: Reporter,
        registry: &Registry,
        slot: Option<Box<dyn Send>>,
    ) -> Self {
        let wire = Arc::new(Mutex::new(Wire {
            stream: Some(stream),
            reader: None,
            writer: None,
            last_moved: Instant::now(),
            _slot: slot,
        }));
        registry.register(&wire);
        let peer = reporter.peer();
        Self {
            peer,
            node: super::node_key_of(&peer),
            protocol,
            reader: FrameReader {
                wire: wire.clone(),
                protocol,
                part: Part::Header {
                    filled: 0,
                    bytes: [0; HEADER],
                },
                begun: None,
                ended: false,
                idle: timing.idle,
                frame: timing.frame,
                reporter,
            },
            writer: FrameWriter {
                wire,
                protocol,
                state: WriterState::Open,
                timeout: timing.write,
            },
        }
    }

    /// Reads one frame; see [`FrameReader::next`].
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        self.reader.next().await
    }

    /// Sends one frame; see [`FrameWriter::send`].
    pub async fn send(&mut self, frame: &[u8]) -> Result<(), FrameError> {
        self.writer.send(frame).await
    }

    /// Ends this side's direction; see [`FrameWriter::finish`].
    pub async fn finish(&mut self) -> Result<(), FrameError> {
        self.writer.finish().await
    }

    /// The two halves, to be driven independently.
    pub fn split(self) -> (FrameReader, FrameWriter) {
        (self.reader, self.writer)
    }
}

/// Where the reader is inside a frame.
enum Part {
    Header {
        filled: usize,
        bytes: [u8; HEADER],
    },
    Body {
        filled: usize,
        length: usize,
        bytes: Vec<u8>,
    },
}

enum Step {
    Moved,
    Frame(Vec<u8>),
    End,
}

/// The receiving half of a [`FramedStream`].
pub struct FrameReader {
    wire: Shared,
    protocol: Protocol,
    part: Part,
    /// When the first byte of the present frame came.
    begun: Option<Instant>,
    ended: bool,
    idle: Option<Duration>,
    frame: Duration,
    reporter: Reporter,
}

impl FrameReader {
    /// Changes the idle limit of this stream; `None` waits for ever.
    pub fn set_idle(&mut self, idle: Option<Duration>) {
        self.idle = idle;
    }

    /// The next frame; `None` when the peer has said that it sent all.
    ///
    /// Cancel safe: what has arrived of a frame is kept. After an error the
    /// stream is reset, and an oversized or slow frame is also reported as
    /// misbehaviour of the peer.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        if self.ended {
            return Ok(None);
        }
        loop {
            let deadline = self.deadline();
            let step = poll_fn(|cx| self.poll_step(cx));
            let outcome = match deadline {
                Some(deadline) => timeout_at(deadline, step).await.ok(),
                None => Some(step.await),
            };
            match outcome {
                Some(Ok(Step::Moved)) => {}
                Some(Ok(Step::Frame(frame))) => return Ok(Some(frame)),
                Some(Ok(Step::End)) => {
                    self.ended = true;
                    return Ok(None);
                }
                Some(Err(error)) => return Err(self.fail(error)),
                None => {
                    if let Some(error) = self.overdue() {
                        return Err(self.fail(error));
                    }
                }
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self.begun {
            Some(begun) => Some(begun + self.frame),
            None => self.idle.map(|idle| self.wire.lock().last_moved + idle),
        }
    }

    /// What the passed deadline means; `None` if the writer moved meanwhile.
    fn overdue(&self) -> Option<FrameError> {
        if self.begun.is_some() {
            let (received, expected) = self.progress();
            return Some(FrameError::SlowFrame {
                received,
                expected,
                after: self.frame,
            });
        }
        let after = self.idle?;
        let due = self.wire.lock().last_moved + after;
        (due <= Instant::now()).then_some(FrameError::Idle { after })
    }

    fn progress(&self) -> (usize, usize) {
        match &self.part {
            Part::Header { filled, .. } => (*filled, HEADER),
            Part::Body { filled, length, .. } => (*filled, *length),
        }
    }

    fn fail(&mut self, error: FrameError) -> FrameError {
        reset(&self.wire);
        match &error {
            FrameError::Oversized {
                protocol,
                length,
                limit,
            } => {
                self.reporter.report(Misbehaviour::OversizedFrame {
                    protocol: *protocol,
                    length: *length,
                    limit: *limit,
                });
            }
            FrameError::SlowFrame { .. } => {
                self.reporter.report(Misbehaviour::SlowFrame {
                    protocol: self.protocol,
                });
            }
            _ => {}
        }
        error
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, FrameError>> {
        let read = {
            let mut wire = self.wire.lock();
            let target = match &mut self.part {
                Part::Header { filled, bytes } => &mut bytes[*filled..],
                Part::Body {
                    filled,
                    length,
                    bytes,
                } => {
                    let room = (*length - *filled).min(CHUNK);
                    bytes.resize(*filled + room, 0);
                    &mut bytes[*filled..]
                }
            };
            let Some(stream) = wire.stream.as_mut() else {
                return Poll::Ready(Err(lost(&was_reset())));
            };
            match Pin::new(stream).poll_read(cx, target) {
                Poll::Pending => {
                    wire.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Poll::Ready(Ok(count)) => {
                    wire.last_moved = Instant::now();
                    Ok(count)
                }
                Poll::Ready(Err(error)) => Err(error),
            }
        };
        Poll::Ready(match read {
            Ok(0) => Err(self.cut_off("the peer closed without saying that it had finished")),
            Ok(count) => self.advance(count),
            Err(error) => Err(self.cut_off(&error.to_string())),
        })
    }

    fn cut_off(&self, reason: &str) -> FrameError {
        match self.progress() {
            (0, HEADER) if self.begun.is_none() => FrameError::Lost {
                reason: reason.to_owned(),
            },
            (received, expected) => FrameError::Truncated { received, expected },
        }
    }

    fn advance(&mut self, count: usize) -> Result<Step, FrameError> {
        self.begun.get_or_insert_with(Instant::now);
        match &mut self.part {
            Part::Header { filled, bytes } => {
                *filled += count;
                if *filled < HEADER {
                    return Ok(Step::Moved);
                }
                let length = u32::from_be_bytes(*bytes) as usize;
                self.begin_body(length)
            }
            Part::Body {
                filled,
                length,
                bytes,
            } => {
                *filled += count;
                if *filled < *length {
                    return Ok(Step::Moved);
                }
                let frame = std::mem::take(bytes);
                self.begin_frame();
                Ok(Step::Frame(frame))
            }
        }
    }

    fn begin_body(&mut self, length: usize) -> Result<Step, FrameError> {
        let (protocol, limit) = (self.protocol, self.protocol.frame_limit());
        if length == 0 {
            self.begin_frame();
            return Ok(Step::End);
        }
        if length > limit {
            return Err(FrameError::Oversized {
                protocol,
                length,
                limit,
            });
        }
        self.part = Part::Body {
            filled: 0,
            length,
            bytes: Vec::new(),
        };
        Ok(Step::Moved)
    }

    fn begin_frame(&mut self) {
        self.begun = None;
        self.part = Part::Header {
            filled: 0,
            bytes: [0; HEADER],
        };
    }
}

fn lost(error: &io::Error) -> FrameError {
    FrameError::Lost {
        reason: error.to_string(),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WriterState {
    Open,
    /// Inside a frame; seen at the start of a call only if a `send` was dropped.
    Writing,
    Finished,
}

/// The sending half of a [`FramedStream`].
pub struct FrameWriter {
    wire: Shared,
    protocol: Protocol,
    state: WriterState,
    timeout: Duration,
}

impl FrameWriter {
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

#[cfg(test)]
mod tests;
