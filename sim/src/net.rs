//! Streams between nodes: ordered, and broken rather than lossy, as TCP and QUIC are.
//!
//! Not the faults: `world::wire` decides what is late, cut off or altered. A
//! stream has two ends with numbers of their own.

use crate::event::NodeIx;
use protocol::ids::StreamId;
use std::collections::BTreeMap;

/// One end of a stream.
#[derive(Debug, Clone)]
pub struct End {
    /// Whose.
    pub node: NodeIx,
    /// In which run of the node.
    pub epoch: u32,
    /// The other end.
    pub peer: StreamId,
    /// Last scheduled arrival at this end, so that arrivals keep their order.
    pub last: u64,
    /// Still read from: no close, no garbage yet.
    pub reading: bool,
    /// This side closed or died.
    pub closed: bool,
    /// This end dialled: it is the buyer's.
    pub dialer: bool,
    /// Bytes on the way to this end were lost: none that come after them arrive.
    pub lost: bool,
}

/// Every stream, and who is cut off.
#[derive(Debug, Default)]
pub struct Net {
    /// By number.
    pub ends: BTreeMap<StreamId, End>,
    next: u64,
    /// Cut off: (node, outbound) until a world time.
    pub cuts: BTreeMap<(NodeIx, bool), u64>,
}

impl Net {
    /// A number never used before.
    pub fn fresh(&mut self) -> StreamId {
        self.next += 1;
        StreamId(self.next)
    }

    /// Connects two ends: (dialer's, target's).
    pub fn connect(
        &mut self,
        dialer: (NodeIx, u32),
        target: (NodeIx, u32),
    ) -> (StreamId, StreamId) {
        let (a, b) = (self.fresh(), self.fresh());
        let end = |(node, epoch): (NodeIx, u32), peer, dialer| End {
            node,
            epoch,
            peer,
            last: 0,
            reading: true,
            closed: false,
            dialer,
            lost: false,
        };
        self.ends.insert(a, end(dialer, b, true));
        self.ends.insert(b, end(target, a, false));
        (a, b)
    }

    /// Until when nothing gets from one node to another; `None`: it does.
    pub fn blocked(&self, from: NodeIx, to: NodeIx, world: u64) -> Option<u64> {
        let out = self.cuts.get(&(from, true)).copied().unwrap_or(0);
        let into = self.cuts.get(&(to, false)).copied().unwrap_or(0);
        let until = out.max(into);
        (until > world).then_some(until)
    }
}
