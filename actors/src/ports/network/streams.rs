//! The swarm behaviour that carries raw streams for named protocols.
//!
//! Counts inbound streams (`places`), hands what is beyond the bounds out to be refused (and resets
//! what is beyond that, too), and the rest with a slot that is given back when the stream is
//! dropped. Says which connections have orders ([`Orders`]). Outbound: asks a connection for a
//! stream and answers the caller. It neither dials (the task does) nor looks into a stream.

mod handler;
mod places;

pub(super) use places::{Refusal, Slot};

use super::admission::{Origin, origins};
use super::bounds::Bounds;
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
use places::AllPlaces;
use std::collections::{HashMap, VecDeque};
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
    /// There is no place for a stream.
    Refused {
        peer: PeerId,
        refusal: Refusal,
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

/// See the head of the file.
pub(super) struct Behaviour {
    accepted: Arc<[Protocol]>,
    places: AllPlaces,
    orders: Orders,
    queue: VecDeque<ToSwarm<Event, OpenRequest>>,
}

impl Behaviour {
    pub(super) fn new(accepted: &[Protocol], bounds: &Bounds, orders: Orders) -> Self {
        Self {
            accepted: accepted.into(),
            places: AllPlaces::new(bounds),
            orders,
            queue: VecDeque::new(),
        }
    }

    /// Whoever is at this address is counted for it, whichever side dialled: a stranger can have
    /// itself dialled, by naming addresses to the routing table.
    fn handler(&self, address: &Multiaddr) -> Handler {
        // The widest: a customer has many narrow ones.
        let origin = origins(address).last().copied();
        Handler::new(self.accepted.clone(), origin)
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
        Ok(self.handler(from))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        to: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(to))
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
        let address = origin.as_ref().and_then(Origin::tag);
        let event = match self.places.serve(protocol, peer, address) {
            Ok(slot) => {
                let slot = match protocol {
                    Protocol::Order => slot.of_order(self.orders.begin(connection)),
                    _ => slot,
                };
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
                let slot = self.places.refuse(peer, address);
                let excess = slot.map(|slot| Excess {
                    protocol,
                    stream,
                    origin,
                    slot,
                });
                Event::Refused {
                    peer,
                    refusal,
                    excess,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_was_dialled_is_counted_for_its_address_like_who_dials() {
        let bounds = Bounds::default();
        let mut streams = Behaviour::new(&[Protocol::Order], &bounds, Orders::default());
        let (id, peer) = (ConnectionId::new_unchecked(1), PeerId::random());
        let there: Multiaddr = "/ip4/192.0.2.7/tcp/4001".parse().unwrap();
        let here: Multiaddr = "/ip4/192.0.2.1/tcp/4001".parse().unwrap();
        let inbound = streams
            .handle_established_inbound_connection(id, peer, &here, &there)
            .unwrap();
        let outbound = streams
            .handle_established_outbound_connection(
                id,
                peer,
                &there,
                Endpoint::Dialer,
                PortUse::Reuse,
            )
            .unwrap();
        let tags = [inbound, outbound].map(|handler| handler.origin.as_ref().and_then(Origin::tag));
        assert!(tags[0].is_some());
        assert_eq!(tags[0], tags[1]);
    }
}
