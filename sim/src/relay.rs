//! Relays: they keep one listing per author, and are not to be trusted.
//!
//! Signatures and proofs of work of events are the relay port's business; what
//! it would have refused does not get here.

use protocol::ids::NodeKey;
use protocol::time::WallTime;
use protocol::wire::manifest::Manifest;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Fewest relays of a world: where there are no more, any two nodes have one in common, and
/// everybody hears of everybody.
pub const RELAYS: usize = 3;
/// Nodes for which a large world has one relay more, unless it is told how many to have. A node
/// then hears of three times as many: of everybody, in a world of two hundred.
pub const NODES_PER_RELAY: usize = 64;

/// The relays of a world of that size.
pub fn relays_for(nodes: usize) -> usize {
    (nodes / NODES_PER_RELAY).max(RELAYS)
}

/// Least time between two handovers of a relay to one node: what is published meanwhile comes
/// together. Milliseconds.
pub const HANDOVER_MS: u64 = 10_000;

/// What one relay has for one node.
#[derive(Debug, Default)]
pub struct Subscription {
    /// Listings on their way.
    pub waiting: Vec<Arc<Manifest>>,
    /// A handover is scheduled.
    pub scheduled: bool,
    /// World time before which there is no other.
    pub next: u64,
}

/// One relay.
#[derive(Debug, Default)]
pub struct Relay {
    /// The name under which machines know it.
    pub name: String,
    /// Latest listing by author.
    pub listings: BTreeMap<NodeKey, Arc<Manifest>>,
    /// The one before, which a bad relay still serves.
    pub stale: BTreeMap<NodeKey, Arc<Manifest>>,
    /// Deletions by author.
    pub deleted: BTreeMap<NodeKey, WallTime>,
}

impl Relay {
    /// The relay of that number.
    pub fn new(number: usize) -> Self {
        Relay {
            name: format!("relay-{number}"),
            ..Relay::default()
        }
    }

    /// Takes a listing, as NIP-01 says of addressable events: the newest wins.
    pub fn publish(&mut self, manifest: Arc<Manifest>) {
        let author = manifest.node;
        if let Some(before) = self.listings.insert(author, manifest) {
            self.stale.insert(author, before);
        }
    }

    /// Takes a deletion.
    pub fn delete(&mut self, author: NodeKey, at: WallTime) {
        if let Some(before) = self.listings.remove(&author) {
            self.stale.insert(author, before);
        }
        self.deleted.insert(author, at);
    }
}

/// The relays that a node uses: two that stand beside each other in the circle of all.
pub fn relays_of(node: usize, relays: usize) -> [usize; 2] {
    [node % relays, (node + 1) % relays]
}

/// Whether two nodes have a relay in common, and so hear of each other.
pub fn share_relay(one: usize, other: usize, relays: usize) -> bool {
    let theirs = relays_of(other, relays);
    let ours = relays_of(one, relays);
    ours.iter().any(|relay| theirs.contains(relay))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_two_nodes_of_a_small_world_share_a_relay() {
        let pairs = (0..50).flat_map(|one| (0..50).map(move |other| (one, other)));
        let mut pairs = pairs.map(|(one, other)| share_relay(one, other, relays_for(50)));
        assert!(pairs.all(|shared| shared));
    }

    #[test]
    fn a_node_of_a_large_world_hears_of_no_more_than_one_of_a_world_of_two_hundred() {
        let relays = relays_for(2_000);
        for node in 0..2_000 {
            let heard = (0..2_000).filter(|other| share_relay(node, *other, relays));
            assert!((100..=200).contains(&heard.count()));
        }
    }
}
