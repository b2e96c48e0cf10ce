//! One purchase on the buyer's side: choose, order, check, pay, receipt.
//!
//! Not budgets (Payment sets money aside and refuses what breaks a cap) and not
//! ranking (Discovery and Reputation do). This machine believes nothing that it
//! can check: every invoice is held against what was delivered, every receipt
//! against the evidence.
//!
//! # States
//! `Reserving → Finding → [Confirming →] Dialing → Ordered → Streaming → Over`;
//! while nothing was paid, a host that refuses (whatever its reason), cannot be reached or
//! cannot be paid is followed by the next candidate.
//!
//! # Invariants
//! - The sum of payments asked of Payment never exceeds the larger of the entry
//!   payment and the cost of what was delivered, and never `max_cost`.
//! - A payment is asked for once per invoice; a failed one ends the order, and the next host
//!   is asked only once every payment of this one is known to have failed. An unknown one is
//!   never replaced.
//! - No invoice is smaller than the step agreed upon, but the last: the number of
//!   payments, and so of routing fees, is bounded by what was ordered.
//! - A host that was told to stop is paid for what it may have sent by then, and is left after
//!   ten seconds.
//! - What is shown is [`crate::wire::text`]'s function of pieces that the signed heads
//!   commit to; nothing is paid for other pieces.
//! - Before the terms are accepted nothing that a host says convicts it, for a listing
//!   may have changed on its way here; but for a count of the prompt that the model's own
//!   vocabulary contradicts, which no listing decides.

use super::recount::Recount;
use crate::crypto::{Crypto, InvoiceFacts};
use crate::ids::{Digest, EffectId, OrderId, PaymentHash, StreamId};
use crate::limits;
use crate::message::discovery::Candidate;
use crate::message::inference::{
    BuyRequest, BuyerEvent, Effect, Evidence, InputCount, OrderAccount, Outcome, PayRequest,
    VocabularySource,
};
use crate::message::payment::Side;
use crate::message::sibling::Message;
use crate::money::{Counts, Meter, Msat};
use crate::offence::OffenceKind;
use crate::order::context::Ctx;
use crate::order::late::LateOrder;
use crate::order::record::{Closing, Journal, OrderRecord};
use crate::refusal::{Code, Refusal};
use crate::time::{Tick, WallTime};
use crate::wire::attached;
use crate::wire::chain::{ChainedToken, TokenChain};
use crate::wire::envelope::{EnvelopeError, Opened, Signed};
use crate::wire::manifest::{PaymentMode, Role};
use crate::wire::order::{
    Chunk, Countersigned, Finish, Frame, Invoice, Order, Paid, PaymentEntry, Receipt, Status,
    Terms, description_hash,
};
use crate::wire::text::Rendering;
use crate::work::{Job, Work};
use rand::RngCore;
use rand::seq::IteratorRandom;
use std::collections::{BTreeMap, VecDeque};

/// Tokens that a chat template may add per message before the host's input count is doubted.
const TEMPLATE_TOKENS_PER_MESSAGE: u64 = 64;
/// The same for the template as a whole: some models come with a long default system prompt.
const TEMPLATE_TOKENS: u64 = 1_024;
/// Hosts that a missing vocabulary is asked of: the one that serves, and some to turn to.
const MAX_VOCABULARY_SOURCES: usize = 4;
/// How long a receipt waits for our own wallet to know of the payments in it. Milliseconds.
/// Shorter than the host waits for the countersignature.
const HOLD_RECEIPT_MS: u64 = 5_000;
/// Shortest life that an invoice must still have when it arrives. Milliseconds. A payment needs a moment.
const MIN_INVOICE_LIFE_MS: u64 = 5_000;
/// Longest that a payment of ours may be under way before a host that calls it missing is
/// believed. Milliseconds. Half of what a host waits.
const PROMPT_PAYMENT_MS: u64 = 30_000;

/// How long a host may take to send its last chunk once it was told to stop. Milliseconds.
const STOP_MS: u64 = 10_000;

/// A host that takes longer to say no has cost an attempt. Milliseconds.
const QUICK_MS: u64 = 10_000;

/// Evidence of one order that is kept beside its receipt. Bytes; a longest answer in ordinary
/// words with its invoices is below. A receipt of [`limits::MAX_INVOICES`] payments fits as well.
const MAX_EVIDENCE_BYTES: usize = limits::MAX_AUDIT_FRAME_BYTES - (256 << 10);
/// What a token or a signature takes beside its text or bytes, at most.
const FIXED_BYTES: usize = 72;

/// Suggested wait where this node had no stream left. Milliseconds.
const OWN_STREAMS_RETRY_MS: u64 = 5_000;

/// Two honest clocks may be far enough apart for it, so it proves no bad faith.
const EXPIRES_SOON: &str = "an invoice that is about to expire, by the clock of this machine";

const TOO_MUCH: &str = "more text or invoices than the evidence of an order holds";

fn expires_soon(facts: &InvoiceFacts, ctx: &Ctx<'_>) -> bool {
    facts.expires < ctx.now.wall.after_ms(MIN_INVOICE_LIFE_MS)
}

/// Most tokens that a host may count in the prompt of a job: one for each byte, and what a
/// template adds.
fn most_input(job: &Job) -> u64 {
    let messages = match &job.work {
        Work::Chat { messages } => messages.len() as u64,
        Work::Complete { .. } => 1,
        Work::Embed { texts } => texts.len() as u64,
    };
    job.text_bytes() as u64 + messages * TEMPLATE_TOKENS_PER_MESSAGE + TEMPLATE_TOKENS
}

/// Units of that meter that a job may be delivered.
fn units(job: &Job, meter: Meter) -> u64 {
    if job.meter() == meter {
        job.most_delivered()
    } else {
        0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reserving,
    Finding,
    Confirming,
    Dialing(EffectId),
    Ordered,
    Streaming,
    Over,
}

/// What our wallet says of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Under way, or nobody knows.
    Open,
    Settled,
    /// Not made, for good.
    Failed,
}

#[derive(Debug)]
struct Bill {
    hash: PaymentHash,
    msat: Msat,
    head: Digest,
    fate: Fate,
    /// When our wallet was asked to pay it.
    asked: Tick,
}

/// The order under way with one host.
#[derive(Debug)]
struct Deal {
    id: OrderId,
    /// Most that the host may ask for: the cap without what is kept for routing fees.
    max_cost: Msat,
    candidate: Candidate,
    stream: Option<StreamId>,
    signed: Signed,
    /// The order key towards this host.
    signer: Box<dyn Crypto>,
    started: WallTime,
    sent: Tick,
    terms: Option<(Signed, Terms)>,
    chain: TokenChain,
    heads: Vec<Digest>,
    tokens: Vec<ChainedToken>,
    rendering: Rendering,
    /// Something was shown.
    shown: bool,
    journal: Journal,
    counts: Counts,
    /// Unpaid output that the host granted last, by its own signature.
    window: Msat,
    /// What was settled when it said so.
    settled_then: Msat,
    next_chunk: u32,
    bills: BTreeMap<u32, Bill>,
    asked: Msat,
    invoices: Vec<Signed>,
    /// What the host's last invoice or receipt covers: what it can show that it delivered.
    vouched: Option<Counts>,
    /// Terms that wait for our own count of the prompt.
    held_terms: Option<Signed>,
    /// Bytes of order, terms, tokens and invoices.
    evidence: usize,
    finish: Option<Finish>,
    first_token_ms: Option<u64>,
    stream_ms: u64,
    /// A receipt that was checked, held back until our wallet knows of every payment.
    held_receipt: Option<Signed>,
    receipt: Option<Signed>,
    countersigned: Option<Signed>,
    price_kept: bool,
    /// Our own count of the prompt, from when the order was sent.
    recount: Option<Recount>,
    /// Why the host did not take the order.
    refused: Option<Code>,
    /// The host took the order and something for it, and then refused it.
    broken_off: bool,
    /// The client wants no more output.
    stopped: Option<Stop>,
}

/// What a host may still do that was told to stop.
#[derive(Debug, Clone, Copy)]
struct Stop {
    /// Until when it sends its last chunk.
    until: Tick,
    /// Most that the totals may cost by then.
    most: Msat,
}

/// One purchase.
#[derive(Debug)]
pub struct BuyerOrder {
    request: BuyRequest,
    state: State,
    candidates: VecDeque<Candidate>,
    considered: u32,
    /// Hosts that could not be reached, or took long and did not serve.
    attempts: u32,
    /// Hosts that could not be paid.
    unpayable: u32,
    /// What is told where nobody serves the request.
    refusal: Option<Refusal>,
    deal: Option<Deal>,
    deadline: Tick,
}

impl Deal {
    /// Debt from earlier orders that the terms add.
    fn carried(&self) -> Msat {
        self.terms
            .as_ref()
            .map_or(Msat::ZERO, |(_, terms)| terms.carried_debt)
    }

    /// What the host may have sent beyond what arrived: the window that it signed last, which
    /// each payment since then widens by its own amount at most. Nothing behind the end.
    fn unsure(&self, job: &Job) -> Msat {
        let (Some((_, terms)), None) = (&self.terms, self.finish) else {
            return Msat::ZERO;
        };
        let since = self.asked.saturating_sub(self.settled_then);
        terms.most_under_way(job, &self.counts, self.window.saturating_add(since))
    }

    /// Has pieces held against the vocabulary, where it is here. Text arrives no later for it.
    fn check_pieces(&self, job: &Job, from: u64, tokens: Vec<ChainedToken>, ctx: &mut Ctx<'_>) {
        let (Some(recount), Some((_, terms))) = (&self.recount, &self.terms) else {
            return;
        };
        let pieces = job.meter() == Meter::OutputToken && !tokens.is_empty();
        if pieces && recount.decodes_for(terms) {
            ctx.out.push(Effect::CheckPieces {
                order: self.id,
                host: self.candidate.host,
                model: self.candidate.offer.digest,
                from,
                tokens,
            });
        }
    }

    /// Adds to what is kept; returns whether it is more than can be.
    fn keeps_too_much(&mut self, parts: impl Iterator<Item = usize>) -> bool {
        let bytes = parts.map(|bytes| bytes + FIXED_BYTES).sum();
        self.evidence = self.evidence.saturating_add(bytes);
        self.evidence > MAX_EVIDENCE_BYTES
    }

    /// What was delivered costs.
    fn cost_of(&self, counts: &Counts) -> Msat {
        let terms = self.terms.as_ref();
        terms.map_or(Msat::ZERO, |(_, terms)| terms.prices.cost_or_max(counts))
    }

    /// What may still come once the host is told to stop: what it may have sent unpaid by
    /// then, and no more than a step or what it sent before. A window is its own word.
    fn stop(&self, job: &Job, now: Tick) -> Stop {
        let cost = self.cost_of(&self.counts);
        let terms = self.terms.as_ref();
        let step = terms.map_or(Msat::ZERO, |(_, terms)| terms.quantum);
        let more = self.unsure(job).min(cost.max(step));
        Stop {
            until: now.after_ms(STOP_MS),
            most: cost.saturating_add(more),
        }
    }

    /// What the host can show that it is owed. Output that none of its signatures covers convicts
    /// nobody, whatever it is, and so is worth nothing; nor is input to which no output came,
    /// unless the output ended because we stopped it.
    fn owed(&self) -> Msat {
        let stopped = self.finish == Some(Finish::Stopped);
        let vouched = self.vouched.filter(|to| to.delivered() > 0 || stopped);
        let cost = vouched.map(|counts| self.cost_of(&counts));
        cost.unwrap_or_default().saturating_add(self.carried())
    }

    /// Payments that may still settle, by the number of their invoice.
    fn open_bills(&self) -> BTreeMap<u32, Msat> {
        let open = self
            .bills
            .iter()
            .filter(|(_, bill)| bill.fate == Fate::Open);
        open.map(|(seq, bill)| (*seq, bill.msat)).collect()
    }

    /// Whether nothing was delivered, and nothing was or can still be paid.
    fn is_untouched(&self) -> bool {
        let failed = |bill: &Bill| bill.fate == Fate::Failed;
        self.next_chunk == 0 && self.bills.values().all(failed)
    }

    fn all_settled(&self) -> bool {
        let settled = |bill: &Bill| bill.fate == Fate::Settled;
        self.bills.values().all(settled)
    }

    /// Books what a refusal says about the host: it did not take the order, or it took it with
    /// money or words under way and did not keep to it. What we caused ourselves says nothing, and
    /// neither that a host that lists the mode *after* gives us no credit.
    fn blame(&mut self, code: Code, mode: PaymentMode, now: Tick) {
        let slow =
            |bill: &Bill| bill.fate == Fate::Open && now.ms_since(bill.asked) >= PROMPT_PAYMENT_MS;
        match code {
            Code::Cancelled if self.stopped.is_some() => {}
            Code::NotPaid if self.bills.values().any(slow) => self.refused = Some(code),
            Code::ModeUnsupported if mode == PaymentMode::After && self.is_untouched() => {}
            _ if self.is_untouched() => self.refused = Some(code),
            _ => self.broken_off = true,
        }
    }

    /// What our wallet says is paid.
    fn settled(&self) -> Msat {
        let settled = self
            .bills
            .values()
            .filter(|bill| bill.fate == Fate::Settled);
        settled.fold(Msat::ZERO, |sum, bill| sum.saturating_add(bill.msat))
    }
}

/// What is said where nobody can be asked.
fn no_host(mode: PaymentMode) -> Refusal {
    let text = match mode {
        PaymentMode::Metered => "no listed host offers this model".to_owned(),
        other => {
            let other = format!("{other:?}").to_lowercase();
            format!(
                "no listed host offers this model in payment mode {other}; by default hosts offer metered alone"
            )
        }
    };
    Refusal::new(Code::NoHost, text)
}

/// What is said of a token that does not stand for what its piece shows.
pub fn wrong_piece(position: u64) -> String {
    format!(
        "the text of token {position} of the output is not the one that the model's vocabulary has"
    )
}

/// How long the first token may take. A host that is a little slower than it thought is still
/// waited for where it is paid. Milliseconds.
fn patience_ms(terms: &Terms, ctx: &Ctx<'_>) -> u64 {
    let starts = match terms.entry {
        Some(_) => terms.starts_within_ms.saturating_mul(2),
        None => terms.starts_within_ms,
    };
    starts.saturating_add(ctx.config.first_token_timeout_ms)
}

impl BuyerOrder {
    /// Begins a purchase: sets the money aside first.
    pub fn open(request: BuyRequest, ctx: &mut Ctx<'_>) -> Self {
        ctx.tell(Message::Reserve {
            request: request.request,
            budget: request.budget.clone(),
            max_cost: request.max_cost,
        });
        BuyerOrder {
            request,
            state: State::Reserving,
            candidates: VecDeque::new(),
            considered: 0,
            attempts: 0,
            unpayable: 0,
            refusal: None,
            deal: None,
            deadline: ctx.now.tick.after_ms(ctx.config.terms_timeout_ms),
        }
    }

    /// Whether nothing more will happen.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// When [`BuyerOrder::expire`] must run.
    pub fn deadline(&self) -> Option<Tick> {
        (self.state != State::Over).then_some(self.deadline)
    }

    /// The order under way, if there is one.
    pub fn order(&self) -> Option<OrderId> {
        self.deal.as_ref().map(|deal| deal.id)
    }

    /// The stream of the order under way.
    pub fn stream(&self) -> Option<StreamId> {
        self.deal.as_ref().and_then(|deal| deal.stream)
    }

    /// The dial under way.
    pub fn dialing(&self) -> Option<EffectId> {
        match self.state {
            State::Dialing(id) => Some(id),
            _ => None,
        }
    }

    /// Payment set the money aside, or refused.
    pub fn reserved(&mut self, result: Result<(), Refusal>, ctx: &mut Ctx<'_>) {
        if self.state != State::Reserving {
            return;
        }
        if let Err(refusal) = result {
            return self.fail(refusal, ctx);
        }
        self.state = State::Finding;
        self.deadline = ctx.now.tick.after_ms(ctx.config.terms_timeout_ms);
        ctx.tell(Message::FindCandidates {
            request: self.request.request,
            query: crate::message::inference::Query {
                model: self.request.model.clone(),
                role: Role::Host,
                mode: self.request.mode,
                host: self.request.host,
                input_tokens: most_input(&self.request.job),
                input_bytes: self.request.job.text_bytes() as u64,
                output_tokens: units(&self.request.job, Meter::OutputToken),
                items: units(&self.request.job, Meter::Item),
            },
        });
    }

    /// Discovery answered.
    pub fn found(&mut self, hosts: Vec<Candidate>, ctx: &mut Ctx<'_>) {
        if self.state != State::Finding {
            return;
        }
        self.considered = u32::try_from(hosts.len()).unwrap_or(u32::MAX);
        let (fine, coarse): (VecDeque<_>, VecDeque<_>) = hosts
            .into_iter()
            .take(limits::MAX_CANDIDATES)
            .partition(|host| host.quantum <= ctx.config.max_quantum);
        if let Some(least) = coarse.iter().map(|host| host.quantum).min() {
            let most = ctx.config.max_quantum;
            let text = format!(
                "this model is paid in steps of {least} or more, this node agrees to {most} at most"
            );
            self.note(Refusal::new(Code::NotAsListed, text));
        }
        self.candidates = fine;
        self.next_candidate(ctx);
    }

    /// Remembers why a host did not serve. One that says "later" is told rather than one
    /// that says "never"; and what our own wallet found rather than what a host said.
    fn note(&mut self, refusal: Refusal) {
        let rank = |refusal: &Refusal| match refusal.code {
            code if code.is_retryable() => 2,
            code if !code.is_from_hosts() => 1,
            _ => 0,
        };
        let known = self.refusal.as_ref().map(rank);
        if known.is_none_or(|known| rank(&refusal) >= known) {
            self.refusal = Some(refusal);
        }
    }

    fn next_candidate(&mut self, ctx: &mut Ctx<'_>) {
        self.deal = None;
        let spent = self.attempts.max(self.unpayable) >= ctx.config.max_attempts;
        let Some(candidate) = self.candidates.front().filter(|_| !spent).cloned() else {
            let refusal = self.refusal.take();
            let refusal = refusal.unwrap_or_else(|| no_host(self.request.mode));
            return self.fail(refusal, ctx);
        };
        ctx.deliver(
            self.request.request,
            BuyerEvent::Chosen {
                candidate: Box::new(candidate),
                max_cost: self.request.max_cost,
                considered: self.considered,
            },
        );
        if self.request.confirm {
            self.state = State::Confirming;
            self.deadline = ctx.now.tick.after_ms(ctx.config.confirm_timeout_ms);
        } else {
            self.dial(ctx);
        }
    }

    /// The client agreed to the choice shown.
    pub fn confirm(&mut self, ctx: &mut Ctx<'_>) {
        if self.state == State::Confirming {
            self.dial(ctx);
        }
    }

    fn dial(&mut self, ctx: &mut Ctx<'_>) {
        let Some(candidate) = self.candidates.pop_front() else {
            return;
        };
        let mut salt = [0; 16];
        ctx.rng.fill_bytes(&mut salt);
        let order = Order {
            model: candidate.offer.digest,
            job: self.request.job.clone(),
            // What is kept for routing fees is not the host's.
            max_cost: ctx.config.fees.cost_within(self.request.max_cost),
            mode: self.request.mode,
            payment_grain: ctx.config.payment_grain,
            path: self.request.path,
            retention: self.request.retention,
            handling: self.request.handling,
            salt,
            via: None,
            authority: Vec::new(),
            extensions: Vec::new(),
        };
        let once = self.request.private.then_some(&order.salt);
        let signer = ctx.orders.signer(&candidate.host, once);
        let signed = ctx.seal_with(signer.as_ref(), candidate.host, &order);
        let id = OrderId::of(&signed.digest());
        let effect = ctx.fresh();
        ctx.tell(Message::Bind {
            request: self.request.request,
            order: id,
            host: candidate.host,
        });
        ctx.out.push(Effect::OpenStream {
            id: effect,
            host: candidate.host,
            addresses: candidate.addresses.clone(),
            private: self.request.private,
        });
        self.state = State::Dialing(effect);
        self.deadline = ctx.now.tick.after_ms(ctx.config.dial_timeout_ms);
        self.deal = Some(Deal {
            id,
            max_cost: order.max_cost,
            candidate,
            stream: None,
            chain: TokenChain::new(&signed.digest(), &Digest([0; 32])),
            signed,
            signer,
            started: ctx.now.wall,
            sent: ctx.now.tick,
            terms: None,
            heads: Vec::new(),
            tokens: Vec::new(),
            rendering: Rendering::new(&self.request.job.stop),
            shown: false,
            journal: Journal::new(Side::Buyer, id),
            counts: Counts::default(),
            window: Msat::ZERO,
            settled_then: Msat::ZERO,
            next_chunk: 0,
            bills: BTreeMap::new(),
            asked: Msat::ZERO,
            invoices: Vec::new(),
            vouched: None,
            held_terms: None,
            evidence: 0,
            finish: None,
            first_token_ms: None,
            stream_ms: 0,
            held_receipt: None,
            receipt: None,
            countersigned: None,
            price_kept: true,
            recount: None,
            refused: None,
            broken_off: false,
            stopped: None,
        });
    }

    /// The stream is open: order.
    pub fn opened(&mut self, stream: StreamId, ctx: &mut Ctx<'_>) {
        let Some(deal) = self.deal.as_mut() else {
            return;
        };
        deal.stream = Some(stream);
        deal.sent = ctx.now.tick;
        deal.started = ctx.now.wall;
        let signed = deal.signed.clone();
        self.state = State::Ordered;
        self.deadline = ctx.now.tick.after_ms(ctx.config.terms_timeout_ms);
        ctx.send(stream, Frame::Order(signed));
        // Behind the order: it takes no time from the way to the first token.
        let model = deal.candidate.offer.digest;
        deal.recount = Some(Recount::begin(model, &self.request.job, ctx));
    }

    /// Whether this purchase waits for that count of its prompt.
    pub fn awaits_count(&self, id: EffectId) -> bool {
        let recount = self.deal.as_ref().and_then(|deal| deal.recount.as_ref());
        recount.is_some_and(|recount| recount.awaits(id))
    }

    /// Our own count of the prompt is there, or cannot be.
    pub fn counted(&mut self, count: InputCount, ctx: &mut Ctx<'_>) {
        if let Some(recount) = self.deal.as_mut().and_then(|deal| deal.recount.as_mut()) {
            recount.counted(count);
        }
        let held = self.deal.as_mut().and_then(|deal| deal.held_terms.take());
        if let Some(terms) = held.filter(|_| self.state == State::Ordered) {
            return self.terms(terms, ctx);
        }
        if self.state != State::Streaming {
            return;
        }
        let terms = self.deal.as_ref().and_then(|deal| deal.terms.as_ref());
        let checked = terms.map_or(Ok(()), |(_, terms)| self.check_count(terms));
        match checked {
            Ok(()) => self.tell_count(ctx),
            Err((kind, detail)) => return self.violation(kind, detail, ctx),
        }
        if let Some(deal) = &self.deal {
            deal.check_pieces(&self.request.job, 0, deal.tokens.clone(), ctx);
        }
        self.fetch_vocabulary(ctx);
    }

    fn check_count(&self, terms: &Terms) -> Result<(), (OffenceKind, String)> {
        match &self.deal {
            Some(Deal {
                recount: Some(recount),
                candidate,
                ..
            }) => recount.check(&candidate.offer, terms),
            _ => Ok(()),
        }
    }

    /// Tells the client that the host's count was held against our own.
    fn tell_count(&self, ctx: &mut Ctx<'_>) {
        let recount = self.deal.as_ref().and_then(|deal| deal.recount.as_ref());
        if let Some(tokens) = recount.and_then(Recount::tokens) {
            ctx.deliver(self.request.request, BuyerEvent::InputCounted { tokens });
        }
    }

    /// Once the first word came, and not before, a vocabulary that is missing is fetched for
    /// the next order: from this host, or from another that lists the model.
    fn fetch_vocabulary(&mut self, ctx: &mut Ctx<'_>) {
        let Some(deal) = self.deal.as_mut() else {
            return;
        };
        let missing =
            deal.first_token_ms.is_some() && deal.recount.as_mut().is_some_and(Recount::must_fetch);
        if !missing {
            return;
        }
        let model = deal.candidate.offer.digest;
        let same = |host: &&Candidate| host.offer.digest == model;
        // Drawn: whoever fills the first ranks does not choose who is asked.
        let others = self.candidates.iter().filter(same);
        let others = others.choose_multiple(&mut *ctx.rng, MAX_VOCABULARY_SOURCES - 1);
        let hosts = std::iter::once(&deal.candidate)
            .chain(others)
            .map(|host| VocabularySource {
                host: host.host,
                addresses: host.addresses.clone(),
            });
        ctx.out.push(Effect::FetchVocabulary {
            model,
            hosts: hosts.collect(),
        });
    }

    /// The host could not be reached. `ours`: this node did not try, for want of a stream of
    /// its own, and the host has no part in it.
    pub fn open_failed(&mut self, reason: &str, ours: bool, ctx: &mut Ctx<'_>) {
        if ours {
            let mut refusal = Refusal::new(Code::Busy, reason);
            refusal.retry_after_ms = Some(OWN_STREAMS_RETRY_MS);
            return self.give_up(refusal, ctx);
        }
        if let Some(deal) = &self.deal {
            ctx.offence(
                deal.candidate.host,
                deal.id,
                OffenceKind::GhostListing,
                reason,
            );
        }
        self.give_up(
            Refusal::new(
                Code::Disconnected,
                format!("the host cannot be reached: {reason}"),
            ),
            ctx,
        );
    }

    /// Ends this deal. While no money moved and no word was delivered, any reason means "not
    /// here": the next candidate is tried.
    fn give_up(&mut self, refusal: Refusal, ctx: &mut Ctx<'_>) {
        // Once a word was delivered, another host's answer would be spliced to it.
        if !self.deal.as_ref().is_some_and(Deal::is_untouched) {
            return self.fail(refusal, ctx);
        }
        let waited = |deal: &Deal| ctx.now.tick.ms_since(deal.sent) >= QUICK_MS;
        self.attempts += u32::from(self.deal.as_ref().is_some_and(waited));
        self.close_deal(Status::Failed(refusal.code), ctx);
        self.note(refusal);
        self.next_candidate(ctx);
    }

    /// The host refused. A code that only a node's own wallet or budgets can give means
    /// nothing in its mouth.
    fn refused(&mut self, refusal: Refusal, ctx: &mut Ctx<'_>) {
        if refusal.code.is_from_hosts() {
            if let Some(deal) = self.deal.as_mut() {
                deal.blame(refusal.code, self.request.mode, ctx.now.tick);
            }
            return self.give_up(refusal, ctx);
        }
        let detail = format!(
            "the host refused with `{}`, which is not a host's to say",
            refusal.code.word()
        );
        self.violation(OffenceKind::UnexpectedFrame, detail, ctx);
    }

    /// A frame of the host arrived.
    pub fn received(&mut self, frame: Frame, ctx: &mut Ctx<'_>) {
        match (self.state, frame) {
            (State::Ordered, Frame::Terms(signed)) => self.terms(signed, ctx),
            (State::Ordered | State::Streaming, Frame::Refusal(refusal)) => {
                self.refused(refusal, ctx)
            }
            (State::Streaming, Frame::Chunk(chunk)) => self.chunk(chunk, ctx),
            (State::Streaming, Frame::Invoice(signed)) => self.invoice(signed, ctx),
            (State::Streaming, Frame::Receipt(signed)) => self.receipt(signed, ctx),
            (State::Over, _) => {}
            (_, frame) => self.violation(
                OffenceKind::UnexpectedFrame,
                format!("the host sent a {} frame out of turn", frame.name()),
                ctx,
            ),
        }
    }

    /// Bytes that are no frame.
    pub fn garbled(&mut self, detail: String, ctx: &mut Ctx<'_>) {
        self.violation(OffenceKind::MalformedFrame, detail, ctx);
    }

    fn read<T: crate::wire::envelope::Body>(
        &self,
        signed: &Signed,
        ctx: &Ctx<'_>,
    ) -> Result<Opened<T>, EnvelopeError> {
        let Some(deal) = &self.deal else {
            return Err(EnvelopeError::WrongRecipient);
        };
        let signer = deal.signer.as_ref();
        let opened = signed.open::<T>(signer, ctx.config.network, &signer.key(), ctx.now.wall)?;
        match opened.envelope.from == deal.candidate.host {
            true => Ok(opened),
            false => Err(EnvelopeError::BadSignature {
                from: opened.envelope.from,
            }),
        }
    }

    fn terms(&mut self, signed: Signed, ctx: &mut Ctx<'_>) {
        let opened = match self.read::<Terms>(&signed, ctx) {
            Ok(opened) => opened,
            Err(error) => return self.violation(OffenceKind::BadSignature, error.to_string(), ctx),
        };
        let terms = opened.body;
        let checked = self.check_terms(&terms, ctx);
        if let Err((kind, detail)) = checked.and_then(|()| self.check_count(&terms)) {
            return self.violation(kind, detail, ctx);
        }
        let entry = match self.check_entry(&terms, ctx) {
            Ok(entry) => entry,
            Err(detail) => return self.violation(OffenceKind::WrongInvoice, detail, ctx),
        };
        if let Some((_, _, facts)) = &entry
            && expires_soon(facts, ctx)
        {
            return self.violation(OffenceKind::Stale, EXPIRES_SOON.to_owned(), ctx);
        }
        if terms.starts_within_ms > ctx.config.max_wait_ms {
            let seconds = terms.starts_within_ms / 1_000;
            let mut refusal = Refusal::new(
                Code::Busy,
                format!(
                    "the host would begin in {seconds} s, which is longer than this node waits"
                ),
            );
            refusal.retry_after_ms = Some(terms.starts_within_ms);
            if let Some(stream) = self.stream() {
                ctx.send(stream, Frame::Cancel);
            }
            return self.give_up(refusal, ctx);
        }
        let Some(deal) = self.deal.as_mut() else {
            return;
        };
        // What is paid before our own count is known is not given back.
        if deal.recount.as_ref().is_some_and(Recount::is_awaited) {
            deal.held_terms = Some(signed);
            return;
        }
        let (Some(stream), digest) = (deal.stream, signed.digest()) else {
            return;
        };
        deal.chain = TokenChain::new(&deal.signed.digest(), &digest);
        deal.heads = vec![deal.chain.head()];
        deal.counts = terms.input;
        deal.asked = entry.as_ref().map_or(Msat::ZERO, |(_, msat, _)| *msat);
        deal.window = terms.window;
        deal.keeps_too_much([deal.signed.bytes.len(), signed.bytes.len()].into_iter());
        deal.terms = Some((signed, terms.clone()));
        let order = deal.id;
        self.state = State::Streaming;
        self.deadline = ctx.now.tick.after_ms(patience_ms(&terms, ctx));
        self.persist(ctx);
        ctx.deliver(
            self.request.request,
            BuyerEvent::Accepted {
                order,
                input: terms.input,
                entry: entry.as_ref().map(|(_, msat, _)| *msat),
                window: terms.window,
                quantum: terms.quantum,
                carried: terms.carried_debt,
            },
        );
        self.tell_count(ctx);
        ctx.send(stream, Frame::Accept(digest));
        if let Some((bolt11, msat, facts)) = entry {
            self.pay(0, bolt11, facts, msat, ctx);
        }
    }

    fn check_terms(&self, terms: &Terms, ctx: &Ctx<'_>) -> Result<(), (OffenceKind, String)> {
        let Some(deal) = &self.deal else {
            return Ok(());
        };
        let wrong = |kind, detail: &str| Err((kind, detail.to_owned()));
        if terms.order != deal.signed.digest() {
            return wrong(OffenceKind::TermsNotAsListed, "terms of another order");
        }
        // As far apart as clocks may be; the host holds the terms to its own.
        if terms.expires.after_ms(limits::ENVELOPE_WINDOW_MS) < ctx.now.wall {
            return wrong(OffenceKind::Stale, "terms that have expired");
        }
        if terms.numerics != deal.candidate.offer.numerics
            || terms.tokenizer != deal.candidate.offer.tokenizer
            || terms.template != deal.candidate.offer.template
        {
            return wrong(
                OffenceKind::TermsNotAsListed,
                "tokenizer, template or numerics other than listed",
            );
        }
        let listed = &deal.candidate.offer.prices;
        let dearer = terms
            .prices
            .0
            .iter()
            .any(|price| price.msat_per_million > listed.of(price.meter));
        if dearer {
            return wrong(OffenceKind::PriceAboveListing, "prices above the listing");
        }
        let job = &self.request.job;
        let plausible = most_input(job);
        if terms.input.prompt() > plausible || terms.input.delivered() != 0 {
            return Err((
                OffenceKind::WrongCount,
                format!(
                    "{} input tokens claimed for at most {plausible}",
                    terms.input.prompt()
                ),
            ));
        }
        let context = u64::from(deal.candidate.offer.context);
        let whole = terms.input.prompt().saturating_add(job.most_delivered());
        if job.meter() == Meter::OutputToken && whole > context {
            let detail = format!(
                "{} input tokens claimed, which leave no room for the output ordered: the context is {context}",
                terms.input.prompt()
            );
            return Err((OffenceKind::WrongCount, detail));
        }
        // What is cached is never dearer than what is computed.
        let price = |meter| terms.prices.of(meter);
        if terms.input.cached_input_tokens > 0
            && price(Meter::CachedInputToken) > price(Meter::InputToken)
        {
            return wrong(
                OffenceKind::WrongCount,
                "cached input at a higher price than computed input",
            );
        }
        // A step is rounded up to what this wallet can pay.
        let grain = ctx.config.payment_grain.0.max(1);
        let listed = deal
            .candidate
            .quantum
            .0
            .div_ceil(grain)
            .saturating_mul(grain);
        if terms.quantum > Msat(listed) {
            return wrong(
                OffenceKind::PriceAboveListing,
                "larger steps of payment than listed",
            );
        }
        // Each step is an invoice that is kept, and a payment.
        let all = terms
            .input
            .with_delivered(job.meter(), job.most_delivered());
        let most = terms.prices.cost_or_max(&all).min(deal.max_cost);
        if terms.quantum.0.saturating_mul(limits::MAX_INVOICES as u64) < most.0 {
            return wrong(
                OffenceKind::TermsNotAsListed,
                "steps of payment so small that there would be too many",
            );
        }
        // Otherwise the order could end before its first unit, and be true to its cap.
        let unit = terms.input.with_delivered(job.meter(), 1);
        let least = terms.prices.cost_or_max(&unit);
        if least.saturating_add(terms.carried_debt) > deal.max_cost {
            return wrong(
                OffenceKind::TermsNotAsListed,
                "prices at which the cap leaves no room for any output",
            );
        }
        // A host takes up an earlier debt step by step; whether there is one, Payment's books
        // say before anything is paid.
        if terms.carried_debt > terms.quantum {
            return wrong(
                OffenceKind::WrongInvoice,
                "a carried debt larger than one quantum",
            );
        }
        Ok(())
    }

    fn check_entry(
        &self,
        terms: &Terms,
        ctx: &Ctx<'_>,
    ) -> Result<Option<(String, Msat, InvoiceFacts)>, String> {
        let Some(entry) = &terms.entry else {
            return Ok(None);
        };
        let input = terms.prices.cost_or_max(&terms.input);
        let job = &self.request.job;
        let with = |units| {
            let counts = terms.input.with_delivered(job.meter(), units);
            terms.prices.cost_or_max(&counts).saturating_sub(input)
        };
        // One step of output, or one token where that is dearer; never more than all of it.
        let all = with(job.most_delivered());
        let step = match self.request.mode {
            PaymentMode::Metered => terms.quantum.max(with(1)).min(all),
            PaymentMode::Before => all,
            PaymentMode::After => {
                return Err("an entry payment where the order is paid at its end".to_owned());
            }
        };
        // Rounded up to what this wallet can pay.
        let rounding = ctx.config.payment_grain.saturating_sub(Msat(1));
        let most = input
            .saturating_add(step)
            .saturating_add(terms.carried_debt)
            .saturating_add(rounding);
        if entry.msat > most {
            return Err(format!(
                "an entry payment of {} where {most} is the most",
                entry.msat
            ));
        }
        let cap = self.deal.as_ref().map_or(Msat::ZERO, |deal| deal.max_cost);
        if entry.msat > cap {
            return Err(format!(
                "an entry payment of {} above the cap of {cap}",
                entry.msat
            ));
        }
        let facts = self.check_bolt11(&entry.bolt11, entry.msat, 0, &terms.input, ctx)?;
        Ok(Some((entry.bolt11.clone(), entry.msat, facts)))
    }

    fn check_bolt11(
        &self,
        bolt11: &str,
        msat: Msat,
        seq: u32,
        covers: &Counts,
        ctx: &Ctx<'_>,
    ) -> Result<InvoiceFacts, String> {
        let Some(deal) = &self.deal else {
            return Err("no order".to_owned());
        };
        let facts = ctx
            .crypto
            .read_invoice(bolt11)
            .map_err(|error| error.to_string())?;
        if facts.payee != deal.candidate.lightning {
            return Err(
                "an invoice that pays another Lightning node than the listing names".to_owned(),
            );
        }
        if facts.msat != Some(msat) {
            return Err("an invoice of another amount than stated".to_owned());
        }
        if facts.description_hash != Some(description_hash(&deal.id, seq, covers)) {
            return Err("an invoice that is not bound to this order".to_owned());
        }
        if deal.bills.values().any(|bill| bill.hash == facts.hash) {
            return Err("a second invoice with the same payment hash".to_owned());
        }
        Ok(facts)
    }

    fn pay(
        &mut self,
        seq: u32,
        bolt11: String,
        facts: InvoiceFacts,
        msat: Msat,
        ctx: &mut Ctx<'_>,
    ) {
        let Some(deal) = self.deal.as_mut() else {
            return;
        };
        deal.bills.insert(
            seq,
            Bill {
                hash: facts.hash,
                msat,
                head: deal.chain.head(),
                fate: Fate::Open,
                asked: ctx.now.tick,
            },
        );
        ctx.tell(Message::Pay(Box::new(PayRequest {
            order: deal.id,
            seq,
            host: deal.candidate.host,
            bolt11,
            facts,
            msat,
            max_fee: ctx.config.max_fee(msat),
            carried: deal.carried(),
        })));
    }

    fn chunk(&mut self, chunk: Chunk, ctx: &mut Ctx<'_>) {
        if let Err(detail) = self.check_chunk(&chunk) {
            return self.violation(OffenceKind::WrongCount, detail, ctx);
        }
        if self.goes_on(&chunk) {
            return self.leave("the host went on after it was told to stop", ctx);
        }
        let Some(deal) = self.deal.as_mut() else {
            return;
        };
        if deal.keeps_too_much(chunk.tokens.iter().map(|token| token.piece.bytes.len())) {
            return self.violation(OffenceKind::MalformedFrame, TOO_MUCH.to_owned(), ctx);
        }
        for token in &chunk.tokens {
            deal.chain.push(token);
            deal.heads.push(deal.chain.head());
        }
        let mut text = String::new();
        for token in &chunk.tokens {
            text.push_str(&deal.rendering.push(&token.piece));
        }
        if chunk.finish.is_some() {
            text.push_str(&deal.rendering.finish());
        }
        // A vector has no text.
        deal.shown |= !text.is_empty() || self.request.job.meter() == Meter::Item;
        let tokens = chunk.tokens.iter().map(|token| token.id).collect();
        deal.check_pieces(
            &self.request.job,
            deal.counts.delivered(),
            chunk.tokens.clone(),
            ctx,
        );
        deal.tokens.extend(chunk.tokens);
        deal.counts = chunk.totals;
        deal.next_chunk += 1;
        deal.finish = chunk.finish.or(deal.finish);
        let since = ctx.now.tick.ms_since(deal.sent);
        // The end alone, without a token, says nothing of a host's speed.
        if deal.counts.delivered() > 0 {
            let first = *deal.first_token_ms.get_or_insert(since);
            deal.stream_ms = since.saturating_sub(first);
        }
        let cost = deal.cost_of(&deal.counts);
        self.wait(ctx.config.idle_timeout_ms, ctx);
        ctx.deliver(
            self.request.request,
            BuyerEvent::Output {
                text,
                tokens,
                totals: chunk.totals,
                cost,
                attached: chunk.attached,
            },
        );
        self.fetch_vocabulary(ctx);
    }

    /// A token that this host sent stands for something else than it says.
    pub fn wrong_piece(&mut self, position: u64, ctx: &mut Ctx<'_>) {
        self.violation(OffenceKind::FalseText, wrong_piece(position), ctx);
    }

    /// Whether the host sends more than it may after a Stop.
    fn goes_on(&self, chunk: &Chunk) -> bool {
        self.deal.as_ref().is_some_and(|deal| {
            let most = deal.stopped.map(|stop| stop.most);
            most.is_some_and(|most| deal.cost_of(&chunk.totals) > most)
        })
    }

    /// Ends an order whose host does not end it: nothing more is paid.
    fn leave(&mut self, why: &str, ctx: &mut Ctx<'_>) {
        if let Some(stream) = self.stream() {
            ctx.send(stream, Frame::Cancel);
        }
        self.give_up(Refusal::new(Code::Timeout, why), ctx);
    }

    /// Waits so long for the host's next frame, but no longer than a Stop allows.
    fn wait(&mut self, ms: u64, ctx: &Ctx<'_>) {
        let deal = self.deal.as_ref().filter(|deal| deal.finish.is_none());
        let stop = deal.and_then(|deal| deal.stopped);
        let until = ctx.now.tick.after_ms(ms);
        self.deadline = stop.map_or(until, |stop| stop.until.min(until));
    }

    fn check_chunk(&self, chunk: &Chunk) -> Result<(), String> {
        let Some(deal) = &self.deal else {
            return Ok(());
        };
        let job = &self.request.job;
        let delivered = deal.counts.delivered() + chunk.tokens.len() as u64;
        let expected = deal.counts.with_delivered(job.meter(), delivered);
        if deal.finish.is_some() {
            return Err("output after its end".to_owned());
        }
        if chunk.tokens.is_empty() && chunk.finish.is_none() {
            return Err("a chunk with nothing in it".to_owned());
        }
        if chunk.seq != deal.next_chunk {
            return Err(format!(
                "chunk {} where {} was due",
                chunk.seq, deal.next_chunk
            ));
        }
        if chunk.totals != expected {
            return Err(format!(
                "totals of {} units of output where {delivered} were delivered",
                chunk.totals.delivered()
            ));
        }
        if delivered > job.most_delivered() {
            return Err("more output than was ordered".to_owned());
        }
        if let Some(finish) = chunk.finish {
            self.check_finish(finish, &chunk.totals)?;
        }
        attached::fits(job, deal.counts.delivered(), chunk)
    }

    /// The word for the end is one that this side can see to be true. Whether the model ended
    /// an answer shows in the receipt, which the validator alone judges.
    fn check_finish(&self, finish: Finish, totals: &Counts) -> Result<(), String> {
        let (Some(deal), job) = (&self.deal, &self.request.job) else {
            return Ok(());
        };
        let (said, truth) = match finish {
            Finish::Stopped => ("stopped", deal.stopped.is_some()),
            Finish::Budget => {
                let more = totals.with_delivered(job.meter(), totals.delivered() + 1);
                let cost = deal.cost_of(&more).saturating_add(deal.carried());
                ("out of budget", cost > deal.max_cost)
            }
            // Embeddings have no end but the last text.
            Finish::Stop | Finish::Length if job.meter() == Meter::Item => {
                ("whole", totals.delivered() == job.most_delivered())
            }
            Finish::Stop | Finish::Length => return Ok(()),
        };
        match truth {
            true => Ok(()),
            false => Err(format!("output that is said to be {said}, and is not")),
        }
    }

    fn invoice(&mut self, signed: Signed, ctx: &mut Ctx<'_>) {
        let invoice = match self.read::<Invoice>(&signed, ctx) {
            Ok(opened) => opened.body,
            Err(error) => return self.violation(OffenceKind::BadSignature, error.to_string(), ctx),
        };
        // The wallet of an honest host may be another than when it was listed. Where nothing was
        // paid in this order yet, that is seen only now.
        let untouched = self.deal.as_ref().filter(|deal| deal.bills.is_empty());
        if let Some(deal) = untouched
            && let Ok(facts) = ctx.crypto.read_invoice(&invoice.bolt11)
            && facts.payee != deal.candidate.lightning
        {
            let detail = "an invoice of another wallet than the listing names".to_owned();
            return self.violation(OffenceKind::TermsNotAsListed, detail, ctx);
        }
        let facts = match self.check_invoice(&invoice, ctx) {
            Ok(facts) => facts,
            Err(detail) => return self.violation(OffenceKind::WrongInvoice, detail, ctx),
        };
        if expires_soon(&facts, ctx) {
            return self.violation(OffenceKind::Stale, EXPIRES_SOON.to_owned(), ctx);
        }
        let Some(deal) = self.deal.as_mut() else {
            return;
        };
        if deal.keeps_too_much([signed.bytes.len()].into_iter()) {
            return self.violation(OffenceKind::MalformedFrame, TOO_MUCH.to_owned(), ctx);
        }
        deal.window = invoice.window;
        deal.settled_then = deal.settled();
        deal.asked = invoice.invoiced;
        deal.invoices.push(signed);
        deal.vouched = Some(invoice.covers);
        self.wait(ctx.config.idle_timeout_ms, ctx);
        self.persist(ctx);
        self.pay(invoice.seq, invoice.bolt11, facts, invoice.msat, ctx);
        if let Some(bill) = self
            .deal
            .as_mut()
            .and_then(|deal| deal.bills.get_mut(&invoice.seq))
        {
            bill.head = invoice.head;
        }
    }

    fn check_invoice(&self, invoice: &Invoice, ctx: &Ctx<'_>) -> Result<InvoiceFacts, String> {
        let (Some(deal), Some((_, terms))) = (
            &self.deal,
            self.deal.as_ref().and_then(|deal| deal.terms.as_ref()),
        ) else {
            return Err("an invoice before terms".to_owned());
        };
        if invoice.order != deal.id {
            return Err("an invoice of another order".to_owned());
        }
        if deal
            .bills
            .keys()
            .next_back()
            .is_some_and(|last| invoice.seq <= *last)
            || invoice.seq == 0
        {
            return Err(format!("invoice {} out of order", invoice.seq));
        }
        if deal.invoices.len() >= limits::MAX_INVOICES {
            return Err("more invoices than an order may have".to_owned());
        }
        let units = invoice.covers.delivered();
        let covered = usize::try_from(units).unwrap_or(usize::MAX);
        let expected = deal.counts.with_delivered(self.request.job.meter(), units);
        if invoice.covers != expected || covered >= deal.heads.len() {
            return Err("an invoice for more than was delivered".to_owned());
        }
        if deal.heads.get(covered) != Some(&invoice.head) {
            return Err("an invoice whose chain head is not that of what was delivered".to_owned());
        }
        // The last one is the exact remainder; a smaller step would buy the host more fees.
        // Where a window is just one step, output stands less than one unit short of it.
        let unit = terms
            .prices
            .cost_or_max(&terms.input.with_delivered(self.request.job.meter(), 1));
        let unit = unit.saturating_sub(terms.prices.cost_or_max(&terms.input));
        let rounding = unit.saturating_add(ctx.config.payment_grain);
        if self.request.mode != PaymentMode::Metered && deal.finish.is_none() {
            return Err("an invoice before the end of the output".to_owned());
        }
        if invoice.msat.saturating_add(rounding) <= terms.quantum && deal.finish.is_none() {
            return Err(format!(
                "an invoice of {} where the step agreed upon is {}",
                invoice.msat, terms.quantum
            ));
        }
        if Some(invoice.invoiced) != deal.asked.checked_add(invoice.msat) {
            return Err("invoices that do not add up".to_owned());
        }
        let due = terms
            .prices
            .cost_or_max(&invoice.covers)
            .saturating_add(terms.carried_debt);
        if invoice.invoiced > due {
            return Err(format!("{} invoiced where {due} is due", invoice.invoiced));
        }
        // At the end one invoice may be smaller than a step: the remainder, and all of it.
        let small = invoice.msat.saturating_add(rounding) <= terms.quantum;
        let left = due.saturating_sub(invoice.invoiced);
        let whole = invoice.covers == deal.counts && left < ctx.config.payment_grain.max(Msat(1));
        if small && !whole {
            return Err(format!(
                "an invoice of {} below the step agreed upon, which is not the remainder",
                invoice.msat
            ));
        }
        if invoice.invoiced > deal.max_cost {
            return Err(format!(
                "{} invoiced, the cap is {}",
                invoice.invoiced, deal.max_cost
            ));
        }
        let open = |bill: &&Bill| bill.fate == Fate::Open;
        if deal.bills.values().filter(open).count() >= limits::MAX_PAYMENTS_IN_FLIGHT {
            return Err("too many unpaid invoices at once".to_owned());
        }
        self.check_bolt11(
            &invoice.bolt11,
            invoice.msat,
            invoice.seq,
            &invoice.covers,
            ctx,
        )
    }

    /// Payment settled an invoice.
    pub fn settled(&mut self, seq: u32, fee: Msat, ms: u64, ctx: &mut Ctx<'_>) {
        let Some(deal) = self.deal.as_mut() else {
            return;
        };
        let (order, host) = (deal.id, deal.candidate.host);
        let Some(bill) = deal
            .bills
            .get_mut(&seq)
            .filter(|bill| bill.fate != Fate::Settled)
        else {
            return;
        };
        bill.fate = Fate::Settled;
        let (hash, msat, head) = (bill.hash, bill.msat, bill.head);
        let waits = seq == 0 && deal.next_chunk == 0 && deal.held_receipt.is_none();
        let terms = deal.terms.as_ref().filter(|_| waits);
        let patience = terms.map(|(_, terms)| patience_ms(terms, ctx));
        if let Some(stream) = deal.stream {
            let paid = Paid {
                order,
                seq,
                hash,
                head,
                extensions: Vec::new(),
            };
            let signed = ctx.seal_with(deal.signer.as_ref(), host, &paid);
            ctx.send(stream, Frame::Paid(signed));
        }
        ctx.deliver(
            self.request.request,
            BuyerEvent::Paid {
                seq,
                hash,
                msat,
                fee,
                ms,
            },
        );
        // A host gives places in the order of payment: from here on it could begin.
        if let Some(ms) = patience {
            self.wait(ms, ctx);
        }
        self.release_receipt(false, ctx);
    }

    /// Takes up a receipt that was held back: once every payment is known, or `now`.
    fn release_receipt(&mut self, now: bool, ctx: &mut Ctx<'_>) -> bool {
        let Some(deal) = &self.deal else { return false };
        let ready = now || deal.all_settled();
        match deal.held_receipt.clone().filter(|_| ready) {
            Some(receipt) => {
                self.receipt(receipt, ctx);
                true
            }
            None => false,
        }
    }

    /// Payment did not settle an invoice.
    pub fn not_settled(&mut self, seq: u32, mut refusal: Refusal, ctx: &mut Ctx<'_>) {
        if refusal.code == Code::PaymentUnknown {
            // Never replaced: the order goes on for as long as the window lasts.
            return;
        }
        let Some(deal) = self.deal.as_mut() else {
            return;
        };
        match deal.bills.get_mut(&seq) {
            // Nothing was sent for a debt that the books do not know, and it is not taken up.
            Some(_) if refusal.code == Code::DebtDisputed => drop(deal.bills.remove(&seq)),
            Some(bill) => bill.fate = Fate::Failed,
            None => return,
        }
        if let Some(stream) = deal.stream {
            ctx.send(stream, Frame::Cancel);
        }
        // This host cannot be paid from here, which is no offence: books can differ in good
        // faith, and a route can be missing or dear. Another one may be in reach.
        let here = matches!(
            refusal.code,
            Code::DebtDisputed | Code::PaymentFailed | Code::CapTooLow
        );
        if !here || !deal.is_untouched() {
            return self.fail(refusal, ctx);
        }
        deal.refused = Some(refusal.code);
        self.unpayable += 1;
        if self.unpayable > 1 {
            let (hosts, last) = (self.unpayable, refusal.message);
            refusal.message = format!("{hosts} hosts could not be paid; the last: {last}");
        }
        self.give_up(refusal, ctx);
    }

    fn receipt(&mut self, signed: Signed, ctx: &mut Ctx<'_>) {
        let opened = match self.read::<Receipt>(&signed, ctx) {
            Ok(opened) => opened,
            Err(error) => return self.violation(OffenceKind::BadSignature, error.to_string(), ctx),
        };
        if let Err(detail) = self.check_receipt(&opened.body) {
            return self.violation(OffenceKind::WrongReceipt, detail, ctx);
        }
        let (Some(deal), receipt) = (self.deal.as_mut(), opened.body) else {
            return;
        };
        let Some(stream) = deal.stream else { return };
        let settled = deal.all_settled();
        if !settled && deal.held_receipt.is_none() {
            // The host's wallet is a moment ahead of ours.
            deal.held_receipt = Some(signed);
            self.deadline = ctx.now.tick.after_ms(HOLD_RECEIPT_MS);
            return;
        }
        let host = deal.candidate.host;
        let body = Countersigned {
            receipt: signed.digest(),
            extensions: Vec::new(),
        };
        let countersigned = ctx.seal_with(deal.signer.as_ref(), host, &body);
        deal.vouched = Some(receipt.counts);
        deal.receipt = Some(signed);
        deal.countersigned = Some(countersigned.clone());
        let (finish, status) = (receipt.finish, receipt.status);
        ctx.send(stream, Frame::Countersigned(countersigned));
        self.close_deal(status, ctx);
        self.state = State::Over;
        ctx.tell(Message::Release {
            request: self.request.request,
        });
        ctx.deliver(
            self.request.request,
            BuyerEvent::Finished {
                finish,
                receipt: Box::new(receipt),
            },
        );
    }

    fn check_receipt(&self, receipt: &Receipt) -> Result<(), String> {
        let (Some(deal), Some((terms_signed, terms))) = (
            &self.deal,
            self.deal.as_ref().and_then(|deal| deal.terms.as_ref()),
        ) else {
            return Err("a receipt before terms".to_owned());
        };
        let cost = terms.prices.cost_or_max(&deal.counts);
        let paid = deal.settled();
        let received = receipt
            .payments
            .iter()
            .fold(Msat::ZERO, |sum, entry| sum.saturating_add(entry.msat));
        let known = |entry: &PaymentEntry| {
            deal.bills
                .get(&entry.seq)
                .is_some_and(|bill| bill.hash == entry.hash && bill.msat == entry.msat)
        };
        let due = cost.saturating_add(terms.carried_debt);
        let ascending = receipt
            .payments
            .windows(2)
            .all(|pair| matches!(pair, [a, b] if a.seq < b.seq));
        let status = match receipt.finish {
            Finish::Stopped => Status::Stopped,
            _ => Status::Complete,
        };
        let checks = [
            (deal.finish == Some(receipt.finish), "end of output"),
            (receipt.status == status, "status"),
            (ascending, "order of payments"),
            (
                receipt.id == deal.id && receipt.order == deal.signed.digest(),
                "order",
            ),
            (receipt.terms == terms_signed.digest(), "terms"),
            (
                receipt.host == deal.candidate.host && receipt.buyer == deal.signer.key(),
                "keys",
            ),
            (receipt.model == deal.candidate.offer.digest, "model"),
            (
                receipt.tokenizer == terms.tokenizer && receipt.template == terms.template,
                "tokenizer",
            ),
            (receipt.numerics == terms.numerics, "numerics"),
            (receipt.prices == terms.prices, "prices"),
            (receipt.counts == deal.counts, "token counts"),
            (receipt.head == deal.chain.head(), "chain head"),
            (receipt.cost == cost, "cost"),
            // The host may know of a settled payment before our wallet says so, never the reverse.
            (
                receipt.payments.iter().all(known) && received >= paid,
                "payments",
            ),
            (receipt.debt == due.saturating_sub(received), "debt"),
        ];
        match checks.iter().find(|(ok, _)| !ok) {
            Some((_, what)) => Err(format!("a receipt whose {what} disagree with the evidence")),
            None => Ok(()),
        }
    }

    /// The client wants no more output.
    pub fn stop(&mut self, ctx: &mut Ctx<'_>) {
        match (self.state, self.stream()) {
            (State::Streaming, Some(stream)) => {
                if let Some(deal) = self.deal.as_mut().filter(|deal| deal.finish.is_none()) {
                    let stop = deal.stop(&self.request.job, ctx.now.tick);
                    let until = deal.stopped.get_or_insert(stop).until;
                    self.deadline = self.deadline.min(until);
                }
                ctx.send(stream, Frame::Stop);
            }
            (State::Over, _) => {}
            _ => self.fail(
                Refusal::new(Code::Cancelled, "stopped before output began"),
                ctx,
            ),
        }
    }

    /// The client wants nothing more at all.
    pub fn cancel(&mut self, ctx: &mut Ctx<'_>) {
        if let Some(stream) = self.stream() {
            ctx.send(stream, Frame::Cancel);
        }
        self.fail(Refusal::new(Code::Cancelled, "cancelled"), ctx);
    }

    /// The stream ended.
    pub fn closed(&mut self, ctx: &mut Ctx<'_>) {
        if self.release_receipt(true, ctx) {
            return;
        }
        if let Some(deal) = self.deal.as_mut() {
            deal.stream = None;
        }
        self.give_up(Refusal::new(Code::Disconnected, "the host went away"), ctx);
    }

    /// Runs what is due.
    pub fn expire(&mut self, ctx: &mut Ctx<'_>) {
        if self
            .deadline()
            .is_none_or(|deadline| deadline > ctx.now.tick)
        {
            return;
        }
        if self.release_receipt(true, ctx) {
            return;
        }
        // Our own count takes too long: the host's is believed, as where there is none.
        let deal = self.deal.as_mut();
        let held = deal.and_then(|deal| Some((deal.held_terms.take()?, deal.recount.as_mut()?)));
        if let Some((terms, recount)) = held {
            recount.waive();
            return self.terms(terms, ctx);
        }
        let what = match self.state {
            State::Reserving => "the wallet did not answer in time",
            State::Finding => "no candidates were found in time",
            State::Confirming => "nobody agreed to the choice in time",
            State::Dialing(_) => "the host could not be reached in time",
            State::Ordered => "the host sent no terms in time",
            _ => "the host fell silent",
        };
        self.leave(what, ctx);
    }

    fn violation(&mut self, kind: OffenceKind, detail: String, ctx: &mut Ctx<'_>) {
        if self.state == State::Over {
            return;
        }
        // Before the terms are accepted nothing is owed, and a listing may have changed.
        let kind = match self.state {
            State::Streaming => kind,
            // No listing has a part in how many tokens a prompt has.
            _ if kind == OffenceKind::FalseInput => kind,
            _ if kind.is_objective() => OffenceKind::TermsNotAsListed,
            _ => kind,
        };
        if let Some(deal) = self.deal.as_mut() {
            deal.price_kept &= kind != OffenceKind::PriceAboveListing;
            ctx.offence(deal.candidate.host, deal.id, kind, &detail);
            if let Some(stream) = deal.stream {
                ctx.send(stream, Frame::Cancel);
            }
        }
        let refusal = Refusal::new(
            Code::ProtocolViolation,
            format!("the host broke the protocol: {detail}"),
        );
        self.give_up(refusal, ctx);
    }

    fn fail(&mut self, refusal: Refusal, ctx: &mut Ctx<'_>) {
        if self.state == State::Over {
            return;
        }
        self.close_deal(Status::Failed(refusal.code), ctx);
        self.state = State::Over;
        ctx.tell(Message::Release {
            request: self.request.request,
        });
        ctx.deliver(self.request.request, BuyerEvent::Failed(refusal));
    }

    /// Books and evidence of the deal that ends.
    fn close_deal(&mut self, status: Status, ctx: &mut Ctx<'_>) {
        let record = self.record(Some(status));
        let Some(deal) = self.deal.as_mut() else {
            return;
        };
        if let Some(stream) = deal.stream.take() {
            ctx.close(stream);
        }
        let failure = match status {
            // Whatever word it chose.
            Status::Failed(_) if deal.broken_off => Some(Code::ProtocolViolation),
            Status::Failed(code) if deal.refused.is_none() => Some(code),
            _ => None,
        };
        if failure.is_none_or(Code::is_hosts_fault) {
            let owed = deal.owed();
            // An end without a word of output is no service, unless we wanted no more.
            let unserved =
                failure.is_some() || (deal.counts.delivered() == 0 && deal.stopped.is_none());
            ctx.tell(Message::Happened(Outcome {
                order: deal.id,
                host: deal.candidate.host,
                model: deal.candidate.offer.digest,
                failure,
                refused: deal.refused,
                first_token_ms: deal.first_token_ms,
                tokens: deal.counts.delivered(),
                stream_ms: deal.stream_ms,
                price_kept: deal.price_kept,
                took_payment: unserved && deal.settled() > owed,
                blank: failure.is_none()
                    && deal.refused.is_none()
                    && !deal.shown
                    && deal.stopped.is_none(),
            }));
            if unserved || deal.refused.is_some() {
                let late = LateOrder {
                    ended: ctx.now.wall,
                    host: deal.candidate.host,
                    owed,
                    settled: deal.settled(),
                    open: deal.open_bills(),
                };
                let records = ctx.late.remember(deal.id, late);
                ctx.persist(records);
            }
        }
        let Some(record) = record else { return };
        let account = OrderAccount {
            carried: if deal.bills.is_empty() {
                Msat::ZERO
            } else {
                deal.carried()
            },
            unsure: match status {
                Status::Complete | Status::Stopped => Msat::ZERO,
                // Output may have been under way when the order broke off.
                Status::Failed(_) => deal.unsure(&self.request.job),
            },
            ..record.account()
        };
        let closing = Closing {
            account,
            unpaid: Msat::ZERO,
        };
        ctx.close_order(&mut deal.journal, &record, closing);
        let (audit, request) = (self.request.audit, Some(self.request.request));
        if let Some(bundle) = record.bundle() {
            ctx.tell(Message::OrderEnded(Box::new(Evidence {
                request,
                bundle,
                audit,
            })));
        }
    }

    /// The deal as it is written down. Its output moves there: it has none when the record is
    /// made first, and needs none when it ends.
    fn record(&mut self, status: Option<Status>) -> Option<OrderRecord> {
        let deal = self.deal.as_mut()?;
        let (terms_signed, terms) = deal.terms.as_ref()?;
        Some(OrderRecord {
            side: Side::Buyer,
            counterparty: deal.candidate.host,
            model: deal.candidate.offer.digest,
            digest: deal.signed.digest(),
            order: Some(deal.signed.clone()),
            terms: Some(terms_signed.clone()),
            tokens: std::mem::take(&mut deal.tokens),
            invoices: std::mem::take(&mut deal.invoices),
            paid: Vec::new(),
            receipt: deal.receipt.clone(),
            countersigned: deal.countersigned.clone(),
            counts: deal.counts,
            cost: terms.prices.cost_or_max(&deal.counts),
            carried: deal.carried(),
            status,
            started: deal.started,
        })
    }

    /// Writes what is new.
    fn persist(&mut self, ctx: &mut Ctx<'_>) {
        let whole = match &self.deal {
            Some(deal) if !deal.journal.is_open() => self.record(None),
            _ => None,
        };
        let Some(deal) = self.deal.as_mut() else {
            return;
        };
        let records = match (whole, &deal.terms) {
            (Some(record), _) => deal.journal.begin(&record),
            (None, Some((_, terms))) => {
                let cost = terms.prices.cost_or_max(&deal.counts);
                let (tokens, invoices) = (&deal.tokens, &deal.invoices);
                deal.journal.add(tokens, invoices, deal.counts, cost)
            }
            (None, None) => Vec::new(),
        };
        ctx.persist(records);
    }
}
