//! Order and audit streams by number: the machines name a stream, this holds its writer.
//!
//! A peer that does not read is cut off when its queue is full: transport
//! buffering must not hide it. Readers wait for room in the machine's mailbox.

use crate::ports::network::{FrameError, FrameReader, FrameWriter, FramedStream};
use parking_lot::Mutex;
use protocol::ids::StreamId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// Frames that may wait for one peer. At 25 ms a chunk this is over six seconds of output.
const QUEUE: usize = 256;

/// The open streams; clones share them.
#[derive(Clone, Default)]
pub struct Streams {
    writers: Arc<Mutex<BTreeMap<StreamId, mpsc::Sender<Vec<u8>>>>>,
    next: Arc<AtomicU64>,
}

/// What came of reading a stream.
pub enum Arrival {
    /// One frame's bytes.
    Frame(Vec<u8>),
    /// Something that is no frame.
    Garbled(String),
    /// The peer finished or went away.
    Closed,
}

impl Streams {
    /// Takes a stream: writes from a queue, and returns its number and its reading half.
    pub fn adopt(&self, stream: FramedStream) -> (StreamId, FrameReader) {
        let (reader, writer) = stream.split();
        let (sender, queue) = mpsc::channel(QUEUE);
        let id = StreamId(self.next.fetch_add(1, Ordering::Relaxed) + 1);
        self.writers.lock().insert(id, sender);
        tokio::spawn(write(writer, queue));
        (id, reader)
    }

    /// Queues a frame; false when the stream is gone or its peer does not read.
    pub fn send(&self, id: StreamId, frame: Vec<u8>) -> bool {
        let mut writers = self.writers.lock();
        let sent = writers
            .get(&id)
            .is_some_and(|writer| writer.try_send(frame).is_ok());
        if !sent {
            writers.remove(&id);
        }
        sent
    }

    /// Finishes the writing side after what is queued.
    pub fn close(&self, id: StreamId) {
        self.writers.lock().remove(&id);
    }
}

async fn write(mut writer: FrameWriter, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = queue.recv().await {
        if let Err(error) = writer.send(&frame).await {
            tracing::debug!(%error, "a stream broke while writing");
            return;
        }
    }
    let _ = writer.finish().await;
}

/// Reads the next frame of a stream.
pub async fn next(reader: &mut FrameReader) -> Arrival {
    match reader.next().await {
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
