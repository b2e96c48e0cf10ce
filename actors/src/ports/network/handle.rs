//! The callers' side of a swarm: commands out, answers back.

use super::bounds::{
    ADDRESSES_PER_PEER, GOSSIP_BYTES, KEY_BYTES, OUTBOUND_STREAMS_PER_PEER, OUTBOUND_WAIT,
    PROVIDERS, TOPIC_BYTES, Timing,
};
use super::frame::Registry;
use super::streams::OpenRequest;
use super::task::Command;
use super::{
    FramedStream, Multiaddr, NodeKey, OpenError, Outlet, OverlayError, PeerId, Protocol, Provider,
    Reporter, Status, node_key_of,
};
use libp2p::multiaddr;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

/// A handle to a running swarm. Cloning is cheap; the swarm ends at
/// [`shutdown`](Self::shutdown) or when the last handle is dropped.
#[derive(Clone)]
pub struct NetworkHandle {
    pub(super) peer: PeerId,
    pub(super) timing: Timing,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) status: watch::Receiver<Status>,
    pub(super) outlet: Outlet,
    pub(super) registry: Registry,
    /// Our streams to each peer.
    pub(super) outbound: Outbound,
}

/// Places for streams to each peer, as long as any is taken.
pub(super) type Outbound = Arc<Mutex<HashMap<PeerId, Weak<Semaphore>>>>;

impl std::fmt::Debug for NetworkHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NetworkHandle({})", self.peer)
    }
}

impl NetworkHandle {
    /// This swarm's peer id.
    pub fn peer_id(&self) -> PeerId {
        self.peer
    }

    /// This swarm's node key; `None` for an ephemeral identity.
    pub fn node_key(&self) -> Option<NodeKey> {
        node_key_of(&self.peer)
    }

    /// Where this swarm listens, each address ending in `/p2p/<peer id>`.
    pub fn local_addresses(&self) -> Vec<Multiaddr> {
        self.status.borrow().addresses.clone()
    }

    /// The present status, and every later one.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Opens a stream to the peer that all of `addresses` name (each ends in
    /// `/p2p/<peer id>`), over an existing connection or a new one.
    ///
    /// # Errors
    /// Within `limit` in any case; see [`OpenError`].
    pub async fn open(
        &self,
        protocol: Protocol,
        addresses: Vec<Multiaddr>,
        limit: Duration,
    ) -> Result<FramedStream, OpenError> {
        let peer = common_peer(&addresses)?;
        if peer == self.peer {
            return Err(OpenError::Myself);
        }
        let addresses = addresses.into_iter().take(ADDRESSES_PER_PEER).collect();
        let place = self.place(peer, limit).await?;
        let (reply, answer) = oneshot::channel();
        let request = OpenRequest { protocol, reply };
        let command = Command::Open {
            peer,
            addresses,
            request,
        };
        let asked = async {
            self.commands
                .send(command)
                .await
                .map_err(|_| OpenError::Closed)?;
            answer.await.unwrap_or_else(|_| Err(self.gone()))
        };
        let stream = timeout(limit, asked)
            .await
            .unwrap_or(Err(OpenError::Timeout { after: limit }))?;
        let reporter = Reporter {
            outlet: self.outlet.clone(),
            peer,
        };
        let (stream, timing) = (Box::new(stream), &self.timing);
        Ok(FramedStream::new(
            stream,
            protocol,
            timing,
            reporter,
            &self.registry,
            Some(Box::new(place)),
        ))
    }

    /// Waits for one of our streams to `peer` to end, where there are as many as it takes: more would
    /// be refused there.
    async fn place(
        &self,
        peer: PeerId,
        limit: Duration,
    ) -> Result<OwnedSemaphorePermit, OpenError> {
        let places = {
            let mut outbound = self.outbound.lock();
            let known = outbound.get(&peer).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                // Those without a stream are gone: what is left is bounded by the connections.
                outbound.retain(|_, places| places.strong_count() > 0);
                let places = Arc::new(Semaphore::new(OUTBOUND_STREAMS_PER_PEER));
                outbound.insert(peer, Arc::downgrade(&places));
                places
            })
        };
        let busy = OpenError::Busy {
            what: "streams to this peer are open",
            limit: OUTBOUND_STREAMS_PER_PEER,
        };
        match timeout(limit.min(OUTBOUND_WAIT), places.acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(busy),
        }
    }

    /// Closes all connections to a peer.
    pub async fn disconnect(&self, peer: PeerId) {
        let _ = self.commands.send(Command::Disconnect(peer)).await;
    }

    /// Announces this node as a provider of `key`, now and from time to time
    /// until [`stop_providing`](Self::stop_providing). False if no peer is
    /// known yet: then it is announced to the first that is.
    ///
    /// # Errors
    /// See [`OverlayError`].
    pub async fn provide(&self, key: &[u8]) -> Result<bool, OverlayError> {
        let key = sized("key", key, KEY_BYTES)?;
        self.ask(|reply| Command::Provide { key, reply }).await?
    }

    /// Stops announcing `key`. Others forget it after [`super::bounds::PROVIDER_TTL`].
    ///
    /// # Errors
    /// See [`OverlayError`].
    pub async fn stop_providing(&self, key: &[u8]) -> Result<(), OverlayError> {
        let key = sized("key", key, KEY_BYTES)?;
        self.ask(|reply| Command::StopProviding { key, reply })
            .await
    }

    /// Finds up to `bound` peers that announced `key` (never this one).
    ///
    /// # Errors
    /// See [`OverlayError`]; that nobody was found is no error.
    pub async fn find_providers(
        &self,
        key: &[u8],
        bound: usize,
    ) -> Result<Vec<Provider>, OverlayError> {
        let key = sized("key", key, KEY_BYTES)?;
        let bound = bound.clamp(1, PROVIDERS);
        self.ask(|reply| Command::FindProviders { key, bound, reply })
            .await?
    }

    /// Follows a topic.
    ///
    /// # Errors
    /// See [`OverlayError`].
    pub async fn subscribe(&self, topic: &str) -> Result<(), OverlayError> {
        let topic = topic_name(topic)?;
        self.ask(|reply| Command::Subscribe { topic, reply })
            .await?
    }

    /// Stops following a topic.
    ///
    /// # Errors
    /// See [`OverlayError`].
    pub async fn unsubscribe(&self, topic: &str) -> Result<(), OverlayError> {
        let topic = topic_name(topic)?;
        self.ask(|reply| Command::Unsubscribe { topic, reply })
            .await
    }

    /// Publishes a message, signed with this swarm's key.
    ///
    /// # Errors
    /// See [`OverlayError`]; having nobody to send to is one.
    pub async fn publish(&self, topic: &str, data: &[u8]) -> Result<(), OverlayError> {
        let topic = topic_name(topic)?;
        // The limit holds for the signed message; the envelope takes some 256 bytes.
        let data = sized("message", data, GOSSIP_BYTES - TOPIC_BYTES - 256)?;
        self.ask(|reply| Command::Publish { topic, data, reply })
            .await?
    }

    /// Closes all connections and sockets and returns when every task has
    /// ended. Streams still held elsewhere are dead afterwards.
    pub async fn shutdown(&self) {
        let (reply, done) = oneshot::channel();
        if self
            .commands
            .send(Command::Shutdown { reply })
            .await
            .is_ok()
        {
            let _ = done.await;
        }
        // Another handle may have been first: wait for the task's own end.
        self.commands.closed().await;
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, OverlayError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(command(reply)).await;
        sent.map_err(|_| OverlayError::Closed)?;
        answer.await.map_err(|_| OverlayError::Closed)
    }

    fn gone(&self) -> OpenError {
        if self.commands.is_closed() {
            return OpenError::Closed;
        }
        OpenError::Lost {
            reason: "it closed before the stream was open".to_owned(),
        }
    }
}

/// The peer that an address ends in, where it names one.
pub fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(multiaddr::Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

fn common_peer(addresses: &[Multiaddr]) -> Result<PeerId, OpenError> {
    let mut common = None;
    for address in addresses {
        let peer = peer_of(address).ok_or(OpenError::NoPeer)?;
        match common {
            Some(first) if first != peer => {
                return Err(OpenError::TwoPeers { other: peer });
            }
            _ => common = Some(peer),
        }
    }
    common.ok_or(OpenError::NoPeer)
}

fn sized(what: &'static str, bytes: &[u8], limit: usize) -> Result<Vec<u8>, OverlayError> {
    let length = bytes.len();
    if length == 0 || length > limit {
        return Err(OverlayError::Size {
            what,
            length,
            limit,
        });
    }
    Ok(bytes.to_vec())
}

fn topic_name(topic: &str) -> Result<String, OverlayError> {
    sized("topic", topic.as_bytes(), TOPIC_BYTES)?;
    Ok(topic.to_owned())
}
