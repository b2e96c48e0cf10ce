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
//! Invariants: a reader never holds more than the protocol's frame limit, no more
//! than has really arrived plus one chunk, and all readers together no more than
//! `budget` says; after an error both halves
//! are dead and the peer sees a reset; dropping both halves resets the stream
//! unless both directions have finished.

mod budget;
mod reader;
mod wire;
mod writer;

pub use reader::FrameReader;
pub(super) use wire::{Duplex, Registry};
pub use writer::FrameWriter;

use super::admission::Origin;
use super::bounds::Timing;
use super::{NodeKey, PeerId, Protocol, Reporter};
use parking_lot::Mutex;
use protocol::crypto::tagged_hash;
use protocol::ids::{Caller, PeerTag};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use wire::Wire;

/// Bytes of the length.
const HEADER: usize = 4;

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
    /// Other frames took all the memory there is for unfinished ones.
    #[error("too many long frames on {protocol} at once; try again")]
    Crowded {
        /// The protocol of the stream.
        protocol: Protocol,
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

/// A stream of frames to one peer.
pub struct FramedStream {
    /// Who is at the other end; proved in the handshake.
    pub peer: PeerId,
    /// The peer's node key, if it uses one as its identity.
    pub node: Option<NodeKey>,
    /// What is spoken on it.
    pub protocol: Protocol,
    origin: Option<Origin>,
    reader: FrameReader,
    writer: FrameWriter,
}

impl std::fmt::Debug for FramedStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FramedStream({} with {})", self.protocol, self.peer)
    }
}

impl FramedStream {
    /// Tells this peer from others, and nothing else about it.
    pub fn tag(&self) -> PeerTag {
        let digest = tagged_hash("freehold/peer-tag/1", &[self.peer.to_bytes().as_slice()]);
        let mut tag = [0; 16];
        tag.copy_from_slice(&digest.0[..16]);
        PeerTag(tag)
    }

    /// The peer, and the address that it came from where there is one.
    pub fn caller(&self) -> Caller {
        let peer = self.tag();
        match self.origin.and_then(|origin| origin.tag()) {
            Some(address) => Caller { peer, address },
            None => Caller::alone(peer),
        }
    }

    /// The same stream, of a connection that came from there.
    pub(super) fn from(mut self, origin: Option<Origin>) -> Self {
        self.origin = origin;
        self
    }

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
            origin: None,
            reader: FrameReader::new(
                wire.clone(),
                protocol,
                timing,
                reporter,
                registry.room(protocol),
            ),
            writer: FrameWriter::new(wire, protocol, timing.write),
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

#[cfg(test)]
mod tests;
