//! Who opens a stream, as its far end is told: a peer, and the address that it comes from.
//!
//! Drawn by lots of the seed that take nothing from its dice. Peers are free and addresses are
//! not: most adversaries are another peer with each stream of their own, all from one address.

use crate::event::NodeIx;
use crate::node::Node;
use protocol::crypto::tagged_hash;
use protocol::ids::{AddressTag, Caller, NodeKey, PeerTag, StreamId};

/// Nodes, of 256, that share the address of the one before them.
const SHARING: u8 = 51;
/// Adversaries, of 256, whose streams each come from a peer of their own.
const CHANGING: u8 = 171;

/// The caller of a node: the key of its transport as a client says nothing about who orders.
pub fn own(transport: &NodeKey) -> Caller {
    let mut tag = [0; 16];
    tag.copy_from_slice(&transport.0[..16]);
    let address = AddressTag(tag);
    let peer = PeerTag(tag);
    Caller { peer, address }
}

/// Lets some nodes share an address, and some adversaries change their peers. An adversary has an
/// address of its own.
pub fn draw(seed: u64, nodes: &mut [Node]) {
    let mut before: Option<AddressTag> = None;
    for (index, node) in nodes.iter_mut().enumerate() {
        let participant = &mut node.participant;
        let index = index as u64;
        let lots = tagged_hash("sim/caller/1", &[&seed.to_le_bytes(), &index.to_le_bytes()]).0;
        if participant.strategy.is_some() {
            participant.changes_peers = lots[1] < CHANGING;
            before = None;
            continue;
        }
        if let Some(address) = before.filter(|_| lots[0] < SHARING) {
            participant.caller.address = address;
        }
        before = Some(participant.caller.address);
    }
}

/// The caller of a stream that an adversary opens by itself.
pub fn of_stream(seed: u64, (index, node): (NodeIx, &Node), stream: StreamId) -> Caller {
    let participant = &node.participant;
    if !participant.changes_peers {
        return participant.caller;
    }
    let parts = [seed, index as u64, stream.0].map(u64::to_le_bytes);
    let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_slice()).collect();
    let peer = NodeKey(tagged_hash("sim/peer/1", &parts).0);
    Caller {
        peer: own(&peer).peer,
        ..participant.caller
    }
}
