//! One order on the host's side: terms, credit, output, invoices, receipt.
//!
//! Not admission (which orders are taken, and when they may run): that is the
//! inference machine's, which owns these. Not the ledger: that is Payment's.
//!
//! # States
//! `Counting → Crediting → [MakingEntry →] Offered → Queued → Running → Settling
//! → AwaitingCountersign → Over`
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

use crate::ids::{Caller, Digest, EffectId, NodeKey, OrderId, PaymentHash, StreamId};
use crate::limits;
use crate::message::inference::{Effect, OrderAccount, PromptFacts};
use crate::message::payment::{Credit, Side};
use crate::message::sibling::Message;
use crate::money::{Counts, Meter, Msat};
use crate::offence::OffenceKind;
use crate::order::context::Ctx;
use crate::order::record::{Closing, Journal, OrderRecord};
use crate::refusal::{Code, Refusal};
use crate::time::{Tick, WallTime};
use crate::wire::attached::Attached;
use crate::wire::chain::{ChainedToken, TokenChain};
use crate::wire::envelope::{Envelope, Opened, Signed};
use crate::wire::manifest::{ModelOffer, PaymentMode};
use crate::wire::order::{
    Accept, Chunk, EntryInvoice, Finish, Frame, Invoice, Order, Paid, PaymentEntry, Receipt,
    Retention, Status, Terms, description_hash,
};
use std::collections::BTreeMap;

/// How long a buyer may take to countersign. Milliseconds. The receipt stands without it.
const COUNTERSIGN_TIMEOUT_MS: u64 = 10_000;

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

#[derive(Debug)]
struct Issued {
    msat: Msat,
    covers: Counts,
    head: Digest,
    invoiced: Msat,
    hash: Option<PaymentHash>,
    settled: bool,
    /// Made, and waiting for those before it to be made and sent.
    unsent: Option<String>,
}

/// One order on the host's side.
#[derive(Debug)]
pub struct HostOrder {
    /// Its stream; `None` once it is gone.
    pub stream: Option<StreamId>,
    /// Where it stands.
    pub state: State,
    /// Who sent it.
    caller: Caller,
    signed: Signed,
    order: Opened<Order>,
    offer: ModelOffer,
    prompt: PromptFacts,
    terms: Option<(Signed, Terms)>,
    /// When the buyer agreed to the terms.
    accepted: Option<Tick>,
    chain: TokenChain,
    counts: Counts,
    window: Msat,
    starts_within_ms: u64,
    carried: Msat,
    paid: Msat,
    invoiced: Msat,
    issued: BTreeMap<u32, Issued>,
    invoices: Vec<Signed>,
    /// The buyer's signatures under its payments, by the number of the invoice.
    countersigned_payments: BTreeMap<u32, Signed>,
    countersigned: Option<Signed>,
    journal: Journal,
    /// This buyer has credit from before this order: it may be written down.
    known: bool,
    /// Its key paid in this run: it stands apart from strangers' before credit is looked up, and
    /// where none is left.
    payer: bool,
    /// The books have the end of it.
    closed: bool,
    allowed: u64,
    finish: Option<Finish>,
    next_chunk: u32,
    receipt: Option<Signed>,
    came: Tick,
    /// When the engine last gave output, or began.
    produced_at: Tick,
    /// When it began to run, while it does.
    runs_since: Option<Tick>,
    /// How long of that nothing was allowed, for nothing was paid. Milliseconds.
    stalled_ms: u64,
    /// It gave way to others, or its model was withdrawn: no fault of who sent it.
    let_go: bool,
    started: WallTime,
    ended: WallTime,
    deadline: Tick,
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
        if self.started_running() == 0 && self.state != State::Over {
            self.let_go = true;
            let text = "the engine of this model broke, and it is no longer served here";
            self.fail(Refusal::new(Code::EngineFailed, text), ctx);
        }
    }

    /// The model.
    pub fn model(&self) -> crate::ids::ModelDigest {
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
        if self.counts.delivered() == 0 && self.started_running() == 0 {
            return Msat::ZERO;
        }
        self.offer
            .prices
            .cost_or_max(&self.counts)
            .saturating_add(self.carried)
    }

    fn started_running(&self) -> u8 {
        u8::from(matches!(
            self.state,
            State::Running | State::Settling | State::AwaitingCountersign
        ))
    }

    /// The engine counted the prompt.
    pub fn counted(
        &mut self,
        result: Result<PromptFacts, Refusal>,
        max_prompt: u32,
        ctx: &mut Ctx<'_>,
    ) {
        let facts = match result {
            Ok(facts) => facts,
            Err(refusal) => return self.refuse(refusal, ctx),
        };
        let output = match self.meter() {
            Meter::Item => 0,
            _ => self.order.body.job.max_output,
        };
        let total = facts.longest.saturating_add(u64::from(output));
        if facts.tokens > u64::from(max_prompt) || total > u64::from(self.offer.context) {
            let message = format!(
                "prompt of {} tokens (the longest text has {}) and {output} of output do not fit: the context is {}, the longest prompt {}",
                facts.tokens, facts.longest, self.offer.context, max_prompt
            );
            return self.refuse(Refusal::new(Code::TooLong, message), ctx);
        }
        self.prompt = facts;
        // Where the listing has no price for cached input, all of it is computed input.
        let cached = match self.offer.prices.lists(Meter::CachedInputToken) {
            true => facts.cached.min(facts.tokens),
            false => 0,
        };
        self.counts = Counts {
            input_tokens: facts.tokens - cached,
            cached_input_tokens: cached,
            ..Counts::default()
        };
        self.state = State::Crediting;
        ctx.tell(Message::OpenCredit {
            order: self.id(),
            buyer: self.buyer(),
            caller: self.caller,
            quantum: self.least_window(ctx),
        });
    }

    /// Payment told how far the buyer is trusted. `starts_within_ms`: how soon a place is free.
    pub fn credit_opened(
        &mut self,
        credit: Result<Credit, Refusal>,
        starts_within_ms: u64,
        ctx: &mut Ctx<'_>,
    ) {
        if self.state != State::Crediting {
            return;
        }
        let Credit {
            window,
            prepay,
            debt,
        } = match credit {
            Ok(credit) => credit,
            Err(refusal) => return self.refuse(refusal, ctx),
        };
        self.starts_within_ms = starts_within_ms;
        self.window = window;
        self.carried = debt;
        let most = self.order.body.job.most_delivered();
        let ceiling = self.counts.with_delivered(self.meter(), most);
        let input = self.offer.prices.cost_or_max(&self.counts);
        let most = self.offer.prices.cost_or_max(&ceiling);
        let step = self.least_window(ctx);
        // Less than a step of credit carries no stream, unless it covers the whole order:
        // whoever has less prepays.
        let free = window.saturating_sub(debt);
        let mode = self.order.body.mode;
        if mode == PaymentMode::After && (prepay || free < most) {
            let text = format!(
                "the order may cost {most}, and this host gives this buyer credit for {free}"
            );
            return self.refuse(Refusal::new(Code::ModeUnsupported, text), ctx);
        }
        let prepay = prepay || free < step.min(most) || mode == PaymentMode::Before;
        self.known = !prepay;
        // At least one token: an order that can never begin takes no money.
        let output = match mode {
            PaymentMode::Before => most.saturating_sub(input),
            _ => most.saturating_sub(input).min(step),
        };
        let entry = self.rounded_up(input.saturating_add(output).saturating_add(debt));
        let entry = match mode {
            // The cap ends the output where it does not reach for all of it.
            PaymentMode::Before => entry.min(self.rounded_down(self.order.body.max_cost)),
            _ => entry,
        };
        if entry > self.order.body.max_cost {
            let message = format!(
                "the entry payment is {entry}, the order's cap is {} without routing fees",
                self.order.body.max_cost
            );
            return self.refuse(Refusal::new(Code::CapTooLow, message), ctx);
        }
        if most > input && self.most_output() == 0 {
            let message = format!(
                "the input costs {input}, and the order's cap of {} without routing fees leaves nothing for output",
                self.order.body.max_cost
            );
            return self.refuse(Refusal::new(Code::CapTooLow, message), ctx);
        }
        let can_begin = self.affordable(window.saturating_sub(debt)) > 0;
        if entry == Msat::ZERO || (!prepay && can_begin) {
            return self.offer_terms(None, ctx);
        }
        self.state = State::MakingEntry;
        self.invoiced = entry;
        self.make_invoice(0, entry, ctx);
    }

    /// One step of payment: the listing's, in amounts that the buyer's wallet can pay.
    fn step(&self, ctx: &Ctx<'_>) -> Msat {
        self.rounded_up(ctx.config.quantum)
    }

    /// What one unit of output costs.
    fn unit(&self) -> Msat {
        let prices = &self.offer.prices;
        let counts = self.counts.with_delivered(self.meter(), 0);
        let one = prices.cost_or_max(&counts.with_delivered(self.meter(), 1));
        one.saturating_sub(prices.cost_or_max(&counts))
    }

    /// The least window that carries a stream: a step, or one unit where that is dearer.
    fn least_window(&self, ctx: &Ctx<'_>) -> Msat {
        self.step(ctx).max(self.unit())
    }

    fn grain(&self) -> u64 {
        self.order.body.payment_grain.0.max(1)
    }

    fn rounded_up(&self, amount: Msat) -> Msat {
        let grain = self.grain();
        Msat(amount.0.div_ceil(grain).saturating_mul(grain))
    }

    fn rounded_down(&self, amount: Msat) -> Msat {
        Msat(amount.0 - amount.0 % self.grain())
    }

    fn make_invoice(&mut self, seq: u32, msat: Msat, ctx: &mut Ctx<'_>) {
        let covers = self.counts;
        self.issued.insert(
            seq,
            Issued {
                msat,
                covers,
                head: self.chain.head(),
                invoiced: self.invoiced,
                hash: None,
                settled: false,
                unsent: None,
            },
        );
        ctx.tell(Message::MakeInvoice {
            order: self.id(),
            seq,
            msat,
            description_hash: description_hash(&self.id(), seq, &covers),
            expiry_s: match seq {
                0 => ctx.config.entry_expiry_s,
                _ => ctx.config.invoice_expiry_s,
            },
        });
    }

    /// Payment made an invoice, or could not.
    pub fn invoice_made(
        &mut self,
        seq: u32,
        result: Result<(String, PaymentHash), Refusal>,
        ctx: &mut Ctx<'_>,
    ) {
        let (bolt11, hash) = match result {
            Ok(made) => made,
            Err(refusal) => return self.fail(refusal, ctx),
        };
        let Some(issued) = self.issued.get_mut(&seq) else {
            return;
        };
        issued.hash = Some(hash);
        if seq == 0 {
            let entry = EntryInvoice {
                bolt11,
                msat: issued.msat,
            };
            if self.state == State::MakingEntry {
                self.offer_terms(Some(entry), ctx);
            }
            return;
        }
        issued.unsent = Some(bolt11);
        self.send_invoices(ctx);
    }

    /// Sends what was made, in order: a wallet may make the second invoice before the first,
    /// and a buyer takes no sum that skips one.
    fn send_invoices(&mut self, ctx: &mut Ctx<'_>) {
        while let Some((seq, issued)) = self
            .issued
            .iter_mut()
            .find(|(seq, issued)| **seq > 0 && (issued.hash.is_none() || issued.unsent.is_some()))
        {
            let (Some(bolt11), Some(stream)) = (issued.unsent.take(), self.stream) else {
                return;
            };
            let invoice = Invoice {
                order: OrderId::of(&self.order.digest),
                seq: *seq,
                bolt11,
                msat: issued.msat,
                covers: issued.covers,
                invoiced: issued.invoiced,
                head: issued.head,
                window: self.window,
                extensions: Vec::new(),
            };
            let signed = ctx.seal(self.buyer(), &invoice);
            self.invoices.push(signed.clone());
            self.persist(ctx);
            ctx.send(stream, Frame::Invoice(signed));
        }
    }

    fn offer_terms(&mut self, entry: Option<EntryInvoice>, ctx: &mut Ctx<'_>) {
        let terms = Terms {
            order: self.order.digest,
            input: self.counts,
            prices: self.offer.prices.clone(),
            window: self.window,
            quantum: self.step(ctx),
            carried_debt: self.carried,
            entry,
            numerics: self.offer.numerics.clone(),
            tokenizer: self.offer.tokenizer,
            template: self.offer.template,
            starts_within_ms: self.starts_within_ms,
            expires: ctx.now.wall.after_ms(ctx.config.terms_ttl_ms),
            extensions: Vec::new(),
        };
        let signed = ctx.seal(self.buyer(), &terms);
        self.chain = TokenChain::new(&self.order.digest, &signed.digest());
        self.terms = Some((signed.clone(), terms));
        self.state = State::Offered;
        self.deadline = ctx.now.tick.after_ms(ctx.config.terms_ttl_ms);
        if let Some(stream) = self.stream {
            ctx.send(stream, Frame::Terms(signed));
        }
    }

    /// The buyer accepted terms.
    pub fn accept(&mut self, terms: Accept, ctx: &mut Ctx<'_>) {
        let matches = self
            .terms
            .as_ref()
            .is_some_and(|(signed, _)| signed.digest() == terms);
        if self.state != State::Offered || self.accepted.is_some() || !matches {
            return self.violation("an Accept that does not fit the terms", ctx);
        }
        self.accepted = Some(ctx.now.tick);
        // A payment that was sent in time may be settled long after its invoice expired.
        let entry_ms = u64::from(ctx.config.entry_expiry_s).saturating_mul(1_000);
        let late = entry_ms.saturating_add(ctx.config.late_entry_ms);
        self.deadline = ctx.now.tick.after_ms(late);
        self.queue_if_ready();
    }

    fn queue_if_ready(&mut self) {
        let entry_paid = self.issued.get(&0).is_none_or(|entry| entry.settled);
        if self.state == State::Offered && self.accepted.is_some() && entry_paid {
            self.state = State::Queued;
        }
    }

    /// A slot is free: begin.
    pub fn start(&mut self, ctx: &mut Ctx<'_>) {
        self.state = State::Running;
        self.started = ctx.now.wall;
        self.produced_at = ctx.now.tick;
        self.runs_since = Some(ctx.now.tick);
        self.allowed = self.allowance();
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

    /// Units of output that `paid + window` and the order's cap allow in total.
    fn allowance(&self) -> u64 {
        let credit = self
            .paid
            .saturating_add(self.window)
            .saturating_sub(self.carried);
        self.affordable(credit).min(self.most_output())
    }

    /// Units of output that the job and the buyer's cap allow.
    fn most_output(&self) -> u64 {
        let cap = self.order.body.max_cost.saturating_sub(self.carried);
        self.affordable(cap)
            .min(self.order.body.job.most_delivered())
    }

    /// Largest n with cost(input + n units of output) <= `credit`.
    fn affordable(&self, credit: Msat) -> u64 {
        let prices = &self.offer.prices;
        let per_token = u128::from(prices.of(self.meter()));
        if per_token == 0 {
            return u64::MAX;
        }
        let part = |meter, count| u128::from(prices.of(meter)) * u128::from(count);
        let input = part(Meter::InputToken, self.counts.input_tokens)
            + part(Meter::CachedInputToken, self.counts.cached_input_tokens);
        let room = ((u128::from(credit.0) + 1) * 1_000_000 - 1).saturating_sub(input);
        u64::try_from(room / per_token).unwrap_or(u64::MAX)
    }

    /// Units of output delivered.
    pub fn delivered(&self) -> u64 {
        self.counts.delivered()
    }

    /// Units of output that it may still be delivered.
    pub fn left(&self) -> u64 {
        self.most_output().saturating_sub(self.delivered())
    }

    /// The engine produced output.
    pub fn produced(
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
        let capped = delivered >= self.most_output();
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

    fn outstanding(&self) -> usize {
        self.issued
            .values()
            .filter(|issued| !issued.settled)
            .count()
    }

    fn invoice_if_due(&mut self, ctx: &mut Ctx<'_>) {
        if self.order.body.mode == PaymentMode::After {
            return;
        }
        let half = Msat(self.window.0 / 2);
        let least = self.step(ctx);
        let open = self.rounded_down(self.due().saturating_sub(self.invoiced));
        // Where output stands still until something is paid, whatever is open is invoiced. It may
        // be less than a unit short of a step.
        let stands = self.counts.delivered() >= self.allowed && self.outstanding() == 0;
        let due = open >= half.max(least) || (stands && open > Msat::ZERO);
        if due && self.outstanding() < limits::MAX_PAYMENTS_IN_FLIGHT {
            self.invoice(open, ctx);
        }
    }

    fn invoice(&mut self, msat: Msat, ctx: &mut Ctx<'_>) {
        let seq = self
            .issued
            .keys()
            .next_back()
            .map_or(1, |last| last.saturating_add(1))
            .max(1);
        self.invoiced = self.invoiced.saturating_add(msat);
        self.make_invoice(seq, msat, ctx);
    }

    fn finish_output(&mut self, finish: Finish, ctx: &mut Ctx<'_>) {
        self.finish = Some(finish);
        self.ended = ctx.now.wall;
        self.state = State::Settling;
        self.touch(ctx);
        let open = self.rounded_down(self.due().saturating_sub(self.invoiced));
        if open >= ctx.config.min_invoice.max(Msat(1)) {
            self.invoice(open, ctx);
        }
        self.settle_if_done(ctx);
    }

    /// Payment received a payment for invoice `seq`.
    pub fn credited(&mut self, seq: u32, msat: Msat, window: Msat, ctx: &mut Ctx<'_>) {
        let Some(issued) = self.issued.get_mut(&seq) else {
            return;
        };
        if issued.settled {
            return;
        }
        issued.settled = true;
        self.paid = self.paid.saturating_add(msat);
        // At least a step of what this very order paid, so that its stream can go on.
        self.window = window.max(self.least_window(ctx).min(self.paid));
        if !self.journal.is_open() {
            self.persist(ctx);
        }
        if matches!(self.state, State::Running | State::Settling) {
            self.touch(ctx);
        }
        match self.state {
            State::Offered => self.queue_if_ready(),
            State::Running => {
                let allowed = self.allowance();
                if allowed > self.allowed {
                    self.stalled_ms = self.stalled_ms.saturating_add(self.stalls_ms(ctx.now.tick));
                    self.allowed = allowed;
                    ctx.out.push(Effect::AllowTokens {
                        order: self.id(),
                        total: allowed,
                    });
                }
                self.invoice_if_due(ctx);
            }
            State::Settling => self.settle_if_done(ctx),
            _ => {}
        }
    }

    fn settle_if_done(&mut self, ctx: &mut Ctx<'_>) {
        if self.state == State::Settling
            && self.outstanding() == 0
            && let Some(finish) = self.finish
        {
            self.issue_receipt(finish, ctx);
        }
    }

    fn issue_receipt(&mut self, finish: Finish, ctx: &mut Ctx<'_>) {
        let status = self.status();
        let Some((terms, _)) = &self.terms else {
            return self.over(status, ctx);
        };
        let receipt = Receipt {
            id: self.id(),
            order: self.order.digest,
            terms: terms.digest(),
            buyer: self.buyer(),
            host: ctx.crypto.key(),
            model: self.model(),
            tokenizer: self.offer.tokenizer,
            template: self.offer.template,
            numerics: self.offer.numerics.clone(),
            prices: self.offer.prices.clone(),
            prompt: self.prompt.digest,
            head: self.chain.head(),
            finish,
            counts: self.counts,
            cost: self.offer.prices.cost_or_max(&self.counts),
            payments: self.payments(),
            debt: self.unpaid(),
            started: self.started,
            ended: self.ended,
            status,
            extensions: Vec::new(),
        };
        let signed = ctx.seal(self.buyer(), &receipt);
        self.receipt = Some(signed.clone());
        self.close_books(status, ctx);
        match self.stream {
            Some(stream) => {
                self.state = State::AwaitingCountersign;
                self.deadline = ctx.now.tick.after_ms(COUNTERSIGN_TIMEOUT_MS);
                ctx.send(stream, Frame::Receipt(signed));
            }
            None => self.over(status, ctx),
        }
    }

    fn payments(&self) -> Vec<PaymentEntry> {
        self.issued
            .iter()
            .filter(|(_, issued)| issued.settled)
            .filter_map(|(seq, issued)| {
                Some(PaymentEntry {
                    seq: *seq,
                    hash: issued.hash?,
                    msat: issued.msat,
                })
            })
            .collect()
    }

    fn status(&self) -> Status {
        match self.finish {
            Some(Finish::Stopped) => Status::Stopped,
            _ => Status::Complete,
        }
    }

    /// The buyer countersigned what it paid.
    pub fn paid_frame(&mut self, signed: Signed, paid: &Opened<Paid>, ctx: &mut Ctx<'_>) {
        let fits = self.issued.get(&paid.body.seq).is_some_and(|issued| {
            issued.hash == Some(paid.body.hash)
                && (paid.body.seq == 0 || issued.head == paid.body.head)
        });
        if paid.envelope.from != self.buyer() || paid.body.order != self.id() || !fits {
            return self.violation("a Paid frame that fits no invoice", ctx);
        }
        self.countersigned_payments
            .entry(paid.body.seq)
            .or_insert(signed);
    }

    /// The buyer countersigned the receipt.
    pub fn countersigned(
        &mut self,
        signed: Signed,
        receipt: &Digest,
        from: &NodeKey,
        ctx: &mut Ctx<'_>,
    ) {
        let matches = self
            .receipt
            .as_ref()
            .is_some_and(|own| own.digest() == *receipt);
        if self.state != State::AwaitingCountersign || !matches || *from != self.buyer() {
            return self.violation("a countersignature that fits no receipt", ctx);
        }
        self.countersigned = Some(signed);
        let status = self.status();
        if self.known || self.paid > Msat::ZERO {
            let record = self.record(Some(status));
            ctx.keep(&record);
        }
        self.over(status, ctx);
    }

    /// The buyer wants no more output.
    pub fn stop(&mut self, ctx: &mut Ctx<'_>) {
        match self.state {
            State::Running => {
                ctx.out.push(Effect::CancelEngine { order: self.id() });
                let stopped = Some(Finish::Stopped);
                self.send_chunk(Vec::new(), stopped, Attached::default(), ctx);
                self.finish_output(Finish::Stopped, ctx);
            }
            State::Settling | State::AwaitingCountersign | State::Over => {}
            _ => self.fail(
                Refusal::new(Code::Cancelled, "stopped before output began"),
                ctx,
            ),
        }
    }

    /// The buyer is gone or cancelled; nothing more is sent or expected.
    pub fn abandon(&mut self, code: Code, ctx: &mut Ctx<'_>) {
        if self.state == State::AwaitingCountersign {
            let status = self.status();
            return self.over(status, ctx);
        }
        self.end(code, ctx);
    }

    /// Ends the order and tells the buyer why.
    pub fn fail(&mut self, refusal: Refusal, ctx: &mut Ctx<'_>) {
        let code = refusal.code;
        if let Some(stream) = self.stream {
            ctx.send(stream, Frame::Refusal(refusal));
        }
        self.end(code, ctx);
    }

    fn refuse(&mut self, refusal: Refusal, ctx: &mut Ctx<'_>) {
        self.fail(refusal, ctx);
    }

    fn violation(&mut self, detail: &str, ctx: &mut Ctx<'_>) {
        ctx.offence(
            self.buyer(),
            self.id(),
            OffenceKind::UnexpectedFrame,
            detail,
        );
        self.fail(Refusal::new(Code::ProtocolViolation, detail), ctx);
    }

    fn end(&mut self, code: Code, ctx: &mut Ctx<'_>) {
        if matches!(self.state, State::Running) {
            ctx.out.push(Effect::CancelEngine { order: self.id() });
        }
        if self.unpaid() > Msat::ZERO && self.counts.delivered() > 0 {
            ctx.offence(
                self.buyer(),
                self.id(),
                OffenceKind::NotPaid,
                "left delivered output unpaid",
            );
        }
        self.ended = ctx.now.wall;
        self.over(Status::Failed(code), ctx);
    }

    fn over(&mut self, status: Status, ctx: &mut Ctx<'_>) {
        if self.state == State::Over {
            return;
        }
        if let State::Counting(id) = self.state {
            ctx.out.push(Effect::CancelCount { id });
        }
        self.close_books(status, ctx);
        self.state = State::Over;
        if let Some(stream) = self.stream.take() {
            ctx.close(stream);
        }
    }

    /// Tells Payment, once, what the order came to.
    fn close_books(&mut self, status: Status, ctx: &mut Ctx<'_>) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        // Input that was computed is owed, also where the buyer left before the first token.
        let computed = self.started_running() > 0 && status != Status::Failed(Code::EngineFailed);
        let began = self.counts.delivered() > 0 || computed;
        let unpaid = if began { self.unpaid() } else { self.carried };
        let ran = began || self.paid > Msat::ZERO;
        let counts = if ran { self.counts } else { Counts::default() };
        let record = self.record(Some(status));
        let account = OrderAccount {
            counts,
            cost: self.offer.prices.cost_or_max(&counts),
            ..record.account()
        };
        let closing = Closing { account, unpaid };
        ctx.close_order(&mut self.journal, &record, closing);
    }

    /// The engine gave up.
    pub fn engine_failed(&mut self, reason: &str, ctx: &mut Ctx<'_>) {
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

    fn record(&self, status: Option<Status>) -> OrderRecord {
        let keeps = self.order.body.retention == Retention::Keep;
        OrderRecord {
            side: Side::Host,
            counterparty: self.buyer(),
            model: self.model(),
            digest: self.order.digest,
            order: keeps.then(|| self.signed.clone()),
            terms: self.terms.as_ref().map(|(signed, _)| signed.clone()),
            tokens: Vec::new(),
            invoices: self.invoices.clone(),
            paid: self.countersigned_payments.values().cloned().collect(),
            receipt: self.receipt.clone(),
            countersigned: self.countersigned.clone(),
            counts: self.counts,
            cost: self.offer.prices.cost_or_max(&self.counts),
            carried: self.carried,
            status,
            started: self.started,
        }
    }

    /// Writes what is new, once the buyer has paid anything, in this order or before.
    fn persist(&mut self, ctx: &mut Ctx<'_>) {
        let records = if self.journal.is_open() {
            let cost = self.offer.prices.cost_or_max(&self.counts);
            self.journal.add(&[], &self.invoices, self.counts, cost)
        } else if self.known || self.paid > Msat::ZERO {
            let record = self.record(None);
            self.journal.begin(&record)
        } else {
            return;
        };
        ctx.persist(records);
    }
}
