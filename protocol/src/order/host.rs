//! One order on the host's side: terms, credit, output, invoices, receipt.
//!
//! Not admission (which orders are taken, and when they may run): that is the
//! inference machine's, which owns these. Not the ledger: that is Payment's.
//!
//! # States
//! `Counting → Crediting → [MakingEntry →] Offered → Queued → Running → Settling
//! → AwaitingCountersign → Over`
//!
//! # Parts
//! | file | what |
//! |---|---|
//! | `offer` | the terms, from the count of the prompt to the acceptance |
//! | `pace` | how much is given ahead of payment: pure arithmetic |
//! | `bills` | the invoices and their payments |
//! | `finish` | the receipt, and the books at the end |
//!
//! # Payment modes
//! | mode | before prefill | while tokens stream | at the end |
//! |---|---|---|---|
//! | `metered` | an unknown buyer pays the input and one step of output | steps | the remainder |
//! | `before` | the cost of everything ordered, or the cap | nothing | nothing; what was not used is not refunded |
//! | `after` | nothing: only where the window covers the whole order | nothing | one invoice |
//!
//! # Invariants
//! - Delivered and unpaid output never exceeds the credit window: the engine's
//!   allowance is derived from `paid + window` and nothing else.
//! - No prefill before the entry payment is settled, where one is asked for.
//! - Nothing is written to disk for a buyer that has not paid, in this order or before.
//! - An order whose entry payment was settled is served while its stream lives,
//!   however late the payment came.
//! - An invoice covers only what was sent before it on the same stream.
//! - The sum of invoices never exceeds the larger of the entry and the cost of
//!   what was delivered, and never the buyer's `max_cost`.

mod bills;
mod finish;
mod offer;
mod pace;

use crate::ids::{Caller, Digest, EffectId, ModelDigest, NodeKey, OrderId, StreamId};
use crate::message::inference::{Effect, PromptFacts};
use crate::message::payment::Side;
use crate::money::{Counts, Meter, Msat};
use crate::order::context::Ctx;
use crate::order::record::Journal;
use crate::refusal::{Code, Refusal};
use crate::time::{Tick, WallTime};
use crate::wire::attached::Attached;
use crate::wire::chain::{ChainedToken, TokenChain};
use crate::wire::envelope::{Envelope, Opened, Signed};
use crate::wire::manifest::ModelOffer;
use crate::wire::order::{Chunk, Finish, Frame, Order, Terms};
use bills::Issued;
use pace::Pace;
use std::collections::BTreeMap;

/// Suggested wait where an unpaid order gave way to others. Milliseconds.
const EVICTED_RETRY_MS: u64 = 2_000;

/// Where the order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The engine counts the prompt.
    Counting(EffectId),
    /// Payment looks up the buyer's credit.
    Crediting,
    /// Payment makes the entry invoice.
    MakingEntry,
    /// Terms are out.
    Offered,
    /// Waits for a slot.
    Queued,
    /// The engine produces.
    Running,
    /// All output is sent; payments are outstanding.
    Settling,
    /// The receipt is out.
    AwaitingCountersign,
    /// Nothing more to do.
    Over,
}

/// One order on the host's side.
#[derive(Debug)]
pub struct HostOrder {
    // Course.
    /// Its stream; `None` once it is gone.
    pub stream: Option<StreamId>,
    /// Where it stands.
    pub state: State,
    /// When [`HostOrder::expire`] must run.
    deadline: Tick,
    /// When it came.
    came: Tick,
    /// When the buyer agreed to the terms.
    accepted: Option<Tick>,
    /// When its engine began, or it came.
    started: WallTime,
    /// When its output ended, or it did.
    ended: WallTime,
    /// It gave way to others, or its model was withdrawn: no fault of who sent it.
    let_go: bool,

    // Who ordered what.
    /// Who sent it.
    caller: Caller,
    /// The signed order.
    signed: Signed,
    /// The same, opened.
    order: Opened<Order>,
    /// What of ours was ordered.
    offer: ModelOffer,
    /// This buyer has credit from before this order: it may be written down.
    known: bool,
    /// Its key paid in this run: it stands apart from strangers' before credit is looked up, and
    /// where none is left.
    payer: bool,

    // Terms.
    /// What the engine said of the prompt.
    prompt: PromptFacts,
    /// The terms, once they are out.
    terms: Option<(Signed, Terms)>,
    /// The step of payment that is listed.
    quantum: Msat,
    /// How soon a place was free when the terms were made.
    starts_within_ms: u64,

    // Output.
    /// The chain over the tokens.
    chain: TokenChain,
    /// The input, and the output delivered so far.
    counts: Counts,
    /// Units of output that the engine may make in all.
    allowed: u64,
    /// The number of the next chunk.
    next_chunk: u32,
    /// The end that was said.
    finish: Option<Finish>,
    /// When the engine last gave output, or began.
    produced_at: Tick,
    /// When it began to run, while it does.
    runs_since: Option<Tick>,
    /// How long of that nothing was allowed, for nothing was paid. Milliseconds.
    stalled_ms: u64,

    // Money.
    /// Output that may be unpaid at once.
    window: Msat,
    /// Debt of earlier orders that this one takes up.
    carried: Msat,
    /// Paid so far.
    paid: Msat,
    /// Sum of the invoices so far.
    invoiced: Msat,
    /// The invoices, by their number; the entry payment is 0.
    issued: BTreeMap<u32, Issued>,
    /// Those that were sent, signed.
    invoices: Vec<Signed>,

    // Evidence and books.
    /// The buyer's signatures under its payments, by the number of the invoice.
    countersigned_payments: BTreeMap<u32, Signed>,
    /// The receipt, once it is out.
    receipt: Option<Signed>,
    /// The buyer's signature under it.
    countersigned: Option<Signed>,
    /// What of the order is on disk.
    journal: Journal,
    /// The books have the end of it.
    closed: bool,
}

impl HostOrder {
    /// Takes an order that was admitted, and has its prompt counted. `payer`: its key paid here
    /// in this run, a step for each order that it has unpaid.
    pub fn open(
        stream: StreamId,
        caller: Caller,
        signed: Signed,
        order: Opened<Order>,
        offer: ModelOffer,
        payer: bool,
        ctx: &mut Ctx<'_>,
    ) -> Self {
        let id = ctx.fresh();
        let journal = Journal::new(Side::Host, OrderId::of(&order.digest));
        ctx.out.push(Effect::CountPrompt {
            id,
            caller,
            payer,
            buyer: order.envelope.from,
            model: order.body.model,
            job: Box::new(order.body.job.clone()),
            salt: order.body.salt,
        });
        HostOrder {
            stream: Some(stream),
            state: State::Counting(id),
            caller,
            chain: TokenChain::new(&order.digest, &Digest([0; 32])),
            signed,
            order,
            offer,
            prompt: PromptFacts {
                tokens: 0,
                cached: 0,
                longest: 0,
                digest: Digest([0; 32]),
            },
            terms: None,
            quantum: ctx.config.quantum,
            accepted: None,
            counts: Counts::default(),
            window: Msat::ZERO,
            starts_within_ms: 0,
            carried: Msat::ZERO,
            paid: Msat::ZERO,
            invoiced: Msat::ZERO,
            issued: BTreeMap::new(),
            invoices: Vec::new(),
            countersigned_payments: BTreeMap::new(),
            countersigned: None,
            journal,
            known: false,
            payer,
            closed: false,
            allowed: 0,
            finish: None,
            next_chunk: 0,
            receipt: None,
            came: ctx.now.tick,
            produced_at: ctx.now.tick,
            runs_since: None,
            stalled_ms: 0,
            let_go: false,
            started: ctx.now.wall,
            ended: ctx.now.wall,
            deadline: ctx.now.tick.after_ms(ctx.config.terms_ttl_ms),
        }
    }

    /// The order's id.
    pub fn id(&self) -> OrderId {
        OrderId::of(&self.order.digest)
    }

    /// Whether nothing was paid for it and nothing began: it holds no place, whoever ordered
    /// it, and gives way to others.
    pub fn is_unpaid(&self) -> bool {
        self.paid == Msat::ZERO
            && matches!(
                self.state,
                State::Counting(_) | State::Crediting | State::MakingEntry | State::Offered
            )
    }

    /// Whether it ended without a payment and without output, or with output too small to
    /// cost anything at a host that asks for money.
    pub fn was_void(&self) -> bool {
        self.paid == Msat::ZERO && (self.counts.delivered() == 0 || self.is_gratis())
    }

    /// Whether it gave way to others, or lost its model: who sent it did nothing wrong.
    pub fn was_let_go(&self) -> bool {
        self.let_go
    }

    /// Whether its buyer has credit here, from what it paid before, or paid in this run.
    pub fn is_known(&self) -> bool {
        self.known || self.payer
    }

    /// Whether a stranger gets it for nothing because its cost is below one msat.
    pub fn is_gratis(&self) -> bool {
        let priced = self
            .offer
            .prices
            .0
            .iter()
            .any(|one| one.msat_per_million > 0);
        let asked = !matches!(self.state, State::Counting(_) | State::Crediting);
        priced && asked && !self.known && self.issued.is_empty()
    }

    /// When the buyer agreed to the terms, so that a payment may be on its way.
    pub fn accepted(&self) -> Option<Tick> {
        self.accepted
    }

    /// Whether it holds one of the places: it waits for its turn, runs, or is being paid.
    pub fn takes_place(&self) -> bool {
        matches!(self.state, State::Queued | State::Running | State::Settling)
    }

    /// The signed order's envelope.
    pub fn envelope(&self) -> &Envelope {
        &self.order.envelope
    }

    /// What was paid for it.
    pub fn paid(&self) -> Msat {
        self.paid
    }

    /// Who sent it.
    pub fn caller(&self) -> Caller {
        self.caller
    }

    /// How long its engine could run since it began. Milliseconds. What a buyer that pays late
    /// makes it wait says nothing of the next order.
    pub fn ran_ms(&self, now: Tick) -> u64 {
        let since = self.runs_since.map_or(0, |begun| now.ms_since(begun));
        since.saturating_sub(self.stalled_ms.saturating_add(self.stalls_ms(now)))
    }

    /// How long nothing has been allowed now. Milliseconds.
    fn stalls_ms(&self, now: Tick) -> u64 {
        match self.counts.delivered() >= self.allowed {
            true => now.ms_since(self.produced_at),
            false => 0,
        }
    }

    /// How long it ran, once, when it no longer runs. Milliseconds.
    pub fn took_ms(&mut self, now: Tick) -> Option<u64> {
        let ran = self.ran_ms(now);
        self.runs_since
            .take_if(|_| self.state != State::Running)
            .map(|_| ran)
    }

    /// When it came.
    pub fn came(&self) -> Tick {
        self.came
    }

    /// Bytes that the order holds in memory.
    pub fn bytes(&self) -> usize {
        self.signed.bytes.len()
    }

    /// Makes room for others: an unpaid order gives way.
    pub fn evict(&mut self, ctx: &mut Ctx<'_>) {
        self.let_go = true;
        let text = "others came, and this order was not paid for";
        let mut refusal = Refusal::new(Code::TooManyUnpaid, text);
        refusal.retry_after_ms = Some(EVICTED_RETRY_MS);
        self.fail(refusal, ctx);
    }

    /// Its model is no longer served: it ends, unless its engine began, which says itself how
    /// it ends. Nobody is to pay for it any more.
    pub fn withdraw(&mut self, ctx: &mut Ctx<'_>) {
        if !self.began() && self.state != State::Over {
            self.let_go = true;
            let text = "the engine of this model broke, and it is no longer served here";
            self.fail(Refusal::new(Code::EngineFailed, text), ctx);
        }
    }

    /// The model.
    pub fn model(&self) -> ModelDigest {
        self.order.body.model
    }

    /// The buyer's order key.
    pub fn buyer(&self) -> NodeKey {
        self.order.envelope.from
    }

    /// When [`HostOrder::expire`] must run.
    pub fn deadline(&self) -> Option<Tick> {
        (!matches!(self.state, State::Over | State::Queued)).then_some(self.deadline)
    }

    /// Delivered and unpaid, carried debt included.
    pub fn unpaid(&self) -> Msat {
        self.due().saturating_sub(self.paid)
    }

    fn due(&self) -> Msat {
        // Before any output nothing is owed: the entry payment comes first.
        if self.counts.delivered() == 0 && !self.began() {
            return Msat::ZERO;
        }
        self.pace().cost().saturating_add(self.carried)
    }

    /// Whether its engine began.
    fn began(&self) -> bool {
        matches!(
            self.state,
            State::Running | State::Settling | State::AwaitingCountersign
        )
    }

    /// What the order came to so far, for windows, steps and allowances.
    fn pace(&self) -> Pace<'_> {
        Pace {
            prices: &self.offer.prices,
            meter: self.meter(),
            ordered: self.order.body.job.most_delivered(),
            max_cost: self.order.body.max_cost,
            grain: self.order.body.payment_grain,
            quantum: self.quantum,
            counts: self.counts,
            window: self.window,
            carried: self.carried,
            paid: self.paid,
            invoiced: self.invoiced,
        }
    }

    /// A slot is free: begin.
    pub fn start(&mut self, ctx: &mut Ctx<'_>) {
        self.state = State::Running;
        self.started = ctx.now.wall;
        self.produced_at = ctx.now.tick;
        self.runs_since = Some(ctx.now.tick);
        self.allowed = self.pace().allowance();
        self.touch(ctx);
        ctx.out.push(Effect::StartEngine {
            order: self.id(),
            buyer: self.buyer(),
            model: self.model(),
            job: Box::new(self.order.body.job.clone()),
            allowed: self.allowed,
        });
    }

    fn touch(&mut self, ctx: &Ctx<'_>) {
        self.deadline = ctx.now.tick.after_ms(ctx.config.pay_timeout_ms);
    }

    /// What one delivered unit is.
    fn meter(&self) -> Meter {
        self.order.body.job.meter()
    }

    /// Units of output delivered.
    pub fn delivered(&self) -> u64 {
        self.counts.delivered()
    }

    /// Units of output that it may still be delivered.
    pub fn left(&self) -> u64 {
        self.pace().most_output().saturating_sub(self.delivered())
    }

    /// The engine produced output.
    pub fn on_output(
        &mut self,
        tokens: Vec<ChainedToken>,
        finish: Option<Finish>,
        attached: Attached,
        ctx: &mut Ctx<'_>,
    ) {
        if self.state != State::Running {
            return;
        }
        for token in &tokens {
            self.chain.push(token);
        }
        let delivered = self.counts.delivered() + tokens.len() as u64;
        self.counts = self.counts.with_delivered(self.meter(), delivered);
        self.touch(ctx);
        let capped = delivered >= self.pace().most_output();
        let job_done = delivered >= self.order.body.job.most_delivered();
        let finish = finish.or(match (capped, job_done) {
            (_, true) => Some(Finish::Length),
            (true, false) => Some(Finish::Budget),
            _ => None,
        });
        if tokens.is_empty() && finish.is_none() {
            return;
        }
        self.produced_at = ctx.now.tick;
        self.send_chunk(tokens, finish, attached, ctx);
        match finish {
            Some(finish) => {
                if finish == Finish::Budget {
                    ctx.out.push(Effect::CancelEngine { order: self.id() });
                }
                self.finish_output(finish, ctx);
            }
            None => self.invoice_if_due(ctx),
        }
    }

    fn send_chunk(
        &mut self,
        tokens: Vec<ChainedToken>,
        finish: Option<Finish>,
        attached: Attached,
        ctx: &mut Ctx<'_>,
    ) {
        let chunk = Chunk {
            seq: self.next_chunk,
            tokens,
            totals: self.counts,
            finish,
            attached,
            extensions: Vec::new(),
        };
        self.next_chunk += 1;
        if let Some(stream) = self.stream {
            ctx.send(stream, Frame::Chunk(chunk));
        }
    }

    /// The engine gave up.
    pub fn on_engine_failed(&mut self, reason: &str, ctx: &mut Ctx<'_>) {
        if self.state == State::Running {
            self.state = State::Settling; // nothing to cancel any more
            self.fail(Refusal::new(Code::EngineFailed, reason), ctx);
        }
    }

    /// Runs what is due.
    pub fn expire(&mut self, ctx: &mut Ctx<'_>) {
        if self.deadline > ctx.now.tick {
            return;
        }
        match self.state {
            State::AwaitingCountersign => {
                let status = self.status();
                self.over(status, ctx);
            }
            // Still entitled to produce: the engine is slow, the buyer is not late.
            State::Running if self.outstanding() == 0 && self.counts.delivered() < self.allowed => {
                let silent_ms = ctx.now.tick.ms_since(self.produced_at);
                if silent_ms < ctx.config.engine_timeout_ms {
                    return self.touch(ctx);
                }
                let text = format!("the engine gave no output for {} s", silent_ms / 1_000);
                self.fail(Refusal::new(Code::EngineFailed, text), ctx);
            }
            State::Running | State::Settling => {
                self.fail(
                    Refusal::new(Code::NotPaid, "an invoice was not paid in time"),
                    ctx,
                );
            }
            State::Offered => {
                let what = if self.accepted.is_some() {
                    "the entry payment did not arrive"
                } else {
                    "the terms were not accepted"
                };
                self.fail(Refusal::new(Code::NotPaid, format!("{what} in time")), ctx);
            }
            State::Counting(_) | State::Crediting | State::MakingEntry => {
                self.fail(
                    Refusal::new(Code::Timeout, "terms could not be made in time"),
                    ctx,
                );
            }
            State::Queued | State::Over => {}
        }
    }
}
