//! The world: nodes, one queue, one clock that jumps to the next event.
//!
//! Two phases: in the first the fault plan works and the rules of safety are
//! watched; then all faults end, byzantine nodes leave, and everybody honest
//! must be served, and all books must agree.
//!
//! The files beside this one carry out effects (`perform`), move bytes (`wire`),
//! pay (`money`), and break things (`faults`).

mod faults;
mod money;
mod perform;
mod wire;

pub(crate) use faults::{resign, resign_with};

use crate::adversary::{Adversary, Choice, Hand, Strategy};
use crate::check::{Checkers, Seen, Violation};
use crate::dice::{Dice, MS};
use crate::event::{Event, Fault, NodeIx, Queue, UserAction};
use crate::faults::Plan;
use crate::net::Net;
use crate::node::{AnyEffect, Duty, Node, RICH, lane_of};
use crate::plant::Plant;
use crate::profile::Profile;
use crate::record::{Life, Recorder};
use crate::relay::{Relay, relays_for, share_relay};
use crate::trace::Trace;
use crate::users::{self, End, Purchase};
use crate::wallet::Wallets;
use protocol::ids::{Caller, EffectId, ModelDigest, NodeKey, PaymentHash, RequestId, StreamId};
use protocol::limits::{FIRST_TOKEN_MS, MAX_CANDIDATES};
use protocol::machine::Record;
use protocol::message;
use protocol::message::inference::{Admission, Input as OrderInput};
use protocol::message::sibling::Actor;
use protocol::refusal::Code;
use protocol::route::Delivery;
use protocol::time::Now;
use protocol::wire::manifest::PaymentMode;
use std::collections::{BTreeMap, BTreeSet};

/// Length of the healed phase. Milliseconds. Longer than an invoice's life with its grace, and
/// than a listing's.
const HEALED_MS: u64 = 25 * 60_000;
/// When people ask again in the healed phase, after its begin. Milliseconds.
const ASK_AGAIN_MS: u64 = 6 * 60_000;
/// How often people look after their channels. Milliseconds.
const REBALANCE_MS: u64 = 3_600_000;
/// Attempts of one wish in the healed phase, and the least time that is left for one: a buyer
/// that is told to wait and then gets nothing is patient for seven minutes. Each host of an
/// adversary may take one more. Milliseconds.
const HEALED_TRIES: usize = 6;
/// Attempts behind them, a minute or two apart: hosts list again within ten minutes, and a node
/// whose clock was wrong learns of them no sooner.
const LATER_TRIES: u32 = 8;
/// Listings of adversaries for which one more attempt is made: an attempt of a node that knows
/// nobody tries as many of them at least before it ends.
const LISTED_PER_TRY: usize = MAX_CANDIDATES / 2;
const TRY_MS: u64 = FIRST_TOKEN_MS + 2 * 120_000;
/// How often the checkers look at what is stored. Milliseconds.
const SURVEY_MS: u64 = 300_000;
/// Seeds that are storms anyway. Per million: they take ten times as long.
const STORM_PPM: u32 = 40_000;
/// How many times the people of a storm buy.
const STORM: u64 = 10;
/// Msat in an adversary's channel, either way: it does not run dry.
const DEEP: u64 = 500_000_000;
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

/// What to simulate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The seed.
    pub seed: u64,
    /// Nodes.
    pub nodes: usize,
    /// Length of the faulty phase. Milliseconds.
    pub safety_ms: u64,
    /// Purchases that one node begins in an hour, on average.
    pub purchases_per_hour: u64,
    /// A bug to plant.
    pub plant: Option<Plant>,
    /// Sign with BIP340.
    pub real_crypto: bool,
    /// Who attacks.
    pub adversaries: Choice,
    /// Ten times the people and two hosts, in every seed.
    pub storm: bool,
    /// Relays, at least three; `None`: as many as suit the nodes.
    pub relays: Option<usize>,
}

impl Options {
    /// Fifty nodes, one hour, four purchases per node and hour.
    pub fn new(seed: u64) -> Self {
        Options {
            seed,
            nodes: 50,
            safety_ms: 3_600_000,
            purchases_per_hour: 4,
            plant: None,
            real_crypto: false,
            adversaries: Choice::default(),
            storm: false,
            relays: None,
        }
    }
}

/// What happened, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// Events.
    pub events: u64,
    /// Purchases begun.
    pub purchases: u64,
    /// Ended with a receipt.
    pub finished: u64,
    /// The same by how they were paid.
    pub modes: BTreeMap<PaymentMode, u64>,
    /// Ended with a refusal.
    pub failed: u64,
    /// Payments settled.
    pub payments: u64,
    /// Crashes.
    pub crashes: u64,
    /// Answers replayed by validators.
    pub replays: u64,
    /// Verdicts that convict.
    pub convictions: u64,
    /// Refusals by code.
    pub refusals: BTreeMap<String, u64>,
}

/// A question put to a validator.
#[derive(Debug)]
struct Question {
    asker: NodeIx,
    caller: Caller,
    epoch: u32,
    id: EffectId,
    server: NodeIx,
    server_epoch: u32,
}

/// The world.
pub struct World {
    pub(crate) options: Options,
    pub(crate) now: u64,
    pub(crate) queue: Queue,
    pub(crate) dice: Dice,
    pub(crate) plan: Plan,
    pub(crate) profile: Profile,
    pub(crate) healed: bool,
    pub(crate) nodes: Vec<Node>,
    pub(crate) net: Net,
    pub(crate) wallets: Wallets,
    pub(crate) relays: Vec<Relay>,
    pub(crate) followers: BTreeMap<ModelDigest, BTreeSet<NodeIx>>,
    questions: BTreeMap<StreamId, Question>,
    pub(crate) purchases: BTreeMap<(NodeIx, RequestId), Purchase>,
    next_request: u64,
    /// The host that served each node last.
    served_by: BTreeMap<NodeIx, NodeKey>,
    answered: BTreeMap<NodeIx, Result<(), String>>,
    /// Streams that an adversary holds in place of its machines.
    pub(crate) raw: BTreeSet<StreamId>,
    /// Payments that an adversary made in place of its machines.
    pub(crate) own_payments: BTreeSet<PaymentHash>,
    /// Vocabularies that nodes fetched, and from when on they are there.
    pub(crate) vocabularies: BTreeMap<(NodeIx, ModelDigest), u64>,
    strategies: Vec<Strategy>,
    /// Most attempts of one wish in the healed phase.
    healed_tries: u32,
    orders_seen: Vec<(u64, NodeIx, NodeIx, Vec<u8>)>,
    checkers: Checkers,
    pub(crate) trace: Trace,
    /// Numbers of the run.
    pub tally: Tally,
    total: u64,
    recorder: Option<Recorder>,
}

impl World {
    /// Builds the world of a seed; nothing has happened yet.
    pub fn new(options: Options) -> Self {
        let mut dice = Dice::new(options.seed);
        let plan = Plan::draw(&mut dice, options.nodes);
        let storm = dice.chance(STORM_PPM) || options.storm;
        let profile = Profile::draw(&mut dice, options.nodes, storm);
        let mut strategies = options.adversaries.draw(&mut dice);
        strategies.extend(crate::plant::strategy(options.plant));
        let mut nodes: Vec<Node> = (0..options.nodes)
            .map(|index| {
                let signs = options.real_crypto;
                let attackers = (&strategies[..], crate::plant::peer_fault(options.plant));
                Node::draw(index, &mut dice, &plan, &profile, attackers, signs)
            })
            .collect();
        crate::callers::draw(options.seed, &mut nodes);
        let mut wallets = Wallets::default();
        for node in &nodes {
            let (local, remote) = (dice.between(500, 5_000), dice.between(2_000, 20_000));
            let (local, remote) = match node.participant.strategy {
                Some(_) => (DEEP, DEEP),
                None => (local * 1_000, remote * 1_000),
            };
            wallets.open(local, remote, node.participant.base_fee);
        }
        let participants = nodes.iter().map(|node| node.participant.clone()).collect();
        let adversaries = nodes.iter().filter_map(|node| node.adversary.as_ref());
        let listed: usize = adversaries.map(|adversary| adversary.listed()).sum();
        let takes = |strategy: Strategy| strategy.sells() && !strategy.is_honest();
        let takers = nodes.iter().filter_map(|node| node.participant.strategy);
        let takers = takers.filter(|strategy| takes(*strategy)).count();
        let healed_tries = u32::try_from(HEALED_TRIES + listed / LISTED_PER_TRY + takers);
        let relays = options.relays.unwrap_or(relays_for(options.nodes));
        let mut world = World {
            now: 0,
            queue: Queue::default(),
            dice,
            plan,
            profile,
            healed: false,
            nodes,
            net: Net::default(),
            total: wallets.total(),
            wallets,
            relays: (0..relays).map(Relay::new).collect(),
            followers: BTreeMap::new(),
            questions: BTreeMap::new(),
            purchases: BTreeMap::new(),
            next_request: 0,
            served_by: BTreeMap::new(),
            answered: BTreeMap::new(),
            vocabularies: BTreeMap::new(),
            raw: BTreeSet::new(),
            own_payments: BTreeSet::new(),
            strategies,
            healed_tries: healed_tries.unwrap_or(u32::MAX),
            orders_seen: Vec::new(),
            checkers: Checkers::new(participants),
            trace: Trace::default(),
            tally: Tally::default(),
            recorder: None,
            options,
        };
        world.populate();
        world
    }

    fn populate(&mut self) {
        for node in 0..self.nodes.len() {
            let at = self.dice.ms(0, 20_000);
            self.queue.push(at, Event::Fault(Fault::Restart { node }));
            let first = self.dice.ms(30_000, 30_000 + self.purchase_ms());
            self.queue.push(first, Event::Want { node, tries: 0 });
            if let Some(pace) = self.nodes[node]
                .adversary
                .as_ref()
                .and_then(|a| a.pace_ms())
            {
                let at = self.dice.ms(40_000, 40_000 + pace);
                self.queue.push(at, Event::Act { node });
            }
        }
        self.queue.push(SURVEY_MS * MS, Event::Survey);
        self.schedule_faults();
        self.queue.push(REBALANCE_MS * MS, Event::Rebalance);
        self.queue.push(self.options.safety_ms * MS, Event::Heal);
        let end = self.options.safety_ms + HEALED_MS;
        self.queue.push(end * MS, Event::Audit);
    }

    /// Mean pause between two purchases of a node. Milliseconds.
    fn purchase_ms(&self) -> u64 {
        let times = if self.profile.storm { STORM } else { 1 };
        3_600_000 / (self.options.purchases_per_hour * times).max(1)
    }

    /// The adversaries at work in this seed.
    pub fn strategies(&self) -> &[Strategy] {
        &self.strategies
    }

    /// Runs to the end; returns what the checkers found.
    pub fn run(&mut self, mut progress: impl FnMut(u64, u64)) -> Vec<Violation> {
        let end = (self.options.safety_ms + HEALED_MS + 60_000) * MS;
        let mut next_note = 0;
        while let Some((at, event)) = self.queue.pop() {
            if at > end {
                break;
            }
            self.now = at;
            self.tally.events += 1;
            if at >= next_note {
                progress(at / MS, end / MS);
                next_note = at + 600_000 * MS;
            }
            self.trace.numbers(&[at, event.code()]);
            self.step(event);
        }
        self.close();
        self.checkers.violations.clone()
    }

    /// Writes down every turn of one node from now on, for [`World::lives`].
    pub fn record(&mut self, node: NodeIx) {
        self.recorder = Some(Recorder::new(node));
    }

    /// The recorded node's runs, each from a start to a crash or the end.
    pub fn lives(self) -> Vec<Life> {
        self.recorder.map(Recorder::lives).unwrap_or_default()
    }

    /// The verdict of every checker so far.
    pub fn verdicts(&self) -> Vec<(&'static str, usize)> {
        self.checkers.verdicts()
    }

    pub(crate) fn see(&mut self, seen: Seen<'_>) {
        self.checkers.see(self.now, seen);
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Wake { node, epoch, actor } => self.wake(node, epoch, actor),
            Event::Deliver {
                node,
                epoch,
                delivery,
            } => {
                if self.is_run(node, epoch) {
                    self.input(node, *delivery);
                }
            }
            Event::Synced { node, epoch, actor } => self.synced(node, epoch, actor),
            Event::Dialed {
                node,
                epoch,
                id,
                target,
            } => self.dialed(node, epoch, id, target),
            Event::Arrive { stream, bytes } => self.arrive(stream, &bytes),
            Event::Hangup { stream } => self.hangup(stream),
            Event::Step { node, epoch, order } => self.engine_step(node, epoch, order),
            Event::Resolve { payer, hash } => self.resolve(payer, hash),
            Event::Repeat { node } => self.repeat(node),
            Event::AuditArrives { stream, bytes } => self.audit_arrives(stream, &bytes),
            Event::Listings { relay, node, epoch } => self.listings_arrive(relay, node, epoch),
            Event::Want { node, tries } => self.want(node, tries),
            Event::React {
                node,
                epoch,
                request,
                action,
            } => self.react(node, epoch, request, action),
            Event::Fault(fault) => self.fault(fault),
            Event::Replay { from, to, bytes } => self.replay_order(from, to, bytes),
            Event::Act { node } => self.act(node),
            Event::Announce { node } => {
                if self.up(node) {
                    self.announce(node);
                }
            }
            Event::Survey => {
                self.survey();
                self.queue.push(self.now + SURVEY_MS * MS, Event::Survey);
            }
            Event::Rebalance => {
                self.wallets.rebalance();
                self.watch_total();
                let next = self.now + REBALANCE_MS * MS;
                self.queue.push(next, Event::Rebalance);
            }
            Event::Heal => self.heal(),
            Event::Audit => self.audit(),
        }
    }

    pub(crate) fn is_run(&self, node: NodeIx, epoch: u32) -> bool {
        self.nodes[node].machines.is_some() && self.nodes[node].epoch == epoch
    }

    pub(crate) fn up(&self, node: NodeIx) -> bool {
        self.nodes[node].machines.is_some()
    }

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

    fn wake(&mut self, node: NodeIx, epoch: u32, actor: Actor) {
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

    fn input(&mut self, node: NodeIx, delivery: Delivery) {
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
    fn handle(&mut self, node: NodeIx, delivery: Delivery) {
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
    fn turn(&mut self, node: NodeIx, delivery: Delivery) {
        let actor = delivery.to();
        let now = self.nodes[node].now(self.now);
        let plant = self.options.plant;
        let one = &mut self.nodes[node];
        let (inputs, mut extra) =
            crate::plant::inputs(plant, &mut one.bug, &one.participant, delivery);
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

    pub(crate) fn hand(&mut self, node: NodeIx) -> Hand<'_> {
        Hand { world: self, node }
    }

    /// Lets a node's adversary do something, if it has one and runs.
    pub(crate) fn adversary(
        &mut self,
        node: NodeIx,
        does: impl FnOnce(&mut dyn Adversary, &mut Hand<'_>),
    ) {
        if !self.up(node) {
            return;
        }
        if let Some(mut adversary) = self.nodes[node].adversary.take() {
            does(adversary.as_mut(), &mut self.hand(node));
            self.nodes[node].adversary = Some(adversary);
        }
    }

    fn act(&mut self, node: NodeIx) {
        self.adversary(node, |adversary, hand| adversary.act(hand));
        let pace = self.nodes[node]
            .adversary
            .as_ref()
            .and_then(|a| a.pace_ms());
        if let Some(pace) = pace {
            let at = self.now + self.dice.ms(pace * 3 / 4, pace * 5 / 4);
            self.queue.push(at, Event::Act { node });
        }
    }

    /// Shows the checkers every disk.
    fn survey(&mut self) {
        for node in 0..self.nodes.len() {
            if self.up(node) {
                let invoices = self.wallets.payable(node, self.now);
                let store = std::mem::take(&mut self.nodes[node].store);
                self.see(Seen::Stored {
                    node,
                    store: &store,
                    invoices,
                });
                self.nodes[node].store = store;
            }
        }
    }

    fn note(
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

    fn after_turn(&mut self, node: NodeIx, actor: Actor, effects: Vec<AnyEffect>) {
        self.queue_effects(node, actor, effects);
        self.pump(node, actor);
        self.arm(node, actor);
    }

    /// Puts the effects of a turn behind those that wait.
    fn queue_effects(&mut self, node: NodeIx, actor: Actor, effects: Vec<AnyEffect>) {
        let plant = self.options.plant;
        let one = &mut self.nodes[node];
        let wall = one.now(self.now).wall;
        let effects = match plant {
            None => effects,
            Some(plant) => {
                let crypto = one.crypto();
                crate::plant::effects(plant, &mut one.bug, &crypto, effects)
            }
        };
        let effects = crate::world::faults::apply_peer_fault(&self.nodes[node], effects);
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
    fn pump(&mut self, node: NodeIx, actor: Actor) {
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
    fn write(&mut self, node: NodeIx, actor: Actor, mut records: Vec<Record>) {
        let plant = self.options.plant;
        let one = &mut self.nodes[node];
        let lane = &mut one.lanes[lane_of(actor)];
        while actor == Actor::Discovery
            && one.cut.is_none()
            && let Some(next) = lane.pending.pop_front_if(|next| next.lists())
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

    fn synced(&mut self, node: NodeIx, epoch: u32, actor: Actor) {
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

    fn arm(&mut self, node: NodeIx, actor: Actor) {
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

    /// A node's operator says what it serves.
    pub(crate) fn serve(&mut self, node: NodeIx) {
        let served = self.nodes[node].participant.served.clone();
        let serve = Delivery::Inference(OrderInput::Serve(served));
        self.post(node, Via::User, serve, 0);
    }

    pub(crate) fn announce(&mut self, node: NodeIx) {
        if self.nodes[node].withdrawn {
            return;
        }
        if let Some(manifest) = self.nodes[node].manifest(node) {
            let input = message::discovery::Input::Announce(Box::new(manifest));
            self.post(node, Via::User, Delivery::Discovery(input), 0);
        }
    }

    fn want(&mut self, node: NodeIx, tries: u32) {
        let healed = tries > 0 || self.healed;
        if !self.healed {
            let mean = self.purchase_ms();
            let at = self.now + self.dice.pause(mean);
            self.queue.push(at, Event::Want { node, tries: 0 });
        } else if tries == 0 {
            return;
        }
        if !self.up(node) {
            return;
        }
        self.next_request += 1;
        let request = RequestId(self.next_request);
        let served = self.served_by.get(&node).copied();
        let order = users::draw(&mut self.dice, request, healed, served);
        let purchase = Purchase {
            epoch: self.nodes[node].epoch,
            mode: order.mode,
            order: None,
            host: None,
            end: None,
            tries,
            since: self.now,
            healed,
        };
        self.purchases.insert((node, request), purchase);
        self.tally.purchases += 1;
        self.see(Seen::Wished { node, wish: &order });
        self.post(
            node,
            Via::User,
            Delivery::Inference(OrderInput::Buy(Box::new(order))),
            0,
        );
        if !healed && self.dice.chance(150_000) {
            let action = if self.dice.chance(600_000) {
                UserAction::Stop
            } else {
                UserAction::Cancel
            };
            let (at, epoch) = (self.now + self.dice.ms(200, 20_000), self.nodes[node].epoch);
            self.queue.push(
                at,
                Event::React {
                    node,
                    epoch,
                    request,
                    action,
                },
            );
        }
    }

    fn react(&mut self, node: NodeIx, epoch: u32, request: RequestId, action: UserAction) {
        if !self.is_run(node, epoch) {
            return;
        }
        let input = match action {
            UserAction::Confirm => OrderInput::Confirm(request),
            UserAction::Stop => OrderInput::Stop(request),
            UserAction::Cancel => OrderInput::Cancel(request),
        };
        self.post(node, Via::User, Delivery::Inference(input), 0);
    }

    /// A purchase ended.
    pub(crate) fn ended(&mut self, node: NodeIx, request: RequestId, end: End, why: &str) {
        let Some(purchase) = self.purchases.get_mut(&(node, request)) else {
            return;
        };
        if purchase.end.is_some() {
            return;
        }
        purchase.end = Some(end);
        let (tries, healed) = (purchase.tries, purchase.healed);
        match end {
            End::Finished => {
                self.tally.finished += 1;
                *self.tally.modes.entry(purchase.mode).or_default() += 1;
                self.served_by
                    .extend(purchase.host.map(|host| (node, host)));
            }
            End::Failed(code) => {
                self.tally.failed += 1;
                *self.tally.refusals.entry(format!("{code:?}")).or_default() += 1;
            }
            End::Crashed => {}
        }
        if !healed || !self.healed {
            return;
        }
        // Only its own limits and its own wallet excuse: a host may say the same.
        let poor = match end {
            End::Failed(Code::BudgetExhausted) => {
                self.nodes[node].participant.limits.per_day < RICH
            }
            End::Failed(Code::WalletCannotPay) => self.wallets.of[node].local < 2 * RICH.0 / 100,
            _ => false,
        };
        if end == End::Finished || poor {
            self.answered.insert(node, Ok(()));
        } else if !matches!(self.answered.get(&node), Some(Ok(()))) {
            self.answered.insert(node, Err(why.to_owned()));
            let end = (self.options.safety_ms + HEALED_MS) * MS;
            let most = self.healed_tries.saturating_add(LATER_TRIES);
            if tries < most && self.now + TRY_MS * MS < end {
                let at = match tries < self.healed_tries {
                    true => self.now + self.dice.ms(5_000, 40_000),
                    false => self.now + self.dice.ms(60_000, 120_000),
                };
                self.queue.push(
                    at,
                    Event::Want {
                        node,
                        tries: tries + 1,
                    },
                );
            }
        }
    }

    /// The books and the lists are asked for.
    fn audit(&mut self) {
        for node in 0..self.nodes.len() {
            if self.up(node) {
                let id = EffectId(u64::MAX);
                self.post(
                    node,
                    Via::User,
                    Delivery::Payment(message::payment::Input::Report { id }),
                    0,
                );
                self.post(
                    node,
                    Via::User,
                    Delivery::Discovery(message::discovery::Input::List { id }),
                    0,
                );
            }
        }
    }

    /// What only the end shows.
    fn close(&mut self) {
        let purchases = std::mem::take(&mut self.purchases);
        for ((node, request), purchase) in &purchases {
            self.see(Seen::Bought {
                node: *node,
                request: *request,
                purchase,
            });
        }
        for node in 0..self.nodes.len() {
            if self.up(node) {
                let result = self.answered.get(&node).cloned();
                let result = result.unwrap_or_else(|| Err("nothing was asked".to_owned()));
                let why = result.clone().err().unwrap_or_default();
                self.see(Seen::Served {
                    node,
                    answered: result.is_ok(),
                    why: &why,
                });
            }
        }
        self.watch_total();
    }

    pub(crate) fn watch_total(&mut self) {
        let (now, before) = (self.wallets.total(), self.total);
        self.see(Seen::Total { now, before });
    }

    /// Author keys of all listings that a node ought to know now.
    pub(crate) fn expected_hosts(&self, by: NodeIx) -> Vec<NodeKey> {
        let relays = self.relays.len();
        let listed = |(index, node): &(NodeIx, &Node)| {
            let lists = node.machines.is_some() && !node.withdrawn && node.participant.sells();
            lists && share_relay(by, *index, relays)
        };
        let hosts = self.nodes.iter().enumerate().filter(listed);
        hosts.map(|(_, node)| node.participant.key).collect()
    }
}
