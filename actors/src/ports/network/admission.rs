//! The swarm behaviour that bounds connections by the address they come from.
//!
//! Identities are free, addresses less so: an IPv4 address, or a /64 of IPv6, counts as one
//! origin, and the /48 around it as another. Each may have so many connections that have not
//! proved a key yet, and so many that have. Where too many of all origins have not, the oldest of
//! them gives way to the newest. Where all origins together have as many as there may be, one of them gives way to one
//! that has fewer: of the origin with most connections the one that has been longest without an
//! order. `connection_limits` beside it bounds our own dials, and each peer. Counts inbound connections only.

use super::revocable::Latest;
use super::streams::Orders;
use super::{Multiaddr, PeerId};
use futures::future::AbortHandle;
use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::ConnectionEstablished;
use libp2p::swarm::{
    CloseConnection, ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, ListenFailure,
    NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
};
use protocol::crypto::tagged_hash;
use protocol::ids::AddressTag;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::task::{Context, Poll};

/// Whom a connection is counted for: an IPv4 address, a /64 of IPv6, or the /48 around it, which is
/// what one customer of a provider gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    ip: IpAddr,
    prefix: u8,
}

impl Origin {
    fn v6(ip: Ipv6Addr, prefix: u8) -> Self {
        let host = u128::MAX >> prefix;
        Self {
            ip: IpAddr::V6(Ipv6Addr::from(u128::from(ip) & !host)),
            prefix,
        }
    }

    /// Tells it from others. An address of this machine tells nothing: behind a proxy or an onion
    /// service stands everybody. The /48 around `::1` is `::`.
    pub(super) fn tag(&self) -> Option<AddressTag> {
        if self.ip.is_loopback() || self.ip.is_unspecified() {
            return None;
        }
        let text = self.to_string();
        let digest = tagged_hash("freehold/peer-address/1", &[text.as_bytes()]);
        let mut tag = [0; 16];
        tag.copy_from_slice(&digest.0[..16]);
        Some(AddressTag(tag))
    }

    /// How many it may have where an address may have `limit`.
    fn limit(&self, limit: u32) -> u32 {
        match self.prefix {
            48 => limit.saturating_mul(2),
            _ => limit,
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

/// An origin has as many connections as it may have.
#[derive(Debug, thiserror::Error)]
#[error("{}/{} has {limit} {what} already", origin.ip, origin.prefix)]
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

/// Bounds of inbound connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Without a proved key, in all.
    pub pending: u32,
    /// The same of one address.
    pub pending_per_origin: u32,
    /// With one, in all.
    pub established: u32,
    /// The same of one address.
    pub established_per_origin: u32,
}

/// See the head of the file.
pub(super) struct Behaviour {
    limits: Limits,
    /// Gives up the connection that was asked about last.
    latest: Latest,
    /// Those that can be given up, oldest first.
    revocable: BTreeMap<ConnectionId, AbortHandle>,
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
    origins: HashMap<ConnectionId, Vec<Origin>>,
    counts: HashMap<Origin, u32>,
}

impl Counted {
    fn of(&self, origin: &Origin) -> u32 {
        self.counts.get(origin).copied().unwrap_or(0)
    }

    /// Connections of the widest origin of these.
    fn of_widest(&self, origins: &[Origin]) -> usize {
        origins.last().map_or(0, |origin| self.of(origin) as usize)
    }

    /// Connections from addresses take part; those without one have no origin.
    fn add(&mut self, connection: ConnectionId, origins: Vec<Origin>) {
        self.remove(&connection);
        if origins.is_empty() {
            return;
        }
        for origin in &origins {
            *self.counts.entry(*origin).or_default() += 1;
        }
        self.origins.insert(connection, origins);
    }

    fn remove(&mut self, connection: &ConnectionId) {
        for origin in self.origins.remove(connection).into_iter().flatten() {
            if let Some(count) = self.counts.get_mut(&origin) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.counts.remove(&origin);
                }
            }
        }
    }
}

/// The origins of an address; none where it names no IP address (an onion service, say).
pub(super) fn origins(address: &Multiaddr) -> Vec<Origin> {
    let v4 = |ip: Ipv4Addr| {
        vec![Origin {
            ip: IpAddr::V4(ip),
            prefix: 32,
        }]
    };
    let of = address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(v4(ip)),
        Protocol::Ip6(ip) => Some(match ip.to_ipv4_mapped() {
            Some(ip) => v4(ip),
            None => vec![Origin::v6(ip, 64), Origin::v6(ip, 48)],
        }),
        _ => None,
    });
    of.unwrap_or_default()
}

fn check(
    counted: &Counted,
    origins: &[Origin],
    limit: u32,
    what: &'static str,
) -> Result<(), ConnectionDenied> {
    for origin in origins {
        let limit = origin.limit(limit);
        if counted.of(origin) >= limit {
            return Err(ConnectionDenied::new(TooMany {
                origin: *origin,
                limit,
                what,
            }));
        }
    }
    Ok(())
}

impl Behaviour {
    pub(super) fn new(limits: Limits, orders: Orders, latest: Latest) -> Self {
        Self {
            limits,
            latest,
            revocable: BTreeMap::new(),
            pending: Counted::default(),
            established: Counted::default(),
            peers: BTreeMap::new(),
            orders,
            closing: VecDeque::new(),
        }
    }

    /// Closes one connection for one of an origin that has fewer, where there are as many as
    /// there may be.
    fn make_room(&mut self, origins: &[Origin]) -> Result<(), ConnectionDenied> {
        if self.peers.len() < self.limits.established as usize {
            return Ok(());
        }
        // Those without an address (over an onion service, say) have one origin together.
        let count = |connection| match self.established.origins.get(connection) {
            Some(origins) => self.established.of_widest(origins),
            None => self.peers.len() - self.established.origins.len(),
        };
        let fewer = self.established.of_widest(origins);
        let idle = self.peers.keys().filter_map(|connection| {
            let since = self.orders.idle_since(connection)?;
            let count = count(connection);
            (count > fewer).then_some((Reverse(count), since, *connection))
        });
        let Some((_, _, connection)) = idle.min() else {
            let limit = self.limits.established;
            return Err(ConnectionDenied::new(Full { limit }));
        };
        if let Some(peer) = self.forget(&connection) {
            self.closing.push_back((peer, connection));
        }
        Ok(())
    }

    /// The same for one without a proved key; the oldest of all gives way.
    fn make_pending_room(&mut self) {
        while self.revocable.len() >= self.limits.pending as usize
            && let Some((oldest, given_up)) = self.revocable.pop_first()
        {
            given_up.abort();
            self.pending.remove(&oldest);
        }
    }

    /// A connection has proved its key, or is no more.
    fn no_longer_pending(&mut self, connection: &ConnectionId) {
        self.revocable.remove(connection);
        self.pending.remove(connection);
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
        let origins = origins(remote);
        check(
            &self.pending,
            &origins,
            self.limits.pending_per_origin,
            "connections without a proved key",
        )?;
        self.make_pending_room();
        self.pending.add(connection, origins);
        if let Some(handle) = self.latest.take(remote) {
            self.revocable.insert(connection, handle);
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
        self.no_longer_pending(&connection);
        let origins = origins(remote);
        let limit = self.limits.established_per_origin;
        check(&self.established, &origins, limit, "connections")?;
        self.make_room(&origins)?;
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
                self.established.add(connection_id, origins(send_back_addr));
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => {
                self.forget(&connection_id);
            }
            FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => {
                self.no_longer_pending(&connection_id);
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

    fn admission(pending: u32) -> Behaviour {
        let limits = Limits {
            pending,
            pending_per_origin: 2,
            established: 9,
            established_per_origin: 2,
        };
        Behaviour::new(limits, Orders::default(), Latest::default())
    }

    /// A connection that comes; whether it is let in, and what would give it up.
    fn ask(admission: &mut Behaviour, number: usize, remote: &str) -> (bool, AbortHandle) {
        let (local, remote) = (address("/ip4/192.0.2.1/tcp/1"), address(remote));
        let (handle, _) = AbortHandle::new_pair();
        admission.latest.put(&remote, handle.clone());
        let id = ConnectionId::new_unchecked(number);
        let asked = admission.handle_pending_inbound_connection(id, &local, &remote);
        (asked.is_ok(), handle)
    }

    #[test]
    fn who_comes_over_this_machine_has_no_address_and_others_have_theirs() {
        let tag = |text: &str| origins(&address(text)).last().and_then(Origin::tag);
        for local in [
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/127.8.8.8/tcp/2",
            "/ip6/::1/tcp/3",
        ] {
            assert_eq!(tag(local), None, "{local}");
        }
        let one = tag("/ip4/192.0.2.7/tcp/1");
        assert!(one.is_some() && one == tag("/ip4/192.0.2.7/udp/9/quic-v1"));
        assert_eq!(one, tag("/ip6/::ffff:192.0.2.7/tcp/1"));
        assert_ne!(one, tag("/ip4/192.0.2.8/tcp/1"));
        let network = tag("/ip6/2001:db8:1:2::1/tcp/1");
        assert!(network.is_some() && network == tag("/ip6/2001:db8:1:3::1/tcp/1"));
        assert_ne!(network, tag("/ip6/2001:db8:2::1/tcp/1"));
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_origin_and_the_48_around_it_another() {
        let of = |text: &str| origins(&address(text));
        assert_eq!(
            of("/ip6/2001:db8:1:2:3::4/tcp/1"),
            of("/ip6/2001:db8:1:2::9/udp/7/quic-v1")
        );
        let (one, other) = (
            of("/ip6/2001:db8:1:2::1/tcp/1"),
            of("/ip6/2001:db8:1:3::1/tcp/1"),
        );
        assert!(one[0] != other[0] && one[1] == other[1]);
        assert_ne!(one[1], of("/ip6/2001:db8:2::1/tcp/1")[1]);
        // The first /64 of a /48 is not the /48.
        let first = of("/ip6/2001:db8:1::1/tcp/1");
        assert_ne!(first[0], first[1]);
        assert_eq!(
            of("/ip6/::ffff:192.0.2.7/tcp/1"),
            of("/ip4/192.0.2.7/tcp/9")
        );
        assert_ne!(of("/ip4/192.0.2.7/tcp/1"), of("/ip4/192.0.2.8/tcp/1"));
        assert!(of("/dns4/example.com/tcp/1").is_empty());
    }

    #[test]
    fn networks_of_one_customer_share_a_bound() {
        let mut admission = admission(100);
        let let_in = (0..10).filter(|n| {
            let remote = format!("/ip6/2001:db8:1:{n}::1/tcp/1");
            ask(&mut admission, *n, &remote).0
        });
        assert_eq!(let_in.count(), 4);
        assert!(ask(&mut admission, 20, "/ip6/2001:db8:2::1/tcp/1").0);
    }

    #[test]
    fn the_oldest_without_a_key_gives_way_to_the_newest_of_another_address() {
        let mut admission = admission(3);
        let mut ask = |n: usize, last: u8| {
            let remote = format!("/ip4/192.0.2.{last}/tcp/{n}");
            ask(&mut admission, n, &remote)
        };
        let held: Vec<_> = (1..4).map(|n| ask(n, n as u8).1).collect();
        let (let_in, _) = ask(4, 4);
        assert!(let_in && held[0].is_aborted() && !held[1].is_aborted());
        // Of an address at its bound nobody's place is taken.
        assert!(ask(5, 4).0 && held[1].is_aborted());
        assert!(!ask(6, 4).0 && !held[2].is_aborted());
        assert_eq!(admission.revocable.len(), 3);
        assert_eq!(admission.pending.counts.len(), 2);
    }

    #[test]
    fn an_origin_at_its_bound_does_not_shut_others_out_and_is_let_in_again() {
        let mut admission = admission(100);
        let mut ask = |number: usize, remote: &str| ask(&mut admission, number, remote).0;
        assert!(ask(1, "/ip4/192.0.2.7/tcp/1"));
        assert!(ask(2, "/ip4/192.0.2.7/udp/2/quic-v1"));
        assert!(!ask(3, "/ip4/192.0.2.7/tcp/3"));
        assert!(ask(4, "/ip4/192.0.2.8/tcp/1"));
        admission.no_longer_pending(&ConnectionId::new_unchecked(1));
        assert!(self::ask(&mut admission, 5, "/ip4/192.0.2.7/tcp/5").0);
        assert_eq!(admission.pending.counts.len(), 2);
    }

    #[test]
    fn where_all_places_are_taken_the_fullest_origin_gives_one_up_to_one_that_has_fewer() {
        let orders = Orders::default();
        let limits = Limits {
            pending: 9,
            pending_per_origin: 9,
            established: 5,
            established_per_origin: 9,
        };
        let mut admission = Behaviour::new(limits, orders.clone(), Latest::default());
        let crowded = address("/ip4/192.0.2.7/tcp/1");
        let sparse = address("/ip4/192.0.2.8/tcp/1");
        let numbered = ConnectionId::new_unchecked;
        for (number, remote) in [&crowded, &sparse, &crowded, &crowded, &sparse]
            .into_iter()
            .enumerate()
        {
            admission.peers.insert(numbered(number), PeerId::random());
            admission.established.add(numbered(number), origins(remote));
        }
        // Who gives way; it is put back at once.
        let mut ask = |remote: &str| {
            admission.make_room(&origins(&address(remote))).ok()?;
            let (peer, closed) = admission.closing.pop_front()?;
            admission.peers.insert(closed, peer);
            admission.established.add(closed, origins(&crowded));
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
