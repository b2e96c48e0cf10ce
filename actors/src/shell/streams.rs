//! Order and audit streams by number: the machines name a stream, this holds its writer.
//!
//! One entry for each stream, from [`Streams::adopt`] to [`Streams::close`]. Whoever reads a stream
//! closes it when reading ends, whichever side ended it; a machine closes it by an effect. Closing
//! twice is no error. Once closed, the reader ends at once, what is queued is written within
//! `LINGER`, and the stream's slot at the network port is free.
//!
//! A peer that does not read is cut off when its queue is full, in frames or in bytes: transport
//! buffering must not hide it. Readers wait for room in the machine's mailbox.

use crate::ports::network::{FrameError, FrameReader, FrameWriter, FramedStream};
use parking_lot::Mutex;
use protocol::ids::StreamId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Frames that may wait for one peer. At 25 ms a chunk this is over six seconds of output.
const QUEUE: usize = 256;
/// Bytes that may wait for one peer: four of the largest frames of an order stream.
const QUEUE_BYTES_MAX: usize = 4 << 20;
/// Bytes that may wait for all peers together.
const ALL_BYTES_MAX: usize = 128 << 20;
/// How long a peer may take to read what is queued when its stream is closed. A receipt, or a
/// refusal, over a slow line.
const LINGER: Duration = Duration::from_secs(20);

/// The open streams; clones share them.
#[derive(Clone, Default)]
pub struct Streams {
    open: Arc<Mutex<BTreeMap<StreamId, Entry>>>,
    next: Arc<AtomicU64>,
    /// Bytes in all queues.
    waiting: Arc<AtomicUsize>,
}

/// One open stream.
struct Entry {
    frames: mpsc::Sender<Vec<u8>>,
    /// Bytes in `frames`.
    waiting: Arc<AtomicUsize>,
    /// Both halves see its end. True: what is queued is not wanted any more.
    cut: watch::Sender<bool>,
}

/// What came of reading a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// One frame's bytes.
    Frame(Vec<u8>),
    /// Something that is no frame.
    Garbled(String),
    /// The peer finished or went away, or this side closed the stream.
    Closed,
}

/// The reading half of a stream that was adopted.
pub struct Reader {
    frames: FrameReader,
    open: watch::Receiver<bool>,
    writer: JoinHandle<()>,
}

impl Reader {
    /// Reads the next frame of a stream.
    pub async fn next(&mut self) -> Arrival {
        let read = tokio::select! {
            biased;
            // The channel ends with the stream's entry.
            _ = self.open.changed() => return Arrival::Closed,
            read = self.frames.next() => read,
        };
        match read {
            Ok(Some(frame)) => Arrival::Frame(frame),
            Ok(None) => Arrival::Closed,
            Err(
                error @ (FrameError::Oversized { .. }
                | FrameError::Truncated { .. }
                | FrameError::SlowFrame { .. }),
            ) => Arrival::Garbled(error.to_string()),
            Err(_) => Arrival::Closed,
        }
    }
}

impl Reader {
    /// Changes how long nothing may move between two frames; `None` waits for ever.
    pub fn set_idle(&mut self, idle: Option<Duration>) {
        self.frames.set_idle(idle);
    }

    /// Waits until what is queued on a stream that was closed is written, or given up.
    pub async fn written(self) {
        // A writer that panicked writes no more.
        let _ = self.writer.await;
    }

    /// Reads and throws away until either side ends the stream.
    pub async fn discard(&mut self) {
        while let Arrival::Frame(_) = self.next().await {}
    }
}

impl Streams {
    /// Takes a stream: writes from a queue, and returns its number and its reading half.
    pub fn adopt(&self, stream: FramedStream) -> (StreamId, Reader) {
        let (frames, writer) = stream.split();
        let (sender, queue) = mpsc::channel(QUEUE);
        let (cut, open) = watch::channel(false);
        let id = self.number();
        let waiting = Arc::new(AtomicUsize::new(0));
        let entry = Entry {
            frames: sender,
            waiting: waiting.clone(),
            cut,
        };
        self.open.lock().insert(id, entry);
        let queue = Queue {
            frames: queue,
            waiting,
            all: self.waiting.clone(),
        };
        let writer = tokio::spawn(write(writer, queue, open.clone()));
        let reader = Reader {
            frames,
            open,
            writer,
        };
        (id, reader)
    }

    /// A number for a stream; one that is not adopted counts as closed.
    pub fn number(&self) -> StreamId {
        StreamId(self.next.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Queues a frame; false when the stream is gone or its peer does not read.
    pub fn send(&self, id: StreamId, frame: Vec<u8>) -> bool {
        let mut open = self.open.lock();
        let sent = open
            .get(&id)
            .is_some_and(|entry| entry.queue(frame, &self.waiting));
        if !sent && let Some(entry) = open.remove(&id) {
            entry.cut.send_replace(true);
        }
        sent
    }

    /// Finishes the writing side after what is queued, and ends the reading side.
    pub fn close(&self, id: StreamId) {
        self.open.lock().remove(&id);
    }

    /// Streams that are open.
    pub fn len(&self) -> usize {
        self.open.lock().len()
    }

    /// Whether no stream is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Entry {
    fn queue(&self, frame: Vec<u8>, all: &AtomicUsize) -> bool {
        let bytes = frame.len();
        let mine = self.waiting.fetch_add(bytes, Ordering::AcqRel);
        let others = all.fetch_add(bytes, Ordering::AcqRel);
        // One frame may always wait, however long it is.
        let room = mine == 0 || mine + bytes <= QUEUE_BYTES_MAX && others + bytes <= ALL_BYTES_MAX;
        let queued = room && self.frames.try_send(frame).is_ok();
        if !queued {
            self.waiting.fetch_sub(bytes, Ordering::AcqRel);
            all.fetch_sub(bytes, Ordering::AcqRel);
        }
        queued
    }
}

/// The writer's end of a stream's queue.
struct Queue {
    frames: mpsc::Receiver<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
    all: Arc<AtomicUsize>,
}

impl Queue {
    fn written(&self, bytes: usize) {
        self.waiting.fetch_sub(bytes, Ordering::AcqRel);
        self.all.fetch_sub(bytes, Ordering::AcqRel);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.frames.close();
        while let Ok(frame) = self.frames.try_recv() {
            self.written(frame.len());
        }
    }
}

/// Writes what is queued. Ends when the stream broke, on either half, or was cut off, and at the
/// latest `LINGER` after it was closed.
async fn write(mut writer: FrameWriter, mut queue: Queue, mut open: watch::Receiver<bool>) {
    let all = async {
        loop {
            let next = tokio::select! {
                next = queue.frames.recv() => next,
                () = writer.broken() => return,
            };
            let Some(frame) = next else {
                break;
            };
            let sent = writer.send(&frame).await;
            queue.written(frame.len());
            if let Err(error) = sent {
                tracing::debug!(%error, "a stream broke while writing");
                return;
            }
        }
        let _ = writer.finish().await;
    };
    tokio::pin!(all);
    tokio::select! {
        () = &mut all => return,
        cut = open.changed() => if cut.is_ok() {
            return;
        },
    }
    // A peer that does not read the rest by then is not waited for.
    let _ = tokio::time::timeout(LINGER, all).await;
}
