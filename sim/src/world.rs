//! The world: nodes, one queue, one clock that jumps to the next event.
//!
//! Two phases: in the first the fault plan works and the rules of safety are
//! watched; then all faults end, byzantine nodes leave, and everybody honest
//! must be served, and all books must agree.
//!
//! The files below run the machines (`turns`), carry out their effects (`perform`), move bytes
//! (`wire`), pay (`money`), buy and list (`users`), break things (`faults`), and show the
//! checkers what only whole nodes show (`finale`).

mod faults;
mod finale;
mod money;
mod perform;
mod turns;
mod users;
mod wire;

pub(crate) use faults::resign;
pub(crate) use turns::Via;

use crate::adversary::{Adversary, Choice, Hand, Strategy};
use crate::check::{Checkers, Seen, Violation};
use crate::dice::{Dice, MS};
use crate::event::{Event, Fault, NodeIx, Queue};
use crate::faults::Plan;
use crate::net::Net;
use crate::node::Node;
use crate::plant::Plant;
use crate::profile::Profile;
use crate::record::{Life, Recorder};
use crate::relay::{Relay, relays_for};
use crate::trace::Trace;
use crate::users::Purchase;
use crate::wallet::Wallets;
use protocol::ids::{Caller, EffectId, ModelDigest, NodeKey, PaymentHash, RequestId, StreamId};
use protocol::limits::{FIRST_TOKEN_MS, MAX_CANDIDATES};
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
}
