//! Who takes which stream that a peer opens: a table from protocol to [`Accept`].

use crate::ports::blob::{self, Blobs};
use crate::ports::network::{FramedStream, NetworkEvent, Protocol};
use crate::shell::discovery::gossip;
use crate::shell::streams::Streams;
use crate::shell::{Shared, inference, validator};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What takes the streams of one protocol.
pub(crate) trait Accept: Send + Sync {
    /// Serves a stream to its end.
    fn accept(&self, stream: FramedStream) -> BoxFuture<'static, ()>;

    /// Answers a stream beyond a bound.
    fn turn_away(&self, stream: FramedStream) -> BoxFuture<'static, ()>;
}

/// By protocol. Streams of one that nobody takes are reset.
#[derive(Clone, Default)]
pub(crate) struct Acceptors(Arc<BTreeMap<Protocol, Box<dyn Accept>>>);

impl Acceptors {
    /// The table of a whole node.
    pub fn of(shared: &Shared, streams: &Streams, blobs: Blobs) -> Self {
        let (shared, streams) = (shared.clone(), streams.clone());
        let audits = Audits(shared.clone(), streams.clone());
        let table: [(Protocol, Box<dyn Accept>); 3] = [
            (Protocol::Order, Box::new(Orders(shared, streams))),
            (Protocol::Audit, Box::new(audits)),
            (Protocol::Blob, Box::new(blobs)),
        ];
        Acceptors(Arc::new(table.into()))
    }

    fn of_stream(&self, stream: &FramedStream) -> Option<&dyn Accept> {
        self.0.get(&stream.protocol).map(Box::as_ref)
    }
}

/// Takes streams of orders.
struct Orders(Shared, Streams);

impl Accept for Orders {
    fn accept(&self, stream: FramedStream) -> BoxFuture<'static, ()> {
        inference::accept(self.0.clone(), self.1.clone(), stream).boxed()
    }

    fn turn_away(&self, stream: FramedStream) -> BoxFuture<'static, ()> {
        inference::turn_away(stream).boxed()
    }
}

/// Takes streams of audits.
struct Audits(Shared, Streams);

impl Accept for Audits {
    fn accept(&self, stream: FramedStream) -> BoxFuture<'static, ()> {
        let (shared, streams) = (self.0.clone(), self.1.clone());
        validator::accept(shared, streams, stream, validator::FIRST).boxed()
    }

    fn turn_away(&self, stream: FramedStream) -> BoxFuture<'static, ()> {
        validator::turn_away(stream).boxed()
    }
}

impl Accept for Blobs {
    fn accept(&self, stream: FramedStream) -> BoxFuture<'static, ()> {
        self.clone().serve(stream).boxed()
    }

    fn turn_away(&self, stream: FramedStream) -> BoxFuture<'static, ()> {
        blob::turn_away(stream).boxed()
    }
}

/// Hears what a swarm tells, for as long as the node lives.
pub(crate) fn attend_swarm(
    shared: &Shared,
    part: &'static str,
    acceptors: Acceptors,
    events: mpsc::Receiver<NetworkEvent>,
) {
    shared.supervise(part, follow_swarm(shared.clone(), acceptors, events));
}

async fn follow_swarm(
    shared: Shared,
    acceptors: Acceptors,
    mut events: mpsc::Receiver<NetworkEvent>,
) {
    while let Some(event) = events.recv().await {
        gossip(&shared, &event);
        match event {
            NetworkEvent::Stream(stream) => {
                if let Some(part) = acceptors.of_stream(&stream) {
                    tokio::spawn(part.accept(stream));
                }
            }
            NetworkEvent::Excess(stream) => {
                if let Some(part) = acceptors.of_stream(&stream) {
                    tokio::spawn(part.turn_away(stream));
                }
            }
            // What a connection does is no deed of a node's key: nothing of it is signed, and whoever
            // passes gossip on could make it. The network port holds the peer to its bounds.
            NetworkEvent::Misbehaved { peer, kind, .. } => {
                tracing::warn!(%peer, ?kind, "a peer misbehaved")
            }
            NetworkEvent::ListenerFailed { reason } => {
                tracing::error!(%reason, "a listening socket failed")
            }
            _ => {}
        }
    }
}
