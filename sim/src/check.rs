//! The checkers: what must never happen, and what must happen in the end.
//!
//! They share no code with the machines that they judge. They watch inputs,
//! effects, frames on the wire and the wallet network, and keep books of their
//! own; amounts are computed here again, from the listed prices.

pub mod accounts;
pub mod books;
pub mod bounds;
pub mod budgets;
pub mod callers;
pub mod caps;
pub mod choice;
pub mod customers;
pub mod debts;
pub mod index;
pub mod liveness;
pub mod loss;
pub mod market;
pub mod payments;
pub mod prepaid;
pub mod replays;
pub mod sats;
pub mod served;
pub mod strangers;
pub mod text;
pub mod theft;
pub mod verdicts;
pub mod window;

use crate::event::NodeIx;
use crate::node::{AnyEffect, Participant};
use crate::store::Store;
use crate::users::Purchase;
use crate::wallet::Wallet;
use index::Index;
use protocol::ids::{ModelDigest, NodeKey, OrderId, PaymentHash, RequestId, StreamId};
use protocol::message::inference::BuyRequest;
use protocol::message::payment::{LedgerEntry, Report};
use protocol::route::Delivery;
use protocol::time::WallTime;
use protocol::wire::order::Frame;
use std::collections::BTreeMap;

/// Something that a checker may see.
#[allow(missing_docs)] // the fields are named for what they are
pub enum Seen<'a> {
    /// A machine is about to get an input.
    Handed {
        node: NodeIx,
        delivery: &'a Delivery,
    },
    /// An effect left a machine (and may never be carried out).
    Emitted {
        node: NodeIx,
        wall: WallTime,
        effect: &'a AnyEffect,
    },
    /// An effect is being carried out.
    Performed {
        node: NodeIx,
        wall: WallTime,
        effect: &'a AnyEffect,
    },
    /// A frame left an end of a stream, as the machine meant it.
    Sent {
        from: NodeIx,
        to: NodeIx,
        stream: StreamId,
        frame: &'a Frame,
    },
    /// A frame reached a machine, as it came.
    Arrived {
        from: NodeIx,
        to: NodeIx,
        stream: StreamId,
        peer: StreamId,
        frame: &'a Frame,
    },
    /// A payment moved.
    Settled {
        payer: NodeIx,
        payee: NodeIx,
        hash: PaymentHash,
        msat: u64,
        fee: u64,
    },
    /// A payment will never move.
    PayFailed { payer: NodeIx, hash: PaymentHash },
    /// The wallet network's sum.
    Total { now: u64, before: u64 },
    /// A node went down.
    Crashed { node: NodeIx },
    /// An engine holds this many generations of a model.
    Running {
        node: NodeIx,
        model: ModelDigest,
        count: usize,
    },
    /// A mailbox holds this many inputs.
    Mail { node: NodeIx, count: usize },
    /// A host's engine will lie from a position on.
    Lies { order: OrderId, from: u64 },
    /// A host's wrapper shows other text than the tokens of an order say.
    Forged { order: OrderId },
    /// A host's wrapper ends an order's answer before the model does.
    Cut { order: OrderId },
    /// A stream broke, or its bytes are late: whatever it carried is excused.
    Broken { stream: StreamId },
    /// A node is cut off for a while: whatever it was about is excused.
    CutOff { node: NodeIx },
    /// A node's wall clock was set.
    ClockSet { node: NodeIx, by_ms: i64 },
    /// An honest host changed what it lists.
    Changed {
        node: NodeIx,
        participant: &'a Participant,
    },
    /// Somebody is about to ask for an answer.
    Wished { node: NodeIx, wish: &'a BuyRequest },
    /// From time to time: a node's disk, and its invoices that could be paid.
    Stored {
        node: NodeIx,
        store: &'a Store,
        invoices: usize,
    },
    /// A listing was published with this life.
    Listed { author: NodeKey, expires: WallTime },
    /// At the end: a node's books, in memory and on disk, and its wallet.
    Books {
        node: NodeIx,
        report: &'a Report,
        stored: &'a [LedgerEntry],
        wallet: &'a Wallet,
    },
    /// At the end: the hosts that a node lists, in the order of their keys.
    Knows {
        node: NodeIx,
        wall: WallTime,
        hosts: &'a [NodeKey],
        expected: &'a [NodeKey],
        shunned: &'a [NodeKey],
    },
    /// At the end: a purchase.
    Bought {
        node: NodeIx,
        request: RequestId,
        purchase: &'a Purchase,
    },
    /// At the end: whether a node alive and solvent got an answer after healing.
    Served {
        node: NodeIx,
        answered: bool,
        why: &'a str,
    },
}

/// What is known of everybody, and of every order.
pub struct Facts {
    /// World time. Milliseconds.
    pub now_ms: u64,
    /// By node.
    pub participants: Vec<Participant>,
    /// Orders, hashes, streams.
    pub index: Index,
    keys: BTreeMap<NodeKey, NodeIx>,
}

impl Facts {
    /// Whose node key it is.
    pub fn by_key(&self, key: &NodeKey) -> Option<NodeIx> {
        self.keys.get(key).copied()
    }
}

/// One rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    /// Which checker.
    pub checker: &'static str,
    /// World time. Milliseconds.
    pub at_ms: u64,
    /// What happened.
    pub what: String,
}

/// A checker of one rule.
pub trait Checker {
    /// Its name in the verdict.
    fn name(&self) -> &'static str;
    /// Sees something; says what is wrong with it.
    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String>;
}

/// All checkers.
pub struct Checkers {
    facts: Facts,
    checkers: Vec<Box<dyn Checker>>,
    /// What was found; bounded, the first are the telling ones.
    pub violations: Vec<Violation>,
}

/// Violations kept of each checker.
const MOST: usize = 8;

impl Checkers {
    /// All of them, over these participants.
    pub fn new(participants: Vec<Participant>) -> Self {
        let checkers: Vec<Box<dyn Checker>> = vec![
            Box::new(sats::Sats),
            Box::new(prepaid::Prepaid::default()),
            Box::new(window::Window),
            Box::new(payments::Once::default()),
            Box::new(payments::Unknown::default()),
            Box::new(replays::Replays::default()),
            Box::new(verdicts::Verdicts::default()),
            Box::new(verdicts::Blame),
            Box::new(budgets::Budgets::default()),
            Box::new(bounds::Bounds),
            Box::new(books::Books),
            Box::new(market::Ghosts::default()),
            Box::new(market::Converges),
            Box::new(liveness::Ends),
            Box::new(liveness::Answers::default()),
            Box::new(loss::Loss),
            Box::new(debts::Debts),
            Box::new(caps::Caps),
            Box::new(served::PaidServed::default()),
            Box::new(theft::Theft::default()),
            Box::new(theft::Counted::default()),
            Box::new(strangers::Strangers::default()),
            Box::new(text::Shown::default()),
            Box::new(text::Bounded::default()),
            Box::new(choice::Wishes::default()),
            Box::new(choice::Shunned::default()),
            Box::new(customers::Customers::default()),
            Box::new(accounts::Accounts),
        ];
        let mut index = Index::default();
        for (node, participant) in participants.iter().enumerate() {
            index.list(node, participant);
        }
        let keys = participants.iter().enumerate();
        Checkers {
            facts: Facts {
                now_ms: 0,
                keys: keys
                    .map(|(node, participant)| (participant.key, node))
                    .collect(),
                participants,
                index,
            },
            checkers,
            violations: Vec::new(),
        }
    }

    /// Shows something to every one.
    pub fn see(&mut self, world: u64, seen: Seen<'_>) {
        self.facts.now_ms = world / crate::dice::MS;
        if let Seen::Changed { node, participant } = &seen
            && let Some(known) = self.facts.participants.get_mut(*node)
        {
            *known = Participant::clone(participant);
            self.facts.index.list(*node, participant);
        }
        self.facts.index.see(self.facts.now_ms, &seen);
        for checker in &mut self.checkers {
            if let Some(what) = checker.see(&self.facts, &seen) {
                let name = checker.name();
                let found = self.violations.iter().filter(|one| one.checker == name);
                if found.count() >= MOST {
                    continue;
                }
                let at_ms = world / crate::dice::MS;
                self.violations.push(Violation {
                    checker: checker.name(),
                    at_ms,
                    what,
                });
            }
        }
    }

    /// Every checker and how many violations it found.
    pub fn verdicts(&self) -> Vec<(&'static str, usize)> {
        self.checkers
            .iter()
            .map(|checker| {
                let found = self
                    .violations
                    .iter()
                    .filter(|one| one.checker == checker.name());
                (checker.name(), found.count())
            })
            .collect()
    }
}
