//! What can happen, and the one queue ordered by (tick, sequence).

use protocol::ids::{EffectId, OrderId, PaymentHash, RequestId, StreamId};
use protocol::route::{Actor, Delivery};
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Index of a node in the world.
pub type NodeIx = usize;

/// Something that happens at a time. `epoch` is the node's run: what was meant
/// for an earlier run is lost with it.
#[derive(Debug)]
#[allow(missing_docs)] // the fields are named for what they are
pub enum Event {
    /// A machine's deadline.
    Wake {
        node: NodeIx,
        epoch: u32,
        actor: Actor,
    },
    /// An input comes out of a mailbox.
    Deliver {
        node: NodeIx,
        epoch: u32,
        delivery: Box<Delivery>,
    },
    /// A write is on disk.
    Synced {
        node: NodeIx,
        epoch: u32,
        actor: Actor,
    },
    /// A dial ends.
    Dialed {
        node: NodeIx,
        epoch: u32,
        id: EffectId,
        target: Option<NodeIx>,
    },
    /// Bytes reach the end of a stream.
    Arrive { stream: StreamId, bytes: Vec<u8> },
    /// The other side's close reaches this end.
    Hangup { stream: StreamId },
    /// The engine makes a step.
    Step {
        node: NodeIx,
        epoch: u32,
        order: OrderId,
    },
    /// A payment finds its fate.
    Resolve { payer: NodeIx, hash: PaymentHash },
    /// A wallet repeats what was not acknowledged.
    Repeat { node: NodeIx },
    /// An audit question reaches a validator.
    AuditArrives { stream: StreamId, bytes: Vec<u8> },
    /// A relay hands over the listings that it has for a node.
    Listings {
        relay: usize,
        node: NodeIx,
        epoch: u32,
    },
    /// A user wants an answer.
    Want { node: NodeIx, tries: u32 },
    /// A user reacts to a purchase.
    React {
        node: NodeIx,
        epoch: u32,
        request: RequestId,
        action: UserAction,
    },
    /// The fault plan acts.
    Fault(Fault),
    /// A byzantine peer sends an old order again, on a new stream.
    Replay {
        from: NodeIx,
        to: NodeIx,
        bytes: Vec<u8>,
    },
    /// An adversary acts by itself.
    Act { node: NodeIx },
    /// An operator lists anew.
    Announce { node: NodeIx },
    /// The checkers look at what is stored.
    Survey,
    /// People look after channels that have run dry.
    Rebalance,
    /// All faults end.
    Heal,
    /// The books are asked for.
    Audit,
}

/// What a user does about a purchase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserAction {
    /// Agrees to the choice shown.
    Confirm,
    /// Wants no more output.
    Stop,
    /// Ends it.
    Cancel,
}

/// What the fault plan does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Fault {
    /// Some node is to crash soon, between two effects.
    Crash,
    /// The crash comes now, whatever was waited for.
    CrashNow { node: NodeIx, epoch: u32 },
    /// A node starts again.
    Restart { node: NodeIx },
    /// Some node is cut off, in one direction or both.
    Partition,
    /// Some host takes its listing back, or lists again.
    Withdraw,
    /// Some node's wall clock is set, forward or back.
    Clock,
}

struct Entry {
    at: u64,
    sequence: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    // The heap gives the largest: earliest first, then first come.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

/// The queue.
#[derive(Default)]
pub struct Queue {
    heap: BinaryHeap<Entry>,
    sequence: u64,
}

impl Queue {
    /// Schedules an event at a tick (nanoseconds).
    pub fn push(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.heap.push(Entry {
            at,
            sequence: self.sequence,
            event,
        });
    }

    /// Takes the earliest.
    pub fn pop(&mut self) -> Option<(u64, Event)> {
        self.heap.pop().map(|entry| (entry.at, entry.event))
    }

    /// Events handed out numbers so far.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

impl Event {
    /// A number for the trace.
    pub fn code(&self) -> u64 {
        match self {
            Event::Wake { .. } => 1,
            Event::Deliver { .. } => 2,
            Event::Synced { .. } => 3,
            Event::Dialed { .. } => 4,
            Event::Arrive { .. } => 5,
            Event::Hangup { .. } => 6,
            Event::Step { .. } => 7,
            Event::Resolve { .. } => 8,
            Event::Repeat { .. } => 9,
            Event::AuditArrives { .. } => 10,
            Event::Listings { .. } => 11,
            Event::Want { .. } => 12,
            Event::React { .. } => 13,
            Event::Fault(_) => 14,
            Event::Replay { .. } => 15,
            Event::Heal => 16,
            Event::Audit => 17,
            Event::Rebalance => 18,
            Event::Act { .. } => 19,
            Event::Survey => 20,
            Event::Announce { .. } => 21,
        }
    }
}
