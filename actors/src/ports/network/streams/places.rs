//! Places of inbound streams: so many of one peer, of one address and of all.
//!
//! Orders do not share theirs with audits and transfers of files, so that these, which cost their
//! asker nothing, keep no buyer out. Identities are free: where the address of a connection tells
//! anything, it is counted as well.

use super::super::Protocol;
use super::super::bounds::{
    Bounds, INBOUND_SIDE_STREAMS, INBOUND_SIDE_STREAMS_PER_ORIGIN, INBOUND_STREAMS_PER_ORIGIN,
    REFUSALS, REFUSALS_PER_ORIGIN, REFUSALS_PER_PEER,
};
use super::{OpenOrder, PeerId};
use parking_lot::Mutex;
use protocol::ids::AddressTag;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why a stream is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Its peer has as many as it may have.
    TooMany {
        /// Those it has.
        open: usize,
    },
    /// Its address has.
    Crowded,
    /// All together have.
    Full,
}

/// How many streams there may be.
#[derive(Debug, Clone, Copy)]
struct Limits {
    total: usize,
    per_peer: usize,
    per_address: usize,
}

/// Streams of one kind; clones share them.
#[derive(Debug, Clone)]
struct Places {
    limits: Limits,
    in_use: Arc<Mutex<InUse>>,
}

#[derive(Debug, Default)]
struct InUse {
    total: usize,
    by_peer: BTreeMap<PeerId, usize>,
    by_address: BTreeMap<AddressTag, usize>,
}

/// One inbound stream's place; dropping it frees the place.
#[derive(Debug)]
pub struct Slot {
    peer: PeerId,
    address: Option<AddressTag>,
    in_use: Arc<Mutex<InUse>>,
    _order: Option<OpenOrder>,
}

impl Slot {
    /// The same place, of a stream that is an order's.
    pub(super) fn of_order(mut self, order: OpenOrder) -> Self {
        self._order = Some(order);
        self
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut in_use = self.in_use.lock();
        in_use.total = in_use.total.saturating_sub(1);
        less(&mut in_use.by_peer, &self.peer);
        if let Some(address) = self.address {
            less(&mut in_use.by_address, &address);
        }
    }
}

fn less<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Places {
    fn new(limits: Limits) -> Self {
        let in_use = Arc::default();
        Self { limits, in_use }
    }

    fn take(&self, peer: PeerId, address: Option<AddressTag>) -> Result<Slot, Refusal> {
        let mut in_use = self.in_use.lock();
        let open = in_use.by_peer.get(&peer).copied().unwrap_or(0);
        if open >= self.limits.per_peer {
            return Err(Refusal::TooMany { open });
        }
        let near = address.and_then(|address| in_use.by_address.get(&address).copied());
        let near = near.unwrap_or(0);
        if near >= self.limits.per_address {
            return Err(Refusal::Crowded);
        }
        if in_use.total >= self.limits.total {
            return Err(Refusal::Full);
        }
        in_use.total += 1;
        in_use.by_peer.insert(peer, open + 1);
        if let Some(address) = address {
            in_use.by_address.insert(address, near + 1);
        }
        Ok(Slot {
            peer,
            address,
            in_use: self.in_use.clone(),
            _order: None,
        })
    }
}

/// The places of a node.
#[derive(Debug)]
pub(super) struct AllPlaces {
    orders: Places,
    /// Audits and transfers.
    side: Places,
    /// Streams of any kind that are told that there is no place.
    refusals: Places,
}

impl AllPlaces {
    pub(super) fn new(bounds: &Bounds) -> Self {
        let per_peer = bounds.inbound_streams_per_peer;
        Self {
            orders: Places::new(Limits {
                total: bounds.inbound_streams,
                per_peer,
                per_address: INBOUND_STREAMS_PER_ORIGIN,
            }),
            side: Places::new(Limits {
                total: INBOUND_SIDE_STREAMS,
                per_peer,
                per_address: INBOUND_SIDE_STREAMS_PER_ORIGIN,
            }),
            refusals: Places::new(Limits {
                total: REFUSALS,
                per_peer: REFUSALS_PER_PEER,
                per_address: REFUSALS_PER_ORIGIN,
            }),
        }
    }

    /// A place for a stream that is served.
    pub(super) fn serve(
        &self,
        protocol: Protocol,
        peer: PeerId,
        address: Option<AddressTag>,
    ) -> Result<Slot, Refusal> {
        let places = match protocol {
            Protocol::Order | Protocol::Quote => &self.orders,
            Protocol::Audit | Protocol::Blob => &self.side,
        };
        places.take(peer, address)
    }

    /// One for a stream that is told why it is not.
    pub(super) fn refuse(&self, peer: PeerId, address: Option<AddressTag>) -> Option<Slot> {
        self.refusals.take(peer, address).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Option<AddressTag> = Some(AddressTag([1; 16]));
    const THERE: Option<AddressTag> = Some(AddressTag([2; 16]));

    /// Streams of as many peers as it takes, each with as many as it may have; and why no more are
    /// taken.
    fn fill(
        places: &AllPlaces,
        protocol: Protocol,
        address: Option<AddressTag>,
    ) -> (Vec<Slot>, Refusal) {
        let mut held = Vec::new();
        loop {
            let peer = PeerId::random();
            for _ in 0..Bounds::default().inbound_streams_per_peer {
                match places.serve(protocol, peer, address) {
                    Ok(slot) => held.push(slot),
                    Err(refusal) => return (held, refusal),
                }
            }
        }
    }

    #[test]
    fn streams_of_one_address_are_bounded_however_many_peers_they_come_from() {
        let places = AllPlaces::new(&Bounds::default());
        let (mut held, why) = fill(&places, Protocol::Order, HERE);
        assert_eq!((held.len(), why), (64, Refusal::Crowded));
        let peer = PeerId::random();
        assert!(places.serve(Protocol::Order, peer, THERE).is_ok());
        // What tells nothing has no bound of its own.
        assert!(places.serve(Protocol::Order, peer, None).is_ok());
        held.pop();
        assert!(places.serve(Protocol::Order, peer, HERE).is_ok());
        drop(held);
        let (held, _) = fill(&places, Protocol::Order, HERE);
        assert_eq!(held.len(), 64, "a place was not given back");
        let (behind_a_proxy, why) = fill(&places, Protocol::Order, None);
        assert_eq!((behind_a_proxy.len(), why), (448, Refusal::Full));
    }

    #[test]
    fn audits_and_transfers_take_no_place_of_orders() {
        let places = AllPlaces::new(&Bounds::default());
        // Of one address, and then of all that there are.
        let (of_one, why) = fill(&places, Protocol::Audit, HERE);
        assert_eq!((of_one.len(), why), (16, Refusal::Crowded));
        let blob = places.serve(Protocol::Blob, PeerId::random(), HERE);
        assert_eq!(blob.err(), Some(Refusal::Crowded));
        let (others, why) = fill(&places, Protocol::Blob, None);
        assert_eq!((others.len(), why), (48, Refusal::Full));
        let audit = places.serve(Protocol::Audit, PeerId::random(), THERE);
        assert_eq!(audit.err(), Some(Refusal::Full));
        let (orders, _) = fill(&places, Protocol::Order, HERE);
        assert_eq!(orders.len(), 64);
    }

    #[test]
    fn a_peer_has_its_share_of_each_kind_and_one_address_not_every_refusal() {
        let places = AllPlaces::new(&Bounds::default());
        let peer = PeerId::random();
        let mut held = Vec::new();
        for protocol in [Protocol::Audit, Protocol::Order] {
            held.extend((0..16).map(|_| places.serve(protocol, peer, None).unwrap()));
            let more = places.serve(protocol, peer, None).err();
            assert_eq!(more, Some(Refusal::TooMany { open: 16 }));
        }
        let told = (0..64).filter_map(|_| places.refuse(PeerId::random(), HERE));
        let told: Vec<_> = told.collect();
        assert_eq!(told.len(), 32);
        assert!(places.refuse(PeerId::random(), THERE).is_some());
    }
}
