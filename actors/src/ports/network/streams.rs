//! The swarm behaviour that carries raw streams for named protocols.
//!
//! Counts inbound streams per peer and in all, hands what is beyond the bounds out to
//! be refused (and resets what is beyond that, too), and the rest with a slot that is given back when the
//! stream is dropped. Says which connections have orders ([`Orders`]). Outbound: asks a connection for a stream and answers the
//! caller. It neither dials (the task does) nor looks into a stream.

mod handler;

use super::admission::{Origin, origins};
use super::bounds::{REFUSALS, REFUSALS_PER_PEER};
use super::{OpenError, PeerId, Protocol};
use handler::{Handler, Inbound};
use libp2p::Multiaddr;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, Stream, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::oneshot;

/// A caller's wish for a stream, and where to send it.
#[derive(Debug)]
pub struct OpenRequest {
    pub protocol: Protocol,
    pub reply: oneshot::Sender<Result<Stream, OpenError>>,
}

impl OpenRequest {
    pub(super) fn answer(self, outcome: Result<Stream, OpenError>) {
        // The caller may have given up; then the stream is dropped and so reset.
        let _ = self.reply.send(outcome);
    }
}

/// What happened on some connection.
#[derive(Debug)]
pub(super) enum Event {
    Opened {
        peer: PeerId,
        protocol: Protocol,
        stream: Box<Stream>,
        origin: Option<Origin>,
        slot: Slot,
    },
    /// The peer has as many streams as it may have.
    TooMany {
        peer: PeerId,
        open: usize,
        excess: Option<Excess>,
    },
    /// All peers together have.
    Full {
        peer: PeerId,
        excess: Option<Excess>,
    },
}

/// A stream beyond the bounds that can be told so.
#[derive(Debug)]
pub(super) struct Excess {
    pub(super) protocol: Protocol,
    pub(super) stream: Box<Stream>,
    pub(super) origin: Option<Origin>,
    pub(super) slot: Slot,
}

/// Why a stream is not taken.
enum Refusal {
    TooMany { open: usize },
    Full,
}

/// Inbound streams of one kind, served or refused, and how many there may be.
#[derive(Debug)]
struct InUse {
    total: usize,
    by_peer: BTreeMap<PeerId, usize>,
    total_max: usize,
    per_peer_max: usize,
}

/// One inbound stream's place; dropping it frees the place.
#[derive(Debug)]
pub(super) struct Slot {
    peer: PeerId,
    in_use: Arc<Mutex<InUse>>,
    _order: Option<OpenOrder>,
}

/// The inbound order streams of each connection; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Orders(Arc<Mutex<Served>>);

#[derive(Debug, Default)]
struct Served {
    /// Order streams that have ended.
    ended: u64,
    /// Of each connection that ever had one: those that are open, and `ended` with the last.
    connections: HashMap<ConnectionId, (usize, u64)>,
}

/// An order stream that is open; dropping it ends it.
#[derive(Debug)]
pub(super) struct OpenOrder {
    connection: ConnectionId,
    orders: Orders,
}

impl Orders {
    pub(super) fn begin(&self, connection: ConnectionId) -> OpenOrder {
        let mut served = self.0.lock();
        served.connections.entry(connection).or_default().0 += 1;
        OpenOrder {
            connection,
            orders: self.clone(),
        }
    }

    /// Forgets a connection that is closed.
    pub(super) fn forget(&self, connection: &ConnectionId) {
        self.0.lock().connections.remove(connection);
    }

    /// When the last order of a connection ended, as a number that grows; 0 where it had
    /// none, and `None` where it has one.
    pub(super) fn idle_since(&self, connection: &ConnectionId) -> Option<u64> {
        match self.0.lock().connections.get(connection) {
            None => Some(0),
            Some((0, ended)) => Some(*ended),
            Some(_) => None,
        }
    }
}

impl Drop for OpenOrder {
    fn drop(&mut self) {
        let mut served = self.orders.0.lock();
        served.ended += 1;
        let ended = served.ended;
        // Its connection may be closed.
        if let Some((open, last)) = served.connections.get_mut(&self.connection) {
            (*open, *last) = (open.saturating_sub(1), ended);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut in_use = self.in_use.lock();
        in_use.total = in_use.total.saturating_sub(1);
        if let Some(count) = in_use.by_peer.get_mut(&self.peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                in_use.by_peer.remove(&self.peer);
            }
        }
    }
}

/// Takes a place for a stream of `peer`.
fn admit(places: &Arc<Mutex<InUse>>, peer: PeerId) -> Result<Slot, Refusal> {
    let mut in_use = places.lock();
    let open = in_use.by_peer.get(&peer).copied().unwrap_or(0);
    if open >= in_use.per_peer_max {
        return Err(Refusal::TooMany { open });
    }
    if in_use.total >= in_use.total_max {
        return Err(Refusal::Full);
    }
    in_use.total += 1;
    in_use.by_peer.insert(peer, open + 1);
    Ok(Slot {
        peer,
        in_use: places.clone(),
        _order: None,
    })
}

/// See the head of the file.
pub(super) struct Behaviour {
    accepted: Arc<[Protocol]>,
    serving: Arc<Mutex<InUse>>,
    refusing: Arc<Mutex<InUse>>,
    orders: Orders,
    queue: VecDeque<ToSwarm<Event, OpenRequest>>,
}

impl Behaviour {
    pub(super) fn new(
        accepted: &[Protocol],
        per_peer: usize,
        total: usize,
        orders: Orders,
    ) -> Self {
        let places = |per_peer_max, total_max| {
            Arc::new(Mutex::new(InUse {
                total: 0,
                by_peer: BTreeMap::new(),
                total_max,
                per_peer_max,
            }))
        };
        Self {
            accepted: accepted.into(),
            serving: places(per_peer, total),
            refusing: places(REFUSALS_PER_PEER, REFUSALS),
            orders,
            queue: VecDeque::new(),
        }
    }

    /// Asks any connection to `peer` for a stream. If there is none any more,
    /// the request is dropped and its caller sees that.
    pub(super) fn open(&mut self, peer: PeerId, request: OpenRequest) {
        self.queue.push_back(ToSwarm::NotifyHandler {
            peer_id: peer,
            handler: NotifyHandler::Any,
            event: request,
        });
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        from: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        // The widest: a customer has many narrow ones.
        let origin = origins(from).last().copied();
        Ok(Handler::new(self.accepted.clone(), origin))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.accepted.clone(), None))
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        Inbound {
            protocol,
            stream,
            origin,
        }: THandlerOutEvent<Self>,
    ) {
        let stream = Box::new(stream);
        let event = match admit(&self.serving, peer) {
            Ok(mut slot) => {
                slot._order = (protocol == Protocol::Order).then(|| self.orders.begin(connection));
                Event::Opened {
                    peer,
                    protocol,
                    stream,
                    origin,
                    slot,
                }
            }
            Err(refusal) => {
                // Beyond these as well it is reset, by being dropped.
                let excess = admit(&self.refusing, peer).ok().map(|slot| Excess {
                    protocol,
                    stream,
                    origin,
                    slot,
                });
                match refusal {
                    Refusal::TooMany { open } => Event::TooMany { peer, open, excess },
                    Refusal::Full => Event::Full { peer, excess },
                }
            }
        };
        self.queue.push_back(ToSwarm::GenerateEvent(event));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        // Filled only by calls after which the swarm polls again: no waker needed.
        match self.queue.pop_front() {
            Some(next) => Poll::Ready(next),
            None => Poll::Pending,
        }
    }
}
