//! The swarm behaviour that bounds connections by the address they come from.
//!
//! Identities are free, addresses less so: an IPv4 address, or a /64 of IPv6, counts as one
//! origin. Each may have so many connections that have not proved a key yet, and so many that
//! have. Where all origins together have as many as there may be, one of them gives way to one
//! that has fewer: of the origin with most connections the one that has been longest without an
//! order. `connection_limits` beside it bounds connections that have not proved a key, our own
//! dials, and each peer. Counts inbound connections only.

use super::streams::Orders;
use super::{Multiaddr, PeerId};
use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::ConnectionEstablished;
use libp2p::swarm::{
    CloseConnection, ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, ListenFailure,
    NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr};
use std::task::{Context, Poll};

/// Whom a connection is counted for: an IPv4 address, or the first address of a /64.
pub(super) type Origin = IpAddr;

/// An origin has as many connections as it may have.
#[derive(Debug, thiserror::Error)]
#[error("{origin} has {limit} {what} already")]
pub(super) struct TooMany {
    origin: Origin,
    limit: u32,
    what: &'static str,
}

/// All origins together have, and none gives way.
#[derive(Debug, thiserror::Error)]
#[error("all {limit} places for connections are taken, and none of them gives way")]
pub(super) struct Full {
    limit: u32,
}

/// See the head of the file.
pub(super) struct Behaviour {
    pending_max: u32,
    established_max: u32,
    /// Established ones of all origins.
    all_max: u32,
    /// Connections that have not proved a key.
    pending: Counted,
    /// Those that have, but for those that are being closed.
    established: Counted,
    /// Whose they are, in the order in which they came about.
    peers: BTreeMap<ConnectionId, PeerId>,
    orders: Orders,
    /// Connections that give way, to be closed.
    closing: VecDeque<(PeerId, ConnectionId)>,
}

/// Connections, and how many of them each origin has.
#[derive(Default)]
struct Counted {
    origins: HashMap<ConnectionId, Origin>,
    counts: HashMap<Origin, u32>,
}

impl Counted {
    fn of(&self, origin: &Origin) -> u32 {
        self.counts.get(origin).copied().unwrap_or(0)
    }

    fn add(&mut self, connection: ConnectionId, origin: Origin) {
        if self.origins.insert(connection, origin).is_none() {
            *self.counts.entry(origin).or_default() += 1;
        }
    }

    fn remove(&mut self, connection: &ConnectionId) {
        let Some(origin) = self.origins.remove(connection) else {
            return;
        };
        if let Some(count) = self.counts.get_mut(&origin) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&origin);
            }
        }
    }
}

/// The origin of an address; `None` where it names no IP address (an onion service, say).
pub(super) fn origin(address: &Multiaddr) -> Option<Origin> {
    address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(match ip.to_ipv4_mapped() {
            Some(ip) => IpAddr::V4(ip),
            None => IpAddr::V6(Ipv6Addr::from(u128::from(ip) & !u128::from(u64::MAX))),
        }),
        _ => None,
    })
}

fn check(
    counted: &Counted,
    origin: Origin,
    limit: u32,
    what: &'static str,
) -> Result<(), ConnectionDenied> {
    if counted.of(&origin) < limit {
        return Ok(());
    }
    Err(ConnectionDenied::new(TooMany {
        origin,
        limit,
        what,
    }))
}

impl Behaviour {
    pub(super) fn new(
        pending_max: u32,
        established_max: u32,
        all_max: u32,
        orders: Orders,
    ) -> Self {
        Self {
            pending_max,
            established_max,
            all_max,
            pending: Counted::default(),
            established: Counted::default(),
            peers: BTreeMap::new(),
            orders,
            closing: VecDeque::new(),
        }
    }

    /// Closes one connection for one of an origin that has fewer, where there are as many as
    /// there may be.
    fn make_room(&mut self, origin: Option<Origin>) -> Result<(), ConnectionDenied> {
        if self.peers.len() < self.all_max as usize {
            return Ok(());
        }
        // Those without an address (over an onion service, say) have one origin together.
        let count = |connection| match self.established.origins.get(connection) {
            Some(origin) => self.established.of(origin) as usize,
            None => self.peers.len() - self.established.origins.len(),
        };
        let fewer = origin.map_or(0, |origin| self.established.of(&origin) as usize);
        let idle = self.peers.keys().filter_map(|connection| {
            let since = self.orders.idle_since(connection)?;
            let count = count(connection);
            (count > fewer).then_some((Reverse(count), since, *connection))
        });
        let Some((_, _, connection)) = idle.min() else {
            let limit = self.all_max;
            return Err(ConnectionDenied::new(Full { limit }));
        };
        if let Some(peer) = self.forget(&connection) {
            self.closing.push_back((peer, connection));
        }
        Ok(())
    }

    fn forget(&mut self, connection: &ConnectionId) -> Option<PeerId> {
        self.established.remove(connection);
        self.orders.forget(connection);
        self.peers.remove(connection)
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        if let Some(origin) = origin(remote) {
            check(
                &self.pending,
                origin,
                self.pending_max,
                "connections without a proved key",
            )?;
            self.pending.add(connection, origin);
        }
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.pending.remove(&connection);
        if let Some(origin) = origin(remote) {
            check(
                &self.established,
                origin,
                self.established_max,
                "connections",
            )?;
        }
        self.make_room(origin(remote))?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint: ConnectedPoint::Listener { send_back_addr, .. },
                ..
            }) => {
                self.peers.insert(connection_id, peer_id);
                if let Some(origin) = origin(send_back_addr) {
                    self.established.add(connection_id, origin);
                }
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => {
                self.forget(&connection_id);
            }
            FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => {
                self.pending.remove(&connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        // Filled only by calls after which the swarm polls again: no waker needed.
        match self.closing.pop_front() {
            Some((peer_id, connection)) => Poll::Ready(ToSwarm::CloseConnection {
                peer_id,
                connection: CloseConnection::One(connection),
            }),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_origin() {
        let of = |text: &str| origin(&address(text));
        assert_eq!(
            of("/ip6/2001:db8:1:2:3::4/tcp/1"),
            of("/ip6/2001:db8:1:2::9/udp/7/quic-v1")
        );
        assert_ne!(
            of("/ip6/2001:db8:1:2::1/tcp/1"),
            of("/ip6/2001:db8:1:3::1/tcp/1")
        );
        assert_eq!(
            of("/ip6/::ffff:192.0.2.7/tcp/1"),
            of("/ip4/192.0.2.7/tcp/9")
        );
        assert_ne!(of("/ip4/192.0.2.7/tcp/1"), of("/ip4/192.0.2.8/tcp/1"));
        assert_eq!(of("/dns4/example.com/tcp/1"), None);
    }

    #[test]
    fn an_origin_at_its_bound_does_not_shut_others_out_and_is_let_in_again() {
        let mut admission = Behaviour::new(2, 2, 9, Orders::default());
        let local = address("/ip4/192.0.2.1/tcp/1");
        let mut ask = |number: usize, remote: &str| {
            let id = ConnectionId::new_unchecked(number);
            admission.handle_pending_inbound_connection(id, &local, &address(remote))
        };
        assert!(ask(1, "/ip4/192.0.2.7/tcp/1").is_ok());
        assert!(ask(2, "/ip4/192.0.2.7/udp/2/quic-v1").is_ok());
        assert!(ask(3, "/ip4/192.0.2.7/tcp/3").is_err());
        assert!(ask(4, "/ip4/192.0.2.8/tcp/1").is_ok());
        admission.pending.remove(&ConnectionId::new_unchecked(1));
        let again = ConnectionId::new_unchecked(5);
        let remote = address("/ip4/192.0.2.7/tcp/5");
        assert!(
            admission
                .handle_pending_inbound_connection(again, &local, &remote)
                .is_ok()
        );
        assert_eq!(admission.pending.counts.len(), 2);
    }

    #[test]
    fn where_all_places_are_taken_the_fullest_origin_gives_one_up_to_one_that_has_fewer() {
        let orders = Orders::default();
        let mut admission = Behaviour::new(9, 9, 5, orders.clone());
        let crowded = address("/ip4/192.0.2.7/tcp/1");
        let sparse = address("/ip4/192.0.2.8/tcp/1");
        let numbered = ConnectionId::new_unchecked;
        for (number, remote) in [&crowded, &sparse, &crowded, &crowded, &sparse]
            .into_iter()
            .enumerate()
        {
            admission.peers.insert(numbered(number), PeerId::random());
            admission
                .established
                .add(numbered(number), origin(remote).unwrap());
        }
        // Who gives way; it is put back at once.
        let mut ask = |remote: &str| {
            admission.make_room(origin(&address(remote))).ok()?;
            let (peer, closed) = admission.closing.pop_front()?;
            admission.peers.insert(closed, peer);
            let back = origin(&crowded).unwrap();
            admission.established.add(closed, back);
            Some(closed)
        };
        // The oldest of those without an order; not one of the origin that has two.
        assert_eq!(ask("/ip4/192.0.2.9/tcp/1"), Some(numbered(0)));
        let order = orders.begin(numbered(0));
        assert_eq!(ask("/ip4/192.0.2.9/tcp/1"), Some(numbered(2)));
        drop(order);
        // It was busy later than the others.
        assert_eq!(ask("/ip4/192.0.2.9/tcp/1"), Some(numbered(2)));
        // Whoever has as many takes nobody's place.
        assert_eq!(ask("/ip4/192.0.2.7/tcp/1"), None);
        // Nobody who has an order gives way, however many its origin has.
        let _crowded = [0, 2, 3].map(|number| orders.begin(numbered(number)));
        assert_eq!(ask("/ip4/192.0.2.9/tcp/1"), Some(numbered(1)));
        let _others = [1, 4].map(|number| orders.begin(numbered(number)));
        assert_eq!(ask("/ip4/192.0.2.9/tcp/1"), None);
    }
}
