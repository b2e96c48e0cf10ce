//! The inference machine: buys and sells answers, token by token.
//!
//! Owns every purchase (`purchase`) and every order ([`crate::order`]), admits or
//! refuses strangers' orders, keeps the queue, and turns credit into allowances
//! for the engine. Never sees a preimage before Payment does and never moves
//! money: it asks Payment, which may refuse.
//!
//! # Parts
//! | file | what |
//! |---|---|
//! | `admit` | which orders are taken, and which give way |
//! | `queue` | which of them wait for a place, and begin |
//! | `wait` | how soon one would begin |
//! | `payers` | keys that paid in this run |
//! | `streams` | which stream belongs to which order |
//! | `dispatch` | which purchase or order an input is for |
//! | `interrupted` | what a stop of the node left open |
//!
//! # Inputs and effects
//! See [`crate::message::inference`]. Frames come in decoded; what does not decode comes in as
//! [`Input::Garbled`].
//!
//! # Invariants
//! - An envelope is acted upon once; its nonce is durable before its order begins. An order
//!   that was refused, or ended before it was paid for or accepted on credit, leaves no nonce.
//! - At most `concurrent_orders` of a model run, and those that paid, or have credit and
//!   accepted their terms, wait for a place. All others hold no place, whoever sent them: they
//!   are bounded by themselves, for each peer, for each address and in all, and give way to
//!   newer ones.
//! - Orders that have not begun are of models that are served: those of a model that leaves the
//!   offer end with it.
//! - A stream belongs to one order; frames on unknown streams are dropped.
//! - Evidence is kept as long as [`Config::keep`] says.
//!
//! # Crash recovery
//! Orders found open in storage are closed as `Failed(Interrupted)` on both
//! sides; their payments are Payment's to resolve. An order that was over is told to
//! Payment until it says that it knows. The replay window is rebuilt.

mod admit;
mod dispatch;
mod interrupted;
mod payers;
mod queue;
mod streams;
#[cfg(test)]
mod tests;
mod wait;

use crate::crypto::{Crypto, OrderKeys};
use crate::ids::{ModelDigest, OrderId, RequestId, StreamId};
use crate::limits;
use crate::machine::{EffectIds, Machine, Outbox, Record, Secrets, Table};
use crate::message::inference::{Admission, BuyRequest, BuyerEvent, Effect, Input, Served};
pub use crate::order::context::Config;
use crate::order::context::Ctx;
use crate::order::host::{HostOrder, State as HostState};
use crate::order::late::LatePayments;
use crate::order::record::{self, Retained, Unfinished};
use crate::purchase::Purchase;
use crate::refusal::{Code, Refusal};
use crate::replay::ReplayWindow;
use crate::time::{Now, Tick};
use admit::Sender;
use payers::Payers;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, VecDeque};
use streams::{Fresh, Use};
use wait::Waits;

/// Buys and sells answers: owns every order of this node, admits orders of peers, turns
/// credit into token allowances.
pub struct Inference {
    // Of the node.
    /// The node key: signs as a host.
    crypto: Box<dyn Crypto>,
    /// The order keys: sign as a buyer.
    orders: Box<dyn OrderKeys>,
    /// Set by the operator.
    config: Config,
    /// Salts, nonces and draws.
    rng: ChaCha8Rng,
    /// Numbers effects.
    ids: EffectIds,

    // What this node buys.
    /// The purchases under way.
    purchases: BTreeMap<RequestId, Purchase>,
    /// Payments of failed orders that may still settle.
    late: LatePayments,

    // What it sells.
    /// The models, each with its limits.
    served: BTreeMap<ModelDigest, Served>,
    /// Whether orders are taken at all.
    admission: Admission,
    /// The orders under way.
    hosts: BTreeMap<OrderId, HostOrder>,
    /// Those that wait for a place, in the order of payment.
    queue: VecDeque<OrderId>,
    /// Envelopes that were acted upon.
    replay: ReplayWindow,
    /// Orders of each sender that ended unpaid since the last sweep.
    voids: BTreeMap<Sender, u32>,
    /// Keys that paid in this run.
    payers: Payers,
    /// How long orders take.
    waits: Waits,
    /// Running and waiting orders of each model, as they were told last.
    loads: BTreeMap<ModelDigest, (u32, u32)>,

    // Streams.
    /// Inbound streams on which nothing came yet.
    fresh: BTreeMap<StreamId, Fresh>,
    /// To whom the others belong.
    streams: BTreeMap<StreamId, Use>,

    // Store.
    /// When the next sweep is.
    sweep: Tick,
    /// What finished orders are on disk.
    retained: Retained,
    /// Orders that the last run left open, until the first turn.
    unfinished: Vec<Unfinished>,
}

impl Inference {
    /// Makes a machine with no history. `crypto` signs as a host (the node key),
    /// `orders` give the keys that sign as a buyer.
    pub fn new(
        config: Config,
        crypto: Box<dyn Crypto>,
        orders: Box<dyn OrderKeys>,
        seed: [u8; 32],
    ) -> Self {
        Inference {
            crypto,
            orders,
            config,
            rng: ChaCha8Rng::from_seed(seed),
            ids: EffectIds::default(),
            replay: ReplayWindow::default(),
            purchases: BTreeMap::new(),
            hosts: BTreeMap::new(),
            voids: BTreeMap::new(),
            payers: Payers::default(),
            queue: VecDeque::new(),
            waits: Waits::default(),
            fresh: BTreeMap::new(),
            streams: BTreeMap::new(),
            served: BTreeMap::new(),
            loads: BTreeMap::new(),
            admission: Admission::Open,
            sweep: Tick(0),
            retained: Retained::default(),
            late: LatePayments::default(),
            unfinished: Vec::new(),
        }
    }

    /// Orders running or waiting, both sides: for a clean shutdown.
    pub fn active(&self) -> usize {
        self.purchases.len() + self.hosts.len()
    }

    fn with<R>(
        &mut self,
        now: Now,
        out: &mut Outbox<Effect>,
        run: impl FnOnce(&mut Parts<'_>, &mut Ctx<'_>) -> R,
    ) -> R {
        let mut ctx = Ctx {
            crypto: self.crypto.as_ref(),
            orders: self.orders.as_ref(),
            config: &self.config,
            now,
            rng: &mut self.rng,
            ids: &mut self.ids,
            retained: &mut self.retained,
            late: &mut self.late,
            out,
        };
        let mut parts = Parts {
            replay: &mut self.replay,
            purchases: &mut self.purchases,
            hosts: &mut self.hosts,
            voids: &self.voids,
            payers: &mut self.payers,
            fresh: &mut self.fresh,
            streams: &mut self.streams,
            served: &self.served,
            admission: self.admission,
            waits: &self.waits,
        };
        run(&mut parts, &mut ctx)
    }

    /// Drops what is over, starts what may run, reports the load. After every turn.
    fn settle(&mut self, now: Now, out: &mut Outbox<Effect>) {
        self.close_unfinished(now, out);
        self.waits.learn(&mut self.hosts, now);
        self.purchases.retain(|_, order| !order.is_over());
        self.count_voids();
        self.hosts.retain(|_, order| order.state != HostState::Over);
        let (purchases, hosts) = (&self.purchases, &self.hosts);
        self.streams.retain(|_, used| match used {
            Use::Purchase(request) => purchases.contains_key(request),
            Use::Host(order) => hosts.contains_key(order),
        });
        self.queue.retain(|id| {
            hosts
                .get(id)
                .is_some_and(|order| order.state == HostState::Queued)
        });
        self.enqueue(now, out);
        self.start_queued(now, out);
        self.report_load(out);
    }

    fn on_buy(&mut self, request: BuyRequest, now: Now, out: &mut Outbox<Effect>) {
        let id = request.request;
        if let Err(error) = request.job.check() {
            let refusal = Refusal::new(Code::BadOrder, error.to_string());
            return out.push(Effect::Deliver {
                request: id,
                event: BuyerEvent::Failed(refusal),
            });
        }
        if self.purchases.len() >= limits::MAX_ORDERS || self.purchases.contains_key(&id) {
            let refusal = Refusal::new(Code::Busy, "too many purchases at once on this node");
            return out.push(Effect::Deliver {
                request: id,
                event: BuyerEvent::Failed(refusal),
            });
        }
        self.with(now, out, |parts, ctx| {
            let order = Purchase::open(request, ctx);
            parts.purchases.insert(id, order);
        });
    }

    fn route_input(&mut self, now: Now, input: Input, out: &mut Outbox<Effect>) {
        match input {
            Input::Buy(request) => self.on_buy(*request, now, out),
            Input::Serve(served) => {
                self.served = served
                    .into_iter()
                    .map(|model| (model.offer.digest, model))
                    .collect();
                self.waits.keep(|model| self.served.contains_key(model));
                self.with(now, out, |parts, ctx| {
                    let (hosts, served) = (&mut parts.hosts, parts.served);
                    let unserved = |order: &&mut HostOrder| !served.contains_key(&order.model());
                    for order in hosts.values_mut().filter(unserved) {
                        order.withdraw(ctx);
                    }
                });
            }
            Input::Admit(admission) => self.admission = admission,
            Input::Inbound { stream, caller } => self.on_inbound(stream, caller, now, out),
            Input::OrderClosed { order, side } => {
                out.push(Effect::Persist(vec![record::closed(side, &order)]));
            }
            other => self.with(now, out, |parts, ctx| parts.dispatch(other, ctx)),
        }
    }
}

impl Machine for Inference {
    type Input = Input;
    type Effect = Effect;
    type Config = Config;

    const TABLES: &'static [Table] = &[
        Table::Nonces,
        Table::OpenOrders,
        Table::Retained,
        Table::Late,
    ];

    /// Finished orders stay on disk.
    fn recover(
        config: Config,
        secrets: Secrets,
        records: impl Iterator<Item = Record>,
        _now: Now,
    ) -> Self {
        let mut machine = Inference::new(config, secrets.node, secrets.orders, secrets.seed);
        let mut open = record::Reader::default();
        for record in records {
            let Some(value) = &record.value else { continue };
            match record.table {
                Table::Nonces => machine.replay.restore(&record.key, value),
                Table::OpenOrders => open.take(&record.key, value),
                Table::Retained => machine.retained.restore(&record.key, value),
                Table::Late => machine.late.restore(&record.key, value),
                _ => {}
            }
        }
        machine.unfinished = open.finish();
        machine
    }

    fn handle(&mut self, now: Now, input: Input, out: &mut Outbox<Effect>) {
        self.route_input(now, input, out);
        self.settle(now, out);
    }

    fn expire(&mut self, now: Now, out: &mut Outbox<Effect>) {
        self.with(now, out, |parts, ctx| parts.expire(ctx));
        if self.sweep <= now.tick {
            self.sweep = now.tick.after_ms(limits::ORDER_SWEEP_MS);
            self.voids.clear();
            let mut forgotten = self.replay.prune(now.wall);
            forgotten.extend(self.retained.sweep(self.config.keep, now.wall));
            if !forgotten.is_empty() {
                out.push(Effect::Persist(forgotten));
            }
        }
        self.settle(now, out);
    }

    fn deadline(&self) -> Option<Tick> {
        let purchases = self.purchases.values().filter_map(Purchase::deadline);
        let hosts = self.hosts.values().filter_map(HostOrder::deadline);
        let fresh = self.fresh.values().map(|fresh| fresh.until);
        let sweeps = !self.voids.is_empty()
            || !self.replay.is_empty()
            || !self.retained.is_empty()
            || !self.unfinished.is_empty();
        let sweep = sweeps.then_some(self.sweep);
        purchases.chain(hosts).chain(fresh).chain(sweep).min()
    }
}

/// The machine's own parts, borrowed beside the context.
struct Parts<'a> {
    replay: &'a mut ReplayWindow,
    purchases: &'a mut BTreeMap<RequestId, Purchase>,
    hosts: &'a mut BTreeMap<OrderId, HostOrder>,
    voids: &'a BTreeMap<Sender, u32>,
    payers: &'a mut Payers,
    fresh: &'a mut BTreeMap<StreamId, Fresh>,
    streams: &'a mut BTreeMap<StreamId, Use>,
    served: &'a BTreeMap<ModelDigest, Served>,
    admission: Admission,
    waits: &'a Waits,
}

impl Parts<'_> {
    fn expire(&mut self, ctx: &mut Ctx<'_>) {
        for purchase in self.purchases.values_mut() {
            purchase.expire(ctx);
        }
        for host in self.hosts.values_mut() {
            if host.deadline().is_some() {
                host.expire(ctx);
            }
        }
        self.fresh.retain(|stream, fresh| {
            let late = fresh.until <= ctx.now.tick;
            if late {
                ctx.close(*stream);
            }
            !late
        });
    }
}
