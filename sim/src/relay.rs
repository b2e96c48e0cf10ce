//! Relays: they keep one listing per author, and are not to be trusted.
//!
//! Signatures and proofs of work of events are the relay port's business; what
//! it would have refused does not get here.

use protocol::ids::NodeKey;
use protocol::time::WallTime;
use protocol::wire::manifest::Manifest;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Relays of the world.
pub const RELAYS: usize = 3;

/// Least time between two handovers of a relay to one node: what is published meanwhile comes
/// together. Milliseconds.
pub const HANDOVER_MS: u64 = 10_000;

/// The name under which machines know a relay.
pub const NAMES: [&str; RELAYS] = ["relay-0", "relay-1", "relay-2"];

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
    /// Latest listing by author.
    pub listings: BTreeMap<NodeKey, Arc<Manifest>>,
    /// The one before, which a bad relay still serves.
    pub stale: BTreeMap<NodeKey, Arc<Manifest>>,
    /// Deletions by author.
    pub deleted: BTreeMap<NodeKey, WallTime>,
}

impl Relay {
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

/// The relays that a node uses: two of three.
pub fn relays_of(node: usize) -> [usize; 2] {
    [node % RELAYS, (node + 1) % RELAYS]
}
