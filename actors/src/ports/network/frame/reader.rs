//! The receiving half of a framed stream.

use super::super::bounds::Timing;
use super::super::{Misbehaviour, Protocol, Reporter};
use super::wire::{Shared, lost, reset, was_reset};
use super::{FrameError, HEADER};
use futures::AsyncRead;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// A reader's buffer grows by this much, so that a peer which announces 8 MiB
/// and sends nothing costs 64 KiB.
pub(super) const CHUNK: usize = 64 << 10;

/// Where the reader is inside a frame.
pub(super) enum Part {
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

/// The receiving half of a `FramedStream`.
pub struct FrameReader {
    wire: Shared,
    protocol: Protocol,
    pub(super) part: Part,
    /// When the first byte of the present frame came.
    begun: Option<Instant>,
    ended: bool,
    idle: Option<Duration>,
    frame: Duration,
    reporter: Reporter,
    /// Room for what this frame has beyond its first chunk.
    budget: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl FrameReader {
    pub(super) fn new(
        wire: Shared,
        protocol: Protocol,
        timing: &Timing,
        reporter: Reporter,
        budget: Arc<Semaphore>,
    ) -> Self {
        Self {
            wire,
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
            budget,
            held: None,
        }
    }

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
            self.take_room(deadline).await?;
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

    /// Takes room for the rest of a frame, once its first chunk is here. All of it at once: readers
    /// that each waited for their last chunk would wait for each other.
    async fn take_room(&mut self, deadline: Option<Instant>) -> Result<(), FrameError> {
        let Part::Body { filled, length, .. } = &self.part else {
            return Ok(());
        };
        if *filled < CHUNK || filled == length || self.held.is_some() {
            return Ok(());
        }
        let chunks = length.saturating_sub(CHUNK).div_ceil(CHUNK);
        let chunks = u32::try_from(chunks).unwrap_or(u32::MAX);
        let taking = self.budget.clone().acquire_many_owned(chunks);
        let taken = match deadline {
            Some(deadline) => timeout_at(deadline, taking).await.ok(),
            None => Some(taking.await),
        };
        match taken {
            Some(Ok(room)) => {
                self.held = Some(room);
                Ok(())
            }
            _ => Err(self.fail(FrameError::Crowded {
                protocol: self.protocol,
            })),
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

    pub(super) fn progress(&self) -> (usize, usize) {
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
        self.held = None;
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
        self.held = None;
        self.part = Part::Header {
            filled: 0,
            bytes: [0; HEADER],
        };
    }
}
