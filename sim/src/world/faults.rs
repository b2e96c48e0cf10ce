//! The fault plan at work: crashes, partitions, withdrawals, peer faults, and the end of them all.

use super::{ASK_AGAIN_MS, Via, World};
use crate::check::Seen;
use crate::crypto::SimCrypto;
use crate::dice::MS;
use crate::event::{Event, Fault, NodeIx};
use crate::faults::{PeerFault, Plan};
use crate::node::{AnyEffect, NETWORK, Node, lane_of};
use crate::profile::QUANTUM;
use crate::users::End;
use protocol::crypto::Crypto;
use protocol::ids::{RequestId, StreamId};
use protocol::message::discovery::Input as ListInput;
use protocol::message::inference::{Effect, Input as OrderInput};
use protocol::message::sibling::Message;
use protocol::route::{Actor, Delivery};
use protocol::wire::envelope::{Body, Signed};
use protocol::wire::order::{Frame, Invoice, Terms};

/// One node in so many may stay away for ever: in a long run all would, and the market with them.
const MOST_DEAD: usize = 10;
/// How far a clock jumps, at most, one as often as the other. Milliseconds. The last is a day.
const JUMPS_MS: [u64; 4] = [2_000, 60_000, 400_000, 86_400_000];
/// Orders that replaying peers remember.
const REMEMBERED: usize = 200;

impl World {
    pub(super) fn schedule_faults(&mut self) {
        let plan = self.plan.clone();
        for (every, fault) in [
            (plan.crash_ms, Fault::Crash),
            (plan.partition_ms, Fault::Partition),
            (plan.withdraw_ms, Fault::Withdraw),
            (self.profile.jump_ms, Fault::Clock),
        ] {
            if let Some(every) = every {
                let at = self.now + 60_000 * MS + self.dice.pause(every);
                self.queue.push(at, Event::Fault(fault));
            }
        }
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        let again = match fault {
            Fault::Crash => self.plan.crash_ms,
            Fault::Partition => self.plan.partition_ms,
            Fault::Withdraw => self.plan.withdraw_ms,
            Fault::Clock => self.profile.jump_ms,
            Fault::CrashNow { node, epoch } => {
                if self.is_run(node, epoch) && self.nodes[node].cut.is_some() {
                    self.crash(node);
                }
                None
            }
            Fault::Restart { node } => {
                self.start(node);
                None
            }
        };
        let Some(every) = again.filter(|_| !self.healed) else {
            return;
        };
        let at = self.now + self.dice.pause(every);
        self.queue.push(at, Event::Fault(fault));
        let node = self.dice.below(self.nodes.len());
        match fault {
            Fault::Crash if self.up(node) => {
                // Between any two effects, soon; a node at rest crashes at rest.
                let left = u32::try_from(self.dice.between(0, 12)).unwrap_or(0);
                self.nodes[node].cut = Some(left);
                let (at, epoch) = (self.now + self.dice.ms(100, 20_000), self.nodes[node].epoch);
                self.queue
                    .push(at, Event::Fault(Fault::CrashNow { node, epoch }));
            }
            Fault::Partition => self.partition(node),
            Fault::Withdraw => self.withdraw(node),
            Fault::Clock => self.set_clock(node),
            _ => {}
        }
    }

    fn partition(&mut self, node: NodeIx) {
        self.see(Seen::CutOff { node });
        let until = self.now + self.dice.ms(1_000, 150_000);
        let which = self.dice.below(3);
        if which != 0 {
            self.net.cuts.insert((node, true), until);
        }
        if which != 1 {
            self.net.cuts.insert((node, false), until);
        }
    }

    /// Somebody or something sets a node's clock, wrongly.
    fn set_clock(&mut self, node: NodeIx) {
        let jump = JUMPS_MS[self.dice.below(JUMPS_MS.len())];
        let by = i64::try_from(self.dice.between(1, jump)).unwrap_or(0);
        let back = self.dice.chance(500_000);
        let by_ms = if back { -by } else { by };
        self.nodes[node].participant.skew_ms += by_ms;
        self.see(Seen::ClockSet { node, by_ms });
    }

    fn withdraw(&mut self, node: NodeIx) {
        if !self.up(node) || node < 4 {
            return;
        }
        self.nodes[node].withdrawn ^= true;
        if self.nodes[node].withdrawn {
            self.post(node, Via::User, Delivery::Discovery(ListInput::Withdraw), 0);
        } else {
            self.announce(node);
        }
    }

    /// The process is gone: memory, mailboxes, streams, and writes that were not durable.
    /// Returns whether it is: nothing that a node had begun is lost while it lives on.
    pub(crate) fn crash(&mut self, node: NodeIx) -> bool {
        if !self.up(node) {
            return false;
        }
        let participant = &self.nodes[node].participant;
        if participant.strategy.is_some() && !participant.honest() {
            // An adversary looks after its machine.
            self.nodes[node].cut = None;
            return false;
        }
        self.tally.crashes += 1;
        self.trace.numbers(&[node as u64]);
        for actor in Actor::ALL {
            let written = self.dice.chance(500_000);
            let one = &mut self.nodes[node];
            // A write under way may or may not have reached the disk.
            if let Some(records) = one.lanes[lane_of(actor)].syncing.take()
                && written
            {
                one.store.sync(records);
            }
        }
        crate::plant::crashed(self.options.plant, &mut self.nodes[node]);
        self.nodes[node].machines = None;
        self.nodes[node].lanes = Default::default();
        self.nodes[node].engine = Default::default();
        self.nodes[node].cut = None;
        self.see(Seen::Crashed { node });
        self.drop_streams(node);
        let open: Vec<_> = self
            .purchases
            .range((node, RequestId(0))..=(node, RequestId(u64::MAX)))
            .filter(|(_, purchase)| purchase.end.is_none())
            .map(|((_, request), _)| *request)
            .collect();
        for request in open {
            self.ended(node, request, End::Crashed, "crashed");
        }
        let dead = self.nodes.iter().filter(|node| node.dead).count();
        let may_die = node >= 4 && dead * MOST_DEAD < self.nodes.len();
        // Drawn in any case: what comes after does not depend on who may die.
        if self.dice.chance(self.plan.dead_ppm) && may_die {
            self.nodes[node].dead = true;
        } else {
            let at = self.now + self.dice.ms(500, 90_000);
            self.queue.push(at, Event::Fault(Fault::Restart { node }));
        }
        true
    }

    fn drop_streams(&mut self, node: NodeIx) {
        let ours: Vec<(StreamId, StreamId)> = self
            .net
            .ends
            .iter()
            .filter(|(_, end)| end.node == node && !end.closed)
            .map(|(id, end)| (*id, end.peer))
            .collect();
        for (id, peer) in ours {
            if let Some(end) = self.net.ends.get_mut(&id) {
                end.closed = true;
                end.reading = false;
            }
            // A dead process closes its sockets at once; a dead machine is missed later.
            let soon = self.dice.chance(700_000);
            let wait = if soon {
                self.latency()
            } else {
                self.dice.ms(10_000, 60_000)
            };
            self.queue
                .push(self.now + wait, Event::Hangup { stream: peer });
        }
    }

    /// All faults end; byzantine nodes leave; the rest is whole again.
    pub(super) fn heal(&mut self) {
        self.healed = true;
        self.plan = Plan::none();
        self.net.cuts.clear();
        for node in 0..self.nodes.len() {
            if self.nodes[node].participant.peer_fault != PeerFault::None {
                self.crash(node);
                self.nodes[node].dead = true;
                continue;
            }
            self.nodes[node].cut = None;
            // Somebody sets the clock: wall time jumps.
            let by_ms = -std::mem::take(&mut self.nodes[node].participant.skew_ms);
            self.nodes[node].participant.drift_ppm = 0;
            self.see(Seen::ClockSet { node, by_ms });
            if self.nodes[node].withdrawn && self.up(node) {
                self.nodes[node].withdrawn = false;
                self.announce(node);
            }
            self.nodes[node].withdrawn = false;
            if self.up(node) {
                self.subscribe(node);
                // The owner starts the listing again, as after a change of the settings.
                self.announce(node);
            } else {
                let at = self.now + self.dice.ms(100, 5_000);
                self.queue.push(at, Event::Fault(Fault::Restart { node }));
            }
            let at = self.now + ASK_AGAIN_MS * MS + self.dice.ms(0, 120_000);
            self.queue.push(at, Event::Want { node, tries: 1 });
        }
    }

    /// What a byzantine node puts on the wire in place of a frame.
    pub(super) fn altered(&mut self, node: NodeIx, bytes: Vec<u8>) -> Vec<Vec<u8>> {
        if self.healed {
            return vec![bytes];
        }
        match self.nodes[node].participant.peer_fault {
            PeerFault::MutatesFrames if self.dice.chance(50_000) => {
                let mut bytes = bytes;
                let at = self.dice.below(bytes.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << self.dice.below(8);
                }
                vec![bytes]
            }
            PeerFault::WithholdsFrames if self.dice.chance(50_000) => Vec::new(),
            PeerFault::ReplaysOrders if self.dice.chance(50_000) => vec![bytes.clone(), bytes],
            _ => vec![bytes],
        }
    }

    /// A replaying buyer keeps its orders, to send them again on new streams.
    pub(super) fn remember_order(&mut self, from: NodeIx, to: NodeIx, bytes: &[u8]) {
        if self.nodes[from].participant.peer_fault != PeerFault::ReplaysOrders || self.healed {
            return;
        }
        self.orders_seen.push((self.now, from, to, bytes.to_vec()));
        if self.orders_seen.len() > REMEMBERED {
            self.orders_seen.remove(0);
        }
        for _ in 0..4 {
            let at = self.now + self.dice.ms(1_000, 280_000);
            self.queue.push(
                at,
                Event::Replay {
                    from,
                    to,
                    bytes: bytes.to_vec(),
                },
            );
        }
    }

    /// A host that just restarted is tried with the orders of before.
    pub(super) fn replay_at_restart(&mut self, to: NodeIx) {
        let recent = self.now.saturating_sub(240_000 * MS);
        let again: Vec<_> = self
            .orders_seen
            .iter()
            .filter(|(at, _, host, _)| *host == to && *at > recent)
            .map(|(_, from, _, bytes)| (*from, bytes.clone()))
            .collect();
        for (from, bytes) in again {
            let at = self.now + self.dice.ms(500, 5_000);
            self.queue.push(at, Event::Replay { from, to, bytes });
        }
    }

    pub(super) fn replay_order(&mut self, from: NodeIx, to: NodeIx, bytes: Vec<u8>) {
        if self.healed
            || !self.up(from)
            || !self.up(to)
            || self.net.blocked(from, to, self.now).is_some()
        {
            return;
        }
        let caller = self.nodes[from].participant.caller;
        let (from_epoch, to_epoch) = (self.nodes[from].epoch, self.nodes[to].epoch);
        let (ours, theirs) = self.net.connect((from, from_epoch), (to, to_epoch));
        self.post(
            to,
            Via::Net,
            Delivery::Inference(OrderInput::Inbound {
                stream: theirs,
                caller,
            }),
            0,
        );
        self.send_bytes(ours, bytes);
    }
}

/// What a dishonest host signs in place of what its machine meant.
pub(super) fn apply_peer_fault(node: &Node, effects: &mut [AnyEffect]) {
    let alter: fn(&Node, &mut Effect) = match node.participant.peer_fault {
        PeerFault::DoublesInvoices => double_invoices,
        PeerFault::RaisesPrices => raise_prices,
        PeerFault::InventsDebt => invent_debt,
        _ => return,
    };
    for effect in effects {
        if let AnyEffect::Inference(effect) = effect {
            alter(node, effect);
        }
    }
}

/// Signs the altered body anew; what `crypto` did not sign stays.
pub(crate) fn resign<T: Body>(
    crypto: &SimCrypto,
    signed: &mut Signed,
    change: impl FnOnce(&mut T),
) {
    let Ok(mut opened) = signed.open_public::<T>(crypto as &dyn Crypto, NETWORK) else {
        return;
    };
    change(&mut opened.body);
    let envelope = opened.envelope;
    *signed = Signed::seal(
        crypto,
        NETWORK,
        envelope.to,
        envelope.time,
        envelope.nonce,
        &opened.body,
    );
}

fn double_invoices(node: &Node, effect: &mut Effect) {
    match effect {
        Effect::Tell(Message::MakeInvoice { seq, msat, .. }) if *seq > 0 => msat.0 *= 2,
        Effect::Send { frame, .. } => {
            if let Frame::Invoice(signed) = frame.as_mut() {
                resign(&node.crypto(), signed, |invoice: &mut Invoice| {
                    invoice.invoiced.0 += invoice.msat.0;
                    invoice.msat.0 *= 2;
                });
            }
        }
        _ => {}
    }
}

fn raise_prices(node: &Node, effect: &mut Effect) {
    if let Effect::Send { frame, .. } = effect
        && let Frame::Terms(signed) = frame.as_mut()
    {
        resign(&node.crypto(), signed, |terms: &mut Terms| {
            for price in &mut terms.prices.0 {
                price.msat_per_million *= 2;
            }
        });
    }
}

/// One step of debt more than there is, in the entry payment and in the terms that explain it.
fn invent_debt(node: &Node, effect: &mut Effect) {
    match effect {
        Effect::Tell(Message::MakeInvoice { seq: 0, msat, .. }) => msat.0 += QUANTUM,
        Effect::Send { frame, .. } => {
            if let Frame::Terms(signed) = frame.as_mut() {
                resign(&node.crypto(), signed, |terms: &mut Terms| {
                    if let Some(entry) = &mut terms.entry {
                        entry.msat.0 += QUANTUM;
                        terms.carried_debt.0 += QUANTUM;
                    }
                });
            }
        }
        _ => {}
    }
}
