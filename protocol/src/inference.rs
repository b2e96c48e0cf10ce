//! The inference machine: buys and sells answers, token by token.
//!
//! Owns every order of this node on both sides ([`crate::order`]), admits or
//! refuses strangers' orders, keeps the queue, and turns credit into allowances
//! for the engine. Never sees a preimage before Payment does and never moves
//! money: it asks Payment, which may refuse.
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

mod payers;
#[cfg(test)]
mod tests;
mod wait;

use crate::crypto::{Crypto, OrderKeys};
use crate::ids::{AddressTag, Caller, ModelDigest, NodeKey, OrderId, PeerTag, RequestId, StreamId};
use crate::limits;
use crate::machine::{EffectIds, Machine, Outbox, Record, Secrets, Table};
use crate::message::inference::{
    Admission, BuyRequest, BuyerEvent, Effect, Input, OrderAccount, Served,
};
use crate::message::payment::Credit;
use crate::message::sibling::Message;
use crate::money::Msat;
use crate::offence::{Offence, OffenceKind};
use crate::order::buyer;
pub use crate::order::context::Config;
use crate::order::context::Ctx;
use crate::order::host::{HostOrder, State as HostState};
use crate::order::late::LatePayments;
use crate::order::record::{self, Closing, Retained, Unfinished};
use crate::purchase::Purchase;
use crate::refusal::{Code, Refusal};
use crate::replay::ReplayWindow;
use crate::time::{Now, Tick};
use crate::wire::envelope::{EnvelopeError, Opened};
use crate::wire::manifest::PaymentMode;
use crate::wire::order::{Countersigned, Frame, Handling, Order, Paid, Status};
use payers::Payers;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, VecDeque};
use wait::Waits;

/// How long a fresh inbound stream may stay silent. Milliseconds. An order fits one round trip.
const FRESH_STREAM_MS: u64 = 15_000;
/// Fresh inbound streams kept at once; beyond it one of the peer that has most of them is
/// closed.
const MAX_FRESH_STREAMS: usize = 64;
/// Orders that nobody paid for, over all peers: of strangers, and as many of known keys. Beyond
/// it the oldest gives way.
const MAX_UNPAID: usize = 256;
/// Bytes that either of them hold in memory together.
const MAX_UNPAID_BYTES: usize = 64 << 20;
/// How long an accepted order keeps others out while its entry payment may be on its way.
/// Milliseconds. Most payments are settled much sooner; a later one finds its order or is
/// credit for the next.
const ENTRY_GRACE_MS: u64 = 30_000;
/// Peers, addresses and keys whose unpaid orders are counted at once: more than may be connected.
const MAX_COUNTED_SENDERS: usize = 8_192;
/// Suggested wait when all slots are taken. Milliseconds. A typical answer takes this long.
const BUSY_RETRY_MS: u64 = 10_000;

/// Who answers for orders that end unpaid: the peer that sent them, its address, and a key that
/// has credit. Keys without credit are free, and answer for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sender {
    Peer(PeerTag),
    Address(AddressTag),
    Key(NodeKey),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Buyer(RequestId),
    Host(OrderId),
}

/// An inbound stream on which nothing came yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fresh {
    until: Tick,
    caller: Caller,
}

/// Buys and sells answers: owns every order of this node, admits orders of peers, turns
/// credit into token allowances.
pub struct Inference {
    crypto: Box<dyn Crypto>,
    orders: Box<dyn OrderKeys>,
    config: Config,
    rng: ChaCha8Rng,
    ids: EffectIds,
    replay: ReplayWindow,
    buyers: BTreeMap<RequestId, Purchase>,
    hosts: BTreeMap<OrderId, HostOrder>,
    /// Orders of each sender that ended unpaid since the last sweep.
    voids: BTreeMap<Sender, u32>,
    payers: Payers,
    queue: VecDeque<OrderId>,
    waits: Waits,
    fresh: BTreeMap<StreamId, Fresh>,
    streams: BTreeMap<StreamId, Use>,
    served: BTreeMap<ModelDigest, Served>,
    loads: BTreeMap<ModelDigest, (u32, u32)>,
    admission: Admission,
    sweep: Tick,
    retained: Retained,
    late: LatePayments,
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
            buyers: BTreeMap::new(),
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
        self.buyers.len() + self.hosts.len()
    }

    /// Delivered and unpaid output over all orders we serve: for the simulator's checkers.
    pub fn unpaid_by_order(&self) -> impl Iterator<Item = (OrderId, Msat)> + '_ {
        self.hosts.iter().map(|(id, order)| (*id, order.unpaid()))
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
            buyers: &mut self.buyers,
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

    /// Ends what a crash left open. The first turn after a start.
    fn close_unfinished(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let unfinished = std::mem::take(&mut self.unfinished);
        if unfinished.is_empty() {
            return;
        }
        self.with(now, out, |_, ctx| {
            for order in unfinished {
                match order {
                    Unfinished::Closing(closing) => ctx.tell(Message::CloseOrder {
                        account: Box::new(closing.account),
                        unpaid: closing.unpaid,
                    }),
                    Unfinished::Running {
                        mut record,
                        mut journal,
                    } => {
                        record.status = Some(Status::Failed(Code::Interrupted));
                        let account = OrderAccount {
                            unsure: record.unsure(),
                            ..record.account()
                        };
                        // What was paid is known to Payment alone; a crash of ours is no debt
                        // of the buyer's.
                        let closing = Closing {
                            account,
                            unpaid: Msat::ZERO,
                        };
                        ctx.close_order(&mut journal, &record, closing);
                    }
                }
            }
        });
    }

    /// Drops what is over, starts what may run, reports the load. After every turn.
    fn settle(&mut self, now: Now, out: &mut Outbox<Effect>) {
        self.close_unfinished(now, out);
        self.waits.learn(&mut self.hosts, now);
        self.buyers.retain(|_, order| !order.is_over());
        self.count_voids();
        self.hosts.retain(|_, order| order.state != HostState::Over);
        let (buyers, hosts) = (&self.buyers, &self.hosts);
        self.streams.retain(|_, used| match used {
            Use::Buyer(request) => buyers.contains_key(request),
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

    /// Counts the orders that ended unpaid in this turn.
    fn count_voids(&mut self) {
        let over = |order: &HostOrder| order.state == HostState::Over && order.was_void();
        for order in self.hosts.values().filter(|order| over(order)) {
            let Caller { peer, address } = order.caller();
            let mut senders = vec![Sender::Address(address)];
            // Who gave way to a flood is not to blame; only an address has so many offers.
            if !order.was_let_go() {
                senders.push(Sender::Peer(peer));
                senders.extend(order.is_known().then(|| Sender::Key(order.buyer())));
            }
            for sender in senders {
                if self.voids.len() < MAX_COUNTED_SENDERS || self.voids.contains_key(&sender) {
                    let count = self.voids.entry(sender).or_default();
                    *count = count.saturating_add(1);
                }
            }
        }
    }

    /// Puts orders that may begin in line, and keeps their nonces: from here on an order has
    /// effects. Those without a payment may fill half of the table.
    fn enqueue(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let waiting = |order: &HostOrder| order.state == HostState::Queued;
        let hosts = self.hosts.iter().filter(|(_, order)| waiting(order));
        let mut new: Vec<_> = hosts
            .filter(|(id, _)| !self.queue.contains(id))
            .map(|(id, order)| (order.accepted(), *id))
            .collect();
        new.sort();
        for (_, id) in new {
            self.with(now, out, |parts, ctx| {
                let Some(order) = parts.hosts.get_mut(&id) else {
                    return;
                };
                let most = match order.paid() {
                    Msat::ZERO => limits::MAX_NONCES / 2,
                    _ => limits::MAX_NONCES,
                };
                match parts.replay.admit(order.envelope(), most, ctx.now.wall) {
                    Ok(nonce) => ctx.persist(vec![nonce]),
                    Err(error) => order.fail(not_admitted(error), ctx),
                }
            });
            let stands = self.hosts.get(&id);
            if stands.is_some_and(|order| order.state == HostState::Queued) {
                self.queue.push_back(id);
            }
        }
    }

    fn running(&self, model: &ModelDigest) -> u32 {
        let running =
            |order: &&HostOrder| order.model() == *model && order.state == HostState::Running;
        u32::try_from(self.hosts.values().filter(running).count()).unwrap_or(u32::MAX)
    }

    fn start_queued(&mut self, now: Now, out: &mut Outbox<Effect>) {
        for _ in 0..self.queue.len() {
            let Some(id) = self.queue.pop_front() else {
                break;
            };
            let Some(model) = self.hosts.get(&id).map(HostOrder::model) else {
                continue;
            };
            let slots = self
                .served
                .get(&model)
                .map_or(0, |served| served.limits.concurrent_orders);
            if self.running(&model) >= slots {
                self.queue.push_back(id);
                continue;
            }
            self.with(now, out, |parts, ctx| {
                if let Some(order) = parts.hosts.get_mut(&id) {
                    order.start(ctx);
                }
            });
        }
    }

    fn report_load(&mut self, out: &mut Outbox<Effect>) {
        for (model, served) in &self.served {
            let running = self.running(model);
            let of_model = self
                .hosts
                .values()
                .filter(|order| order.model() == *model && !order.is_unpaid())
                .count();
            let queued = u32::try_from(of_model)
                .unwrap_or(u32::MAX)
                .saturating_sub(running);
            if self.loads.get(model) != Some(&(running, queued)) {
                self.loads.insert(*model, (running, queued));
                out.push(Effect::Tell(Message::LoadChanged {
                    model: *model,
                    running,
                    queued,
                    slots: served.limits.concurrent_orders,
                }));
            }
        }
    }

    fn inbound(&mut self, stream: StreamId, caller: Caller, now: Now, out: &mut Outbox<Effect>) {
        if self.fresh.len() >= MAX_FRESH_STREAMS {
            // Whoever opens many streams loses its own: of the address with most, the newest of
            // the peer with most.
            let mut addresses: BTreeMap<AddressTag, u32> = BTreeMap::new();
            let mut peers: BTreeMap<PeerTag, u32> = BTreeMap::new();
            for Fresh { caller, .. } in self.fresh.values() {
                *addresses.entry(caller.address).or_default() += 1;
                *peers.entry(caller.peer).or_default() += 1;
            }
            let newest = self.fresh.iter().max_by_key(|(id, Fresh { caller, .. })| {
                let Caller { peer, address } = caller;
                let of_address = (addresses.get(address), *address);
                (of_address, (peers.get(peer), *peer), **id)
            });
            if let Some(newest) = newest.map(|(id, _)| *id) {
                self.fresh.remove(&newest);
                out.push(Effect::Close { stream: newest });
            }
        }
        let until = now.tick.after_ms(FRESH_STREAM_MS);
        self.fresh.insert(stream, Fresh { until, caller });
    }

    fn buy(&mut self, request: BuyRequest, now: Now, out: &mut Outbox<Effect>) {
        let id = request.request;
        if let Err(error) = request.job.check() {
            let refusal = Refusal::new(Code::BadOrder, error.to_string());
            return out.push(Effect::Deliver {
                request: id,
                event: BuyerEvent::Failed(refusal),
            });
        }
        if self.buyers.len() >= limits::MAX_ORDERS || self.buyers.contains_key(&id) {
            let refusal = Refusal::new(Code::Busy, "too many purchases at once on this node");
            return out.push(Effect::Deliver {
                request: id,
                event: BuyerEvent::Failed(refusal),
            });
        }
        self.with(now, out, |parts, ctx| {
            let order = Purchase::open(request, ctx);
            parts.buyers.insert(id, order);
        });
    }

    fn route_input(&mut self, now: Now, input: Input, out: &mut Outbox<Effect>) {
        match input {
            Input::Buy(request) => self.buy(*request, now, out),
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
            Input::Inbound { stream, caller } => self.inbound(stream, caller, now, out),
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
        let buyers = self.buyers.values().filter_map(Purchase::deadline);
        let hosts = self.hosts.values().filter_map(HostOrder::deadline);
        let fresh = self.fresh.values().map(|fresh| fresh.until);
        let sweeps = !self.voids.is_empty()
            || !self.replay.is_empty()
            || !self.retained.is_empty()
            || !self.unfinished.is_empty();
        let sweep = sweeps.then_some(self.sweep);
        buyers.chain(hosts).chain(fresh).chain(sweep).min()
    }
}

/// A refusal that says when to come back.
fn busy(code: Code, text: &str) -> Refusal {
    let mut refusal = Refusal::new(code, text);
    refusal.retry_after_ms = Some(BUSY_RETRY_MS);
    refusal
}

/// What whoever sent an order is told whose nonce is not taken.
fn not_admitted(error: EnvelopeError) -> Refusal {
    match error {
        EnvelopeError::Replayed => Refusal::new(Code::BadEnvelope, error.to_string()),
        full => busy(Code::TooManyUnpaid, &full.to_string()),
    }
}

/// The machine's own parts, borrowed beside the context.
struct Parts<'a> {
    replay: &'a mut ReplayWindow,
    buyers: &'a mut BTreeMap<RequestId, Purchase>,
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
    fn buyer_of(&mut self, order: OrderId) -> Option<&mut Purchase> {
        self.buyers
            .values_mut()
            .find(|buyer| buyer.order() == Some(order))
    }

    fn dispatch(&mut self, input: Input, ctx: &mut Ctx<'_>) {
        match input {
            Input::Confirm(request) => self.buyer(request, |buyer| buyer.on_confirm(ctx)),
            Input::Stop(request) => self.buyer(request, |buyer| buyer.on_stop(ctx)),
            Input::Cancel(request) => self.buyer(request, |buyer| buyer.on_cancel(ctx)),
            Input::CandidatesFound { request, hosts } => {
                self.buyer(request, |buyer| buyer.on_candidates(hosts, ctx))
            }
            Input::Reserved { request, result } => {
                self.buyer(request, |buyer| buyer.on_reserved(result, ctx))
            }
            Input::Opened { id, stream } => self.opened(id, stream, ctx),
            Input::OpenFailed { id, reason, ours } => {
                if let Some(buyer) = self
                    .buyers
                    .values_mut()
                    .find(|buyer| buyer.dialing() == Some(id))
                {
                    buyer.on_dial_failed(&reason, ours, ctx);
                }
            }
            Input::InputCounted { id, count } => {
                let mut buyers = self.buyers.values_mut();
                if let Some(buyer) = buyers.find(|buyer| buyer.awaits_count(id)) {
                    buyer.on_input_counted(count, ctx);
                }
            }
            Input::WrongPiece {
                order,
                host,
                position,
            } => match self.buyer_of(order) {
                Some(buyer) => buyer.on_wrong_piece(position, ctx),
                // It came with the end of the order.
                None => {
                    let detail = buyer::wrong_piece(position);
                    ctx.offence(host, order, OffenceKind::FalseText, &detail);
                }
            },
            Input::Received { stream, frame } => self.received(stream, *frame, ctx),
            Input::Garbled { stream, detail } => self.garbled(stream, detail, ctx),
            Input::Closed { stream } => self.closed(stream, ctx),
            Input::Settled {
                order,
                seq,
                fee,
                ms,
                ..
            } => {
                if let Some(buyer) = self.buyer_of(order) {
                    buyer.on_payment_settled(seq, fee, ms, ctx);
                } else {
                    let (taken, records) = ctx.late.settled(&order, seq);
                    ctx.persist(records);
                    if let Some(host) = taken {
                        ctx.tell(Message::PaymentTaken { host });
                    }
                }
            }
            Input::NotSettled {
                order,
                seq,
                refusal,
            } => {
                if let Some(buyer) = self.buyer_of(order) {
                    buyer.on_payment_failed(seq, refusal, ctx);
                } else if refusal.code != Code::PaymentUnknown {
                    let records = ctx.late.failed(&order, seq);
                    ctx.persist(records);
                }
            }
            other => self.dispatch_host(other, ctx),
        }
    }

    fn dispatch_host(&mut self, input: Input, ctx: &mut Ctx<'_>) {
        match input {
            Input::Counted { id, result } => {
                let counting = |order: &&mut HostOrder| order.state == HostState::Counting(id);
                if let Some(order) = self.hosts.values_mut().find(counting) {
                    let limit = self
                        .served
                        .get(&order.model())
                        .map_or(0, |served| served.limits.prompt_tokens);
                    order.counted(result, limit, ctx);
                }
            }
            Input::Produced {
                order,
                tokens,
                finish,
                attached,
            } => {
                self.host(order, |host| host.produced(tokens, finish, attached, ctx));
            }
            Input::EngineFailed { order, reason } => {
                self.host(order, |host| host.engine_failed(&reason, ctx))
            }
            Input::CreditOpened { order, result } => {
                let wait = self.starts_within(&order, ctx.now.tick);
                let result = result.and_then(|credit| self.worth_an_offer(&order, credit));
                self.host(order, |host| host.credit_opened(result, wait, ctx));
                self.one_gratis(order, ctx);
            }
            Input::InvoiceMade { order, seq, result } => {
                self.host(order, |host| host.invoice_made(seq, result, ctx));
            }
            Input::CreditGranted {
                order,
                seq,
                msat,
                window,
                ..
            } => {
                if let Some(host) = self.hosts.get_mut(&order) {
                    self.payers.paid(host.buyer(), msat);
                    host.credited(seq, msat, window, ctx);
                }
            }
            _ => {}
        }
    }

    fn buyer(&mut self, request: RequestId, run: impl FnOnce(&mut Purchase)) {
        if let Some(buyer) = self.buyers.get_mut(&request) {
            run(buyer);
        }
    }

    fn host(&mut self, order: OrderId, run: impl FnOnce(&mut HostOrder)) {
        if let Some(host) = self.hosts.get_mut(&order) {
            run(host);
        }
    }

    fn opened(&mut self, id: crate::ids::EffectId, stream: StreamId, ctx: &mut Ctx<'_>) {
        let dialing = self
            .buyers
            .iter_mut()
            .find(|(_, buyer)| buyer.dialing() == Some(id));
        match dialing {
            Some((request, buyer)) => {
                self.streams.insert(stream, Use::Buyer(*request));
                buyer.on_stream_opened(stream, ctx);
            }
            // The purchase gave up while the dial went on.
            None => ctx.close(stream),
        }
    }

    fn received(&mut self, stream: StreamId, frame: Frame, ctx: &mut Ctx<'_>) {
        if let Some(fresh) = self.fresh.remove(&stream) {
            if let Frame::Order(signed) = frame {
                return self.order(stream, fresh.caller, signed, ctx);
            }
            let message = format!("a stream begins with an order, not with {}", frame.name());
            return self.refuse(stream, Refusal::new(Code::ProtocolViolation, message), ctx);
        }
        match self.streams.get(&stream).copied() {
            Some(Use::Buyer(request)) => self.on_buyer_stream(request, stream, frame, ctx),
            Some(Use::Host(order)) => self.host_frame(order, frame, ctx),
            None => {}
        }
    }

    fn on_buyer_stream(
        &mut self,
        request: RequestId,
        stream: StreamId,
        frame: Frame,
        ctx: &mut Ctx<'_>,
    ) {
        // A stream of an earlier attempt of the same purchase is history.
        self.buyer(request, |buyer| {
            if buyer.stream() == Some(stream) {
                buyer.on_frame(frame, ctx);
            }
        });
    }

    /// Refuses what came first on a stream.
    fn refuse(&mut self, stream: StreamId, refusal: Refusal, ctx: &mut Ctx<'_>) {
        ctx.send(stream, Frame::Refusal(refusal));
        ctx.close(stream);
    }

    fn order(
        &mut self,
        stream: StreamId,
        caller: Caller,
        signed: crate::wire::envelope::Signed,
        ctx: &mut Ctx<'_>,
    ) {
        let opened = match signed.open::<Order>(
            ctx.crypto,
            ctx.config.network,
            &ctx.crypto.key(),
            ctx.now.wall,
        ) {
            Ok(opened) => opened,
            Err(error) => {
                return self.refuse(
                    stream,
                    Refusal::new(Code::BadEnvelope, error.to_string()),
                    ctx,
                );
            }
        };
        let payer = self.is_payer(&opened.envelope.from, ctx.config.quantum);
        let offer = match self.admit(&opened, caller.peer, payer, &ctx.config.modes) {
            Ok(offer) => offer,
            Err(refusal) => return self.refuse(stream, refusal, ctx),
        };
        // Whoever sends somebody's envelope again is not its signer: nobody is blamed.
        if self.replay.knows(&opened.envelope) {
            return self.refuse(stream, not_admitted(EnvelopeError::Replayed), ctx);
        }
        if !self.make_room(&caller, payer, signed.bytes.len(), ctx) {
            let text = "too many orders wait for their entry payments";
            return self.refuse(stream, busy(Code::TooManyUnpaid, text), ctx);
        }
        let id = OrderId::of(&opened.digest);
        self.streams.insert(stream, Use::Host(id));
        let order = HostOrder::open(stream, caller, signed, opened, offer, payer, ctx);
        self.hosts.insert(id, order);
    }

    /// Whether the next order of a key stands apart from those of strangers: the key paid here in
    /// this run, a step for each order that it then has unpaid.
    fn is_payer(&self, key: &NodeKey, step: Msat) -> bool {
        let unpaid = |order: &&HostOrder| order.is_unpaid() && order.buyer() == *key;
        let orders = self.hosts.values().filter(unpaid).count() + 1;
        self.payers.covers(key, orders, step)
    }

    /// Lets unpaid orders go until one of `bytes` has room: of strangers first among those of its
    /// address, then among all. Orders of known keys have as much room apart from theirs.
    /// Returns whether there is room.
    fn make_room(&mut self, caller: &Caller, known: bool, bytes: usize, ctx: &mut Ctx<'_>) -> bool {
        let alike = |order: &HostOrder| order.is_unpaid() && order.is_known() == known;
        let of_address =
            |order: &HostOrder| alike(order) && order.caller().address == caller.address;
        let count = self
            .hosts
            .values()
            .filter(|order| of_address(order))
            .count();
        if !known
            && count >= limits::MAX_UNPAID_PER_ADDRESS
            && self.let_one_go(of_address, ctx).is_none()
        {
            return false;
        }
        let (mut count, mut held) = (0, bytes);
        for order in self.hosts.values().filter(|order| alike(order)) {
            count += 1;
            held = held.saturating_add(order.bytes());
        }
        while count >= MAX_UNPAID || held > MAX_UNPAID_BYTES {
            let Some(freed) = self.let_one_go(alike, ctx) else {
                return false;
            };
            count -= 1;
            held = held.saturating_sub(freed);
        }
        true
    }

    /// Of some unpaid orders, lets one go: the oldest whose terms nobody accepted; then of those
    /// accepted so long ago that their payments should have come. Returns the bytes that it held;
    /// it is dropped at the end of the turn.
    fn let_one_go(
        &mut self,
        unpaid: impl Fn(&HostOrder) -> bool,
        ctx: &mut Ctx<'_>,
    ) -> Option<usize> {
        let now = ctx.now.tick;
        let grace = |then| now.ms_since(then) < ENTRY_GRACE_MS;
        let gives_way =
            |order: &&mut HostOrder| unpaid(order) && !order.accepted().is_some_and(grace);
        let candidates = self.hosts.values_mut().filter(gives_way);
        let oldest = candidates.min_by_key(|order| (order.accepted(), order.came()))?;
        oldest.evict(ctx);
        Some(oldest.bytes())
    }

    /// Orders of a sender that ended unpaid since the last sweep.
    fn voids(&self, sender: Sender) -> u32 {
        self.voids.get(&sender).copied().unwrap_or_default()
    }

    /// Where many orders of an address ended unpaid, strangers from there are offered nothing for
    /// a while: an entry invoice stays in wallet and ledger. Who has credit or paid in this run is
    /// not concerned.
    fn worth_an_offer(&self, order: &OrderId, credit: Credit) -> Result<Credit, Refusal> {
        let address = self.hosts.get(order).map(|order| order.caller().address);
        let voids = address.map_or(0, |address| self.voids(Sender::Address(address)));
        let stranger = credit.prepay && !self.hosts.get(order).is_some_and(HostOrder::is_known);
        if stranger && voids >= limits::MAX_VOID_PER_ADDRESS {
            let text = "many orders that came from this address were not paid";
            return Err(busy(Code::TooManyUnpaid, text));
        }
        Ok(credit)
    }

    /// Of the strangers' orders that cost less than a msat one stands at a time: they hold
    /// places for nothing.
    fn one_gratis(&mut self, order: OrderId, ctx: &mut Ctx<'_>) {
        let gratis = |host: &&HostOrder| host.is_gratis() && host.state != HostState::Over;
        let newest = self.hosts.get(&order).filter(gratis).is_some();
        if newest && self.hosts.values().filter(gratis).count() > 1 {
            let text = "an order of less than a msat of another buyer is under way";
            self.host(order, |host| {
                host.fail(busy(Code::TooManyUnpaid, text), ctx)
            });
        }
    }

    /// How soon an order that is paid for now would begin. Milliseconds.
    fn starts_within(&self, order: &OrderId, now: Tick) -> u64 {
        let Some(model) = self.hosts.get(order).map(HostOrder::model) else {
            return 0;
        };
        let slots = self.served.get(&model);
        let slots = slots.map_or(1, |served| served.limits.concurrent_orders);
        self.waits.starts_within(self.hosts, &model, slots, now)
    }

    fn admit(
        &self,
        opened: &Opened<Order>,
        peer: PeerTag,
        payer: bool,
        modes: &[PaymentMode],
    ) -> Result<crate::wire::manifest::ModelOffer, Refusal> {
        let (order, digest, buyer) = (&opened.body, &opened.digest, &opened.envelope.from);
        match self.admission {
            Admission::Open => {}
            Admission::OwnerActive => {
                return Err(Refusal::new(
                    Code::OwnerActive,
                    "the owner of this machine needs it",
                ));
            }
            Admission::Draining => {
                return Err(Refusal::new(
                    Code::ShuttingDown,
                    "this host is shutting down",
                ));
            }
        }
        order
            .job
            .check()
            .map_err(|error| Refusal::new(Code::BadOrder, error.to_string()))?;
        order
            .check()
            .map_err(|error| Refusal::new(Code::BadOrder, error.to_string()))?;
        if !order.job.prefix.is_empty() {
            let text = "this host does not go on with another host's answer";
            return Err(Refusal::new(Code::BadOrder, text));
        }
        if order.handling != Handling::Plain {
            let text = "this host has no attested hardware";
            return Err(Refusal::new(Code::HandlingUnsupported, text));
        }
        if order.payment_grain.0 > limits::MAX_PAYMENT_GRAIN_MSAT {
            let text = format!("a payment grain of {}", order.payment_grain);
            return Err(Refusal::new(Code::BadOrder, text));
        }
        let served = self
            .served
            .get(&order.model)
            .ok_or_else(|| Refusal::new(Code::UnknownModel, "this model is not served here"))?;
        if !modes.contains(&order.mode) {
            let text = format!("this host offers the payment modes {modes:?} alone");
            return Err(Refusal::new(Code::ModeUnsupported, text.to_lowercase()));
        }
        if order.job.most_delivered() == 0 || order.job.max_output > served.limits.output_tokens {
            let message = format!(
                "max_output is {}, this host allows 1 to {} (or, for embeddings, no text was sent)",
                order.job.max_output, served.limits.output_tokens
            );
            return Err(Refusal::new(Code::TooLong, message));
        }
        if self.hosts.contains_key(&OrderId::of(digest)) {
            return Err(Refusal::new(Code::BadOrder, "this order is under way"));
        }
        let room = served
            .limits
            .concurrent_orders
            .saturating_add(served.limits.queued_orders);
        let taken = self
            .hosts
            .values()
            .filter(|host| host.model() == order.model && host.takes_place())
            .count();
        if taken >= room as usize || self.hosts.len() >= limits::MAX_ORDERS {
            return Err(busy(Code::Busy, "all slots and the queue are full"));
        }
        let of_peer = |known: bool| {
            let unpaid = self.hosts.values().filter(|host| {
                host.is_unpaid() && host.is_known() == known && host.caller().peer == peer
            });
            unpaid.count()
        };
        let voids = self.voids(Sender::Peer(peer));
        // Whoever paid has no less than a stranger.
        let most = limits::MAX_UNPAID_PER_PEER.max(room as usize);
        if (!payer && of_peer(false) >= limits::MAX_UNPAID_PER_PEER)
            || of_peer(true) >= most
            || voids.max(self.voids(Sender::Key(*buyer))) >= limits::MAX_VOID_PER_MINUTE
        {
            let text = "orders of this peer wait for their payment, or many of them were not paid";
            return Err(busy(Code::TooManyUnpaid, text));
        }
        Ok(served.offer.clone())
    }

    fn host_frame(&mut self, order: OrderId, frame: Frame, ctx: &mut Ctx<'_>) {
        let Some(host) = self.hosts.get_mut(&order) else {
            return;
        };
        match frame {
            Frame::Accept(terms) => host.accept(terms, ctx),
            Frame::Paid(signed) => {
                match signed.open::<Paid>(
                    ctx.crypto,
                    ctx.config.network,
                    &ctx.crypto.key(),
                    ctx.now.wall,
                ) {
                    Ok(paid) => host.paid_frame(signed, &paid, ctx),
                    Err(error) => {
                        host.fail(Refusal::new(Code::BadEnvelope, error.to_string()), ctx)
                    }
                }
            }
            Frame::Countersigned(signed) => {
                match signed.open::<Countersigned>(
                    ctx.crypto,
                    ctx.config.network,
                    &ctx.crypto.key(),
                    ctx.now.wall,
                ) {
                    Ok(opened) => {
                        host.countersigned(
                            signed,
                            &opened.body.receipt,
                            &opened.envelope.from,
                            ctx,
                        );
                    }
                    Err(error) => {
                        host.fail(Refusal::new(Code::BadEnvelope, error.to_string()), ctx)
                    }
                }
            }
            Frame::Stop => host.stop(ctx),
            Frame::Cancel => host.abandon(Code::Cancelled, ctx),
            other => {
                let message = format!("a buyer does not send a {} frame now", other.name());
                ctx.offence(host.buyer(), order, OffenceKind::UnexpectedFrame, &message);
                host.fail(Refusal::new(Code::ProtocolViolation, message), ctx);
            }
        }
    }

    fn garbled(&mut self, stream: StreamId, detail: String, ctx: &mut Ctx<'_>) {
        if self.fresh.remove(&stream).is_some() {
            return self.refuse(stream, Refusal::new(Code::ProtocolViolation, detail), ctx);
        }
        match self.streams.get(&stream).copied() {
            Some(Use::Buyer(request)) => {
                self.buyer(request, |buyer| buyer.on_malformed_frame(detail, ctx))
            }
            Some(Use::Host(order)) => self.host(order, |host| {
                ctx.tell(Message::Offended(Offence {
                    by: host.buyer(),
                    order: Some(order),
                    kind: OffenceKind::MalformedFrame,
                    detail: detail.clone(),
                }));
                host.fail(Refusal::new(Code::ProtocolViolation, detail), ctx);
            }),
            None => {}
        }
    }

    fn closed(&mut self, stream: StreamId, ctx: &mut Ctx<'_>) {
        self.fresh.remove(&stream);
        match self.streams.remove(&stream) {
            Some(Use::Buyer(request)) => self.buyer(request, |buyer| {
                if buyer.stream() == Some(stream) {
                    buyer.on_stream_closed(ctx);
                }
            }),
            Some(Use::Host(order)) => self.host(order, |host| {
                host.stream = None;
                host.abandon(Code::Disconnected, ctx);
            }),
            None => {}
        }
    }

    fn expire(&mut self, ctx: &mut Ctx<'_>) {
        for buyer in self.buyers.values_mut() {
            buyer.expire(ctx);
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
