//! Turns of the machines: inputs out of mailboxes, effects into lanes, writes and wake-ups.
//!
//! As `actors::driver` does it. What an effect does is in `perform`.

use super::World;
use crate::check::Seen;
use crate::event::{Event, NodeIx};
use crate::node::{AnyEffect, Duty, lane_of};
use protocol::machine::Record;
use protocol::message;
use protocol::message::inference::{Admission, Input as OrderInput};
use protocol::route::{Actor, Delivery};
use protocol::time::Now;

/// The mailbox of `actors::driver`.
const MAILBOX: usize = 16_384;

/// Who put an input into a mailbox: FIFO holds per (sender, receiver).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Via {
    Sibling(Actor),
    Net,
    Wallet,
    Engine,
    Relay,
    User,
    Vocabulary,
}

impl Via {
    fn code(self) -> u8 {
        match self {
            Via::Sibling(actor) => u8::try_from(lane_of(actor)).unwrap_or(0),
            Via::Net => 10,
            Via::Wallet => 11,
            Via::Engine => 12,
            Via::Relay => 13,
            Via::User => 14,
            Via::Vocabulary => 15,
        }
    }
}

impl World {
    /// Puts an input into a mailbox; it comes out in the order of its sender, a little later.
    pub(crate) fn post(&mut self, node: NodeIx, from: Via, delivery: Delivery, after: u64) {
        let jitter = self.dice.between(1_000, 200_000);
        self.post_in(node, from, delivery, after + jitter);
    }

    /// Puts an input into a mailbox after exactly that time.
    pub(crate) fn post_in(&mut self, node: NodeIx, from: Via, delivery: Delivery, after: u64) {
        let to = lane_of(delivery.to());
        let one = &mut self.nodes[node];
        let epoch = one.epoch;
        let last = one
            .fifo
            .entry((from.code(), u8::try_from(to).unwrap_or(0)))
            .or_default();
        let at = (self.now + after).max(*last + 1);
        *last = at;
        one.lanes[to].mail += 1;
        let count = one.lanes[to].mail;
        self.queue.push(
            at,
            Event::Deliver {
                node,
                epoch,
                delivery: Box::new(delivery),
            },
        );
        if count >= MAILBOX / 2 {
            self.see(Seen::Mail { node, count });
        }
    }

    pub(super) fn wake(&mut self, node: NodeIx, epoch: u32, actor: Actor) {
        if !self.is_run(node, epoch)
            || self.nodes[node].lanes[lane_of(actor)].armed != Some(self.now)
        {
            return;
        }
        self.nodes[node].lanes[lane_of(actor)].armed = None;
        let now = self.nodes[node].now(self.now);
        let one = &mut self.nodes[node];
        let Some(machines) = one.machines.as_mut() else {
            return;
        };
        let effects = machines.expire(now, actor);
        self.note(node, actor, now, None, &effects);
        self.after_turn(node, actor, effects);
    }

    pub(super) fn input(&mut self, node: NodeIx, delivery: Delivery) {
        let actor = delivery.to();
        self.nodes[node].lanes[lane_of(actor)].mail = self.nodes[node].lanes[lane_of(actor)]
            .mail
            .saturating_sub(1);
        let Some(mut adversary) = self.nodes[node].adversary.take() else {
            return self.handle(node, delivery);
        };
        let given = adversary.input(&mut self.hand(node), delivery);
        self.nodes[node].adversary = Some(adversary);
        for delivery in given {
            self.handle(node, delivery);
        }
    }

    /// One turn of a machine with an input, and its effects as far as they go.
    pub(super) fn handle(&mut self, node: NodeIx, delivery: Delivery) {
        let actor = delivery.to();
        self.see(Seen::Handed {
            node,
            delivery: &delivery,
        });
        self.turn(node, delivery);
        self.pump(node, actor);
        self.arm(node, actor);
    }

    /// One turn of a machine with an input; its effects wait.
    pub(super) fn turn(&mut self, node: NodeIx, delivery: Delivery) {
        let actor = delivery.to();
        let now = self.nodes[node].now(self.now);
        let plant = self.options.plant;
        let one = &mut self.nodes[node];
        let (inputs, mut extra) = crate::plant::inputs(plant, &mut one.bug, delivery);
        let Some(machines) = one.machines.as_mut() else {
            return;
        };
        let mut effects = Vec::new();
        if let Some(delivery) = inputs {
            let noted = self.recorder.as_ref().map(|_| delivery.clone());
            effects = machines.handle(now, delivery);
            self.note(node, actor, now, noted, &effects);
        }
        effects.append(&mut extra);
        self.queue_effects(node, actor, effects);
    }

    /// Listings out of a relay: a turn for each, and then their effects.
    pub(super) fn list(&mut self, node: NodeIx, listings: impl Iterator<Item = Delivery>) {
        if self.nodes[node].adversary.is_some() || self.options.plant.is_some() {
            for delivery in listings {
                self.nodes[node].lanes[lane_of(Actor::Discovery)].mail += 1;
                self.input(node, delivery);
            }
            return;
        }
        let now = self.nodes[node].now(self.now);
        let (mut records, mut effects) = (Vec::new(), Vec::new());
        for delivery in listings {
            let noted = self.recorder.as_ref().map(|_| delivery.clone());
            let Some(machines) = self.nodes[node].machines.as_mut() else {
                return;
            };
            let made = machines.handle(now, delivery);
            self.note(node, Actor::Discovery, now, noted, &made);
            for effect in made {
                match effect {
                    AnyEffect::Discovery(message::discovery::Effect::Persist(more)) => {
                        records.extend(more);
                    }
                    other => effects.push(other),
                }
            }
        }
        if !records.is_empty() {
            let write = message::discovery::Effect::Persist(records);
            effects.insert(0, AnyEffect::Discovery(write));
        }
        self.after_turn(node, Actor::Discovery, effects);
    }

    pub(super) fn note(
        &mut self,
        node: NodeIx,
        actor: Actor,
        now: Now,
        input: Option<Delivery>,
        effects: &[AnyEffect],
    ) {
        if let Some(recorder) = &mut self.recorder {
            recorder.turn(node, actor, now, input, effects);
        }
    }

    pub(super) fn after_turn(&mut self, node: NodeIx, actor: Actor, effects: Vec<AnyEffect>) {
        self.queue_effects(node, actor, effects);
        self.pump(node, actor);
        self.arm(node, actor);
    }

    /// Puts the effects of a turn behind those that wait.
    pub(super) fn queue_effects(&mut self, node: NodeIx, actor: Actor, effects: Vec<AnyEffect>) {
        let plant = self.options.plant;
        let one = &mut self.nodes[node];
        let wall = one.now(self.now).wall;
        let mut effects = match plant {
            None => effects,
            Some(plant) => {
                let crypto = one.crypto();
                crate::plant::effects(plant, &mut one.bug, &crypto, effects)
            }
        };
        crate::world::faults::apply_peer_fault(&self.nodes[node], &mut effects);
        let effects = match self.nodes[node].adversary.take() {
            None => effects,
            Some(mut adversary) => {
                let mut hand = self.hand(node);
                let effects = effects
                    .into_iter()
                    .flat_map(|effect| adversary.effect(&mut hand, effect))
                    .collect();
                self.nodes[node].adversary = Some(adversary);
                effects
            }
        };
        self.trace
            .numbers(&[node as u64, lane_of(actor) as u64, effects.len() as u64]);
        for effect in effects.iter().filter(|effect| !effect.lists()) {
            self.checkers
                .see(self.now, Seen::Emitted { node, wall, effect });
        }
        self.nodes[node].lanes[lane_of(actor)]
            .pending
            .extend(effects);
    }

    /// Carries out effects in order; a write holds back the rest.
    pub(super) fn pump(&mut self, node: NodeIx, actor: Actor) {
        let lane = lane_of(actor);
        loop {
            let one = &mut self.nodes[node];
            if one.machines.is_none() || one.lanes[lane].syncing.is_some() {
                return;
            }
            if one.lanes[lane].pending.is_empty() {
                return;
            }
            if let Some(left) = one.cut.as_mut() {
                if *left == 0 {
                    self.crash(node);
                    continue;
                }
                *left -= 1;
            }
            let Some(effect) = one.lanes[lane].pending.pop_front() else {
                return;
            };
            if !effect.lists() {
                let wall = one.now(self.now).wall;
                let effect = &effect;
                self.checkers
                    .see(self.now, Seen::Performed { node, wall, effect });
            }
            match effect.duty() {
                Duty::Write(records) => return self.write(node, actor, records),
                Duty::Tell(message) => {
                    // A full mailbox among siblings stops the node; an adversary's has room.
                    if self.dice.chance(self.plan.full_ppm) && self.crash(node) {
                        return;
                    }
                    let delivery = protocol::route::deliver(*message);
                    self.post(node, Via::Sibling(actor), delivery, 0);
                }
                Duty::Perform(effect) => self.perform(node, effect),
            }
        }
    }

    /// Begins a write. Listings that wait behind others go to disk together with them.
    pub(super) fn write(&mut self, node: NodeIx, actor: Actor, mut records: Vec<Record>) {
        let plant = self.options.plant;
        let one = &mut self.nodes[node];
        let lane = &mut one.lanes[lane_of(actor)];
        while actor == Actor::Discovery
            && one.cut.is_none()
            && lane.pending.front().is_some_and(AnyEffect::lists)
            && let Some(next) = lane.pending.pop_front()
        {
            if let Duty::Write(more) = next.duty() {
                records.extend(more);
            }
        }
        self.trace.records(&records);
        lane.syncing = Some(crate::plant::synced(plant, &mut one.bug, records));
        let epoch = one.epoch;
        let at = self.now + self.dice.ms(0, self.plan.sync_ms) + 50_000;
        self.queue.push(at, Event::Synced { node, epoch, actor });
    }

    pub(super) fn synced(&mut self, node: NodeIx, epoch: u32, actor: Actor) {
        if !self.is_run(node, epoch) {
            return;
        }
        let one = &mut self.nodes[node];
        if let Some(records) = one.lanes[lane_of(actor)].syncing.take() {
            one.store.sync(records);
        }
        self.pump(node, actor);
        self.arm(node, actor);
    }

    pub(super) fn arm(&mut self, node: NodeIx, actor: Actor) {
        let now = self.now;
        let one = &mut self.nodes[node];
        let Some(machines) = &one.machines else {
            return;
        };
        let Some(due) = machines.deadline(actor) else {
            return;
        };
        let at = one.booted.saturating_add(due.0).max(now + 1);
        let epoch = one.epoch;
        let lane = &mut one.lanes[lane_of(actor)];
        if lane.armed.is_none_or(|armed| armed > at) {
            lane.armed = Some(at);
            self.queue.push(at, Event::Wake { node, epoch, actor });
        }
    }

    /// Starts a node: machines from disk, relays from their beginning, wallet events again.
    pub(crate) fn start(&mut self, node: NodeIx) {
        if self.up(node) || self.nodes[node].dead {
            return;
        }
        let seeds = [
            self.dice.bytes(),
            self.dice.bytes(),
            self.dice.bytes(),
            self.dice.bytes(),
        ];
        let plant = self.options.plant;
        self.nodes[node].boot(self.now, seeds, plant);
        if let Some(recorder) = self.recorder.as_mut().filter(|r| r.node() == node) {
            let now = self.nodes[node].now(self.now);
            recorder.start(now, self.nodes[node].assemble(now, seeds, plant));
        }
        for actor in Actor::ALL {
            let now = self.nodes[node].now(self.now);
            let effects = match self.nodes[node].machines.as_mut() {
                Some(machines) => machines.start(now, actor),
                None => return,
            };
            self.note(node, actor, now, None, &effects);
            self.after_turn(node, actor, effects);
            if !self.up(node) {
                return;
            }
        }
        self.serve(node);
        self.post(
            node,
            Via::User,
            Delivery::Inference(OrderInput::Admit(Admission::Open)),
            0,
        );
        self.announce(node);
        self.subscribe(node);
        self.repeat(node);
        self.replay_at_restart(node);
    }
}
