//! Who has a transfer under way: one for a peer, two for an address, so many in all.

use parking_lot::Mutex;
use protocol::ids::{AddressTag, Caller, PeerTag};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Transfers of one address, or /48 of IPv6, at once.
const PER_ADDRESS: u32 = 2;

/// The places for transfers; clones share them.
#[derive(Debug, Clone)]
pub(super) struct Transfers {
    most: usize,
    busy: Arc<Mutex<Busy>>,
}

#[derive(Debug, Default)]
struct Busy {
    peers: BTreeSet<PeerTag>,
    addresses: BTreeMap<AddressTag, u32>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    transfers: Transfers,
    caller: Caller,
}

impl Transfers {
    /// So many places.
    pub fn new(most: usize) -> Self {
        let busy = Arc::default();
        Self { most, busy }
    }

    /// A place for this caller, where there is one.
    pub fn begin(&self, caller: Caller) -> Option<Place> {
        let mut busy = self.busy.lock();
        let of_address = busy.addresses.get(&caller.address).copied();
        let of_address = of_address.unwrap_or(0);
        let full = busy.peers.len() >= self.most
            || busy.peers.contains(&caller.peer)
            || of_address >= PER_ADDRESS;
        if full {
            return None;
        }
        busy.peers.insert(caller.peer);
        busy.addresses.insert(caller.address, of_address + 1);
        Some(Place {
            transfers: self.clone(),
            caller,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut busy = self.transfers.busy.lock();
        busy.peers.remove(&self.caller.peer);
        if let Some(count) = busy.addresses.get_mut(&self.caller.address) {
            *count -= 1;
            if *count == 0 {
                busy.addresses.remove(&self.caller.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(peer: u8, address: u8) -> Caller {
        Caller {
            peer: PeerTag([peer; 16]),
            address: AddressTag([address; 16]),
        }
    }

    #[test]
    fn one_peer_does_not_hold_every_transfer_and_one_address_neither() {
        let transfers = Transfers::new(8);
        let first = transfers.begin(caller(1, 1));
        assert!(first.is_some() && transfers.begin(caller(1, 1)).is_none());
        let second = transfers.begin(caller(2, 1));
        assert!(second.is_some() && transfers.begin(caller(3, 1)).is_none());
        let others: Vec<_> = (10..30)
            .filter_map(|n| transfers.begin(caller(n, n)))
            .collect();
        assert_eq!(others.len(), 6, "eight in all");
        drop(first);
        assert!(transfers.begin(caller(3, 1)).is_some());
        drop((second, others));
        let busy = transfers.busy.lock();
        assert!(busy.peers.is_empty() && busy.addresses.is_empty());
    }
}
