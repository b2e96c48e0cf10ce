//! The libp2p port: one swarm behind a plain asynchronous API.
//!
//! Carries frames between nodes whose keys are proved, announces and finds
//! providers, and passes gossip. It knows nothing of actors, machines, orders
//! or money: what frames mean is decided elsewhere, and misbehaviour of peers
//! is handed on as data. Called by the actors' driver; a process may run
//! several swarms side by side (a host under its node key, and a buyer under an
//! ephemeral one that listens nowhere and keeps no lookup table for others).
//!
//! One task owns the swarm. Callers hold a [`NetworkHandle`] (cheap to clone)
//! and one receiver of [`NetworkEvent`]s. Streams do not pass through the task:
//! once opened, bytes go straight between the caller and the connection.
//!
//! When the consumer of events is slow, nothing waits for it: inbound streams
//! are refused and gossip is dropped, and both are counted in [`Status`].
//!
//! Known limits: there is no relay, hole punching or local discovery yet.

mod admission;
pub mod bounds;
mod error;
mod frame;
mod handle;
mod keys;
mod muxer;
mod protocols;
mod revocable;
mod scope;
mod streams;
mod swarm;
mod task;

pub use bounds::{Bounds, Timing};
pub use error::{Attempt, OpenError, OverlayError, StartError};
pub use frame::{FrameError, FrameReader, FrameWriter, FramedStream};
pub use handle::{NetworkHandle, peer_of};
pub use keys::{Identity, KeyError, node_key_of, peer_id_of};
pub use libp2p::{Multiaddr, PeerId};
pub use protocol::ids::NodeKey;
pub use protocols::Protocol;
pub use scope::is_global;
pub use swarm::ReadyTransport;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// What a node is to the overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Keeps part of the lookup table and tells peers its addresses.
    Serving,
    /// Only asks. Tells nobody any address of its own.
    Client,
}

/// The network whose nodes live on one machine.
const TEST_NETWORK: &str = "regtest";

/// A gossip message, to be judged.
#[derive(Debug, Clone, Copy)]
pub struct GossipMessage<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The node key of who signed it, if it uses one as its identity.
    pub node: Option<NodeKey>,
    /// The message.
    pub data: &'a [u8],
}

/// What is to become of a gossip message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// It is passed on and handed out.
    Fresh,
    /// It is passed on and handed out if the number is above that of the author's last one on this
    /// topic; else it is an old one that somebody repeats, and goes no further.
    Numbered(u64),
    /// It goes no further; whoever passed it on may not have known better.
    Stale,
    /// It goes no further, and whoever passed it on could have seen that it is none.
    Malformed,
}

/// Judges a gossip message by itself.
pub type GossipJudge = fn(GossipMessage<'_>) -> Judgement;

/// How to run one swarm.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name of the chain (`regtest`, say): nodes of different networks
    /// share no table and no gossip.
    pub network: String,
    /// See [`Role`].
    pub role: Role,
    /// Whether TCP and QUIC are there at all. A node that hides behind an onion
    /// service sets this to false, for peers are told every listening address.
    pub ip: bool,
    /// Where to listen; empty for a client. Port 0 lets the system choose.
    pub listen: Vec<Multiaddr>,
    /// Addresses to tell peers in place of the listening ones.
    pub external: Vec<Multiaddr>,
    /// Peers to begin with; each address ends in `/p2p/<peer id>`.
    pub bootstrap: Vec<Multiaddr>,
    /// Protocols for which inbound streams are taken.
    pub accept: Vec<Protocol>,
    /// Whether addresses that are not global ([`is_global`]) are dialled on others' word. Those of
    /// `bootstrap` are in any case.
    pub dial_local: bool,
    /// Whether provider records of others are kept. Nothing in a node asks for them yet.
    pub keep_providers: bool,
    /// What is said of a gossip message before it is passed on.
    pub judge: GossipJudge,
    /// Time limits.
    pub timing: Timing,
    /// Bounds on everything that peers can cause.
    pub bounds: Bounds,
}

impl Config {
    /// A node that serves on `listen` and takes streams of every protocol.
    pub fn serving(network: &str, listen: Vec<Multiaddr>) -> Self {
        Self {
            role: Role::Serving,
            listen,
            accept: Protocol::ALL.to_vec(),
            ..Self::client(network)
        }
    }

    /// A node that only dials.
    pub fn client(network: &str) -> Self {
        Self {
            network: network.to_owned(),
            role: Role::Client,
            ip: true,
            listen: Vec::new(),
            external: Vec::new(),
            bootstrap: Vec::new(),
            accept: Vec::new(),
            dial_local: network == TEST_NETWORK,
            keep_providers: false,
            judge: |_| Judgement::Fresh,
            timing: Timing::default(),
            bounds: Bounds::default(),
        }
    }
}

/// What the network tells its owner.
#[derive(Debug)]
pub enum NetworkEvent {
    /// A peer opened a stream; its key is proved.
    Stream(FramedStream),
    /// A peer opened a stream beyond its bound, or beyond that of all peers: to be told so and
    /// closed. Dropping it resets it.
    Excess(FramedStream),
    /// A message on a topic that this node follows. Its author signed it.
    Gossip {
        /// The topic.
        topic: String,
        /// Who signed it.
        author: PeerId,
        /// The author's node key, if it uses one as its identity.
        node: Option<NodeKey>,
        /// The neighbour that passed it on.
        relayed_by: PeerId,
        /// The message.
        data: Vec<u8>,
    },
    /// A neighbour began to follow a topic.
    Follows {
        /// The neighbour.
        peer: PeerId,
        /// The topic.
        topic: String,
    },
    /// The first connection to a peer was made.
    Connected {
        /// The peer.
        peer: PeerId,
        /// Its node key, if it uses one as its identity.
        node: Option<NodeKey>,
    },
    /// The last connection to a peer ended.
    Disconnected {
        /// The peer.
        peer: PeerId,
    },
    /// A peer broke a rule; judging it is the owner's business.
    Misbehaved {
        /// The peer.
        peer: PeerId,
        /// Its node key, if it uses one as its identity.
        node: Option<NodeKey>,
        /// What it did.
        kind: Misbehaviour,
    },
    /// A listening socket failed after the start.
    ListenerFailed {
        /// What the system said.
        reason: String,
    },
}

/// Rules that a peer can break below the level of messages. Each is reported
/// at most once in [`bounds::REPORT_INTERVAL`] per peer where a peer could
/// cause many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misbehaviour {
    /// It announced a frame beyond the limit.
    OversizedFrame {
        /// The protocol of the stream.
        protocol: Protocol,
        /// Announced length, bytes.
        length: usize,
        /// The limit, bytes.
        limit: usize,
    },
    /// It began a frame and did not complete it in time.
    SlowFrame {
        /// The protocol of the stream.
        protocol: Protocol,
    },
    /// It opened more streams than it may have.
    TooManyStreams {
        /// Those it had.
        open: usize,
    },
    /// It signs, and itself sends, more gossip than anybody needs.
    GossipFlood {
        /// Messages within [`bounds::GOSSIP_WINDOW`].
        messages: u32,
    },
    /// It passed on gossip that is none.
    GossipMalformed,
    /// After proving its key it sent bytes that are no protocol at all.
    Garbage {
        /// What the transport said.
        detail: String,
    },
}

/// A peer that announced a key, and where it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// The peer. That it announced the key is not proved.
    pub peer: PeerId,
    /// Its node key, if it uses one as its identity.
    pub node: Option<NodeKey>,
    /// Addresses, each ending in `/p2p/<peer id>`; may be empty.
    pub addresses: Vec<Multiaddr>,
}

/// The state of a swarm, for waiting and for display.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Where it listens, each address ending in `/p2p/<peer id>`.
    pub addresses: Vec<Multiaddr>,
    /// Connected peers.
    pub peers: usize,
    /// Peers in the lookup table.
    pub table: usize,
    /// Events that were dropped because the consumer was slow.
    pub dropped: u64,
    /// Inbound connections that failed before a key was proved, or were refused.
    pub failed_inbound: u64,
    /// Inbound connections and streams for which there was no room.
    pub no_room: u64,
}

/// Starts and owns nothing: see [`Network::start`].
#[derive(Debug, Clone, Copy)]
pub struct Network;

impl Network {
    /// Starts a swarm on the current tokio runtime and returns once every
    /// address of `config.listen` is listened on.
    ///
    /// # Errors
    /// An address that cannot be listened on, or is malformed.
    pub async fn start(
        config: Config,
        identity: Identity,
    ) -> Result<(NetworkHandle, mpsc::Receiver<NetworkEvent>), StartError> {
        Self::start_with(config, identity, None).await
    }

    /// As [`Network::start`], with a further transport beside TCP and QUIC.
    ///
    /// # Errors
    /// As for [`Network::start`].
    pub async fn start_with(
        config: Config,
        identity: Identity,
        extra: Option<ReadyTransport>,
    ) -> Result<(NetworkHandle, mpsc::Receiver<NetworkEvent>), StartError> {
        task::start(config, identity, extra).await
    }
}

/// A stream from an identity of its own.
#[derive(Debug)]
pub struct ApartStream {
    /// The stream.
    pub stream: FramedStream,
    /// The swarm under it, to be shut down when the stream is done with.
    pub swarm: NetworkHandle,
}

/// Opens a stream as [`NetworkHandle::open`] does, from an identity that nobody has seen and nobody
/// sees again, over a connection of its own: what the far end learns of the transport links it to
/// nothing but the IP address. Of `config` only the network, the limits and whether to dial private
/// addresses count.
///
/// # Errors
/// See [`OpenError`].
pub async fn open_apart(
    config: &Config,
    protocol: Protocol,
    addresses: Vec<Multiaddr>,
    limit: std::time::Duration,
) -> Result<ApartStream, OpenError> {
    let client = Config {
        dial_local: config.dial_local,
        timing: config.timing.clone(),
        bounds: config.bounds.clone(),
        ..Config::client(&config.network)
    };
    let started = Network::start(client, Identity::ephemeral()).await;
    let (swarm, mut events) = started.map_err(|error| OpenError::Lost {
        reason: error.to_string(),
    })?;
    // Nobody listens; but the swarm should not find its queue full.
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    match swarm.open(protocol, addresses, limit).await {
        Ok(stream) => Ok(ApartStream { stream, swarm }),
        Err(error) => {
            swarm.shutdown().await;
            Err(error)
        }
    }
}

/// Where events go, and what becomes of those that do not fit.
#[derive(Clone)]
struct Outlet {
    sender: mpsc::WeakSender<NetworkEvent>,
    dropped: Arc<AtomicU64>,
}

impl Outlet {
    /// Streams may use the whole queue. Everything else, which peers can cause
    /// at will, leaves a quarter of it for them.
    fn emit(&self, event: NetworkEvent) {
        let Some(sender) = self.sender.upgrade() else {
            return;
        };
        let spare = match event {
            NetworkEvent::Stream(_) => 0,
            // Room is kept for those that are served.
            _ => sender.max_capacity() / 4,
        };
        if sender.capacity() <= spare || sender.try_send(event).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Reports misbehaviour of one peer.
#[derive(Clone)]
struct Reporter {
    outlet: Outlet,
    peer: PeerId,
}

impl Reporter {
    fn peer(&self) -> PeerId {
        self.peer
    }

    fn report(&self, kind: Misbehaviour) {
        tracing::debug!(peer = %self.peer, ?kind, "misbehaviour");
        self.outlet.emit(NetworkEvent::Misbehaved {
            peer: self.peer,
            node: node_key_of(&self.peer),
            kind,
        });
    }
}
