//! One leg of a purchase: one order with one host, from the dial to the receipt.
//!
//! Not the purchase ([`crate::purchase`]): that sets the money aside, chooses the host, and
//! decides what comes after a leg that ended. A leg believes nothing that it can check: every
//! invoice is held against what was delivered, every receipt against the evidence.
//!
//! # States
//! `Dialing → Ordered → Streaming`; each may be the last. A leg that ends says why ([`End`]),
//! and is then closed ([`Leg::close`]).
//!
//! # Parts
//! | file | what |
//! |---|---|
//! | `terms` | which terms and which entry payment are agreed to |
//! | `recount` | the buyer's own count of the prompt |
//! | `transcript` | the output as it arrived |
//! | `bills` | which invoices are paid, and what became of the payments |
//! | `receipt` | which receipt is countersigned |
//! | `books` | what is written down, and what the end says of the host |
//!
//! # Invariants
//! - The sum of payments asked of Payment never exceeds the larger of the entry
//!   payment and the cost of what was delivered, and never `max_cost`.
//! - A payment is asked for once per invoice; a failed one ends the order. An unknown one is
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

mod bills;
mod books;
mod receipt;
mod recount;
pub(crate) mod terms;
mod transcript;

use crate::crypto::{Crypto, InvoiceFacts};
use crate::ids::{Digest, EffectId, OrderId, StreamId};
use crate::message::discovery::Candidate;
use crate::message::inference::{
    BuyRequest, BuyerEvent, Effect, InputCount, PayRequest, VocabularySource,
};
use crate::message::payment::Side;
use crate::message::sibling::Message;
use crate::money::{Counts, Meter, Msat};
use crate::offence::OffenceKind;
use crate::order::breach::Breach;
use crate::order::context::Ctx;
use crate::order::record::Journal;
use crate::refusal::{Code, Refusal};
use crate::time::{Tick, WallTime};
use crate::wire::chain::ChainedToken;
use crate::wire::envelope::{Body, EnvelopeError, Opened, Signed};
use crate::wire::manifest::PaymentMode;
use crate::wire::order::{Chunk, Countersigned, Frame, Invoice, Order, Paid, Receipt, Terms};
use bills::Bills;
use rand::RngCore;
use rand::seq::IteratorRandom;
use recount::Recount;
use std::collections::VecDeque;
use terms::Ordered;
use transcript::Transcript;

/// Hosts that a missing vocabulary is asked of: the one that serves, and some to turn to.
const MAX_VOCABULARY_SOURCES: usize = 4;
/// How long a receipt waits for our own wallet to know of the payments in it. Milliseconds.
/// Shorter than the host waits for the countersignature.
const HOLD_RECEIPT_MS: u64 = 5_000;
/// How long a host may take to send its last chunk once it was told to stop. Milliseconds.
const STOP_MS: u64 = 10_000;
/// Suggested wait where this node had no stream left. Milliseconds.
const OWN_STREAMS_RETRY_MS: u64 = 5_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The host is dialled.
    Dialing(EffectId),
    /// The order is sent.
    Ordered,
    /// Its terms are accepted.
    Streaming,
}

/// What a host may still do that was told to stop.
#[derive(Debug, Clone, Copy)]
struct Stop {
    /// Until when it sends its last chunk.
    until: Tick,
    /// Most that the totals may cost by then.
    most: Msat,
}

/// What a purchase lends its leg for one turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    /// What the client wants.
    pub request: &'a BuyRequest,
    /// The hosts that were found and not asked yet.
    pub others: &'a VecDeque<Candidate>,
}

/// Why a leg ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The receipt is countersigned.
    Finished(Box<Receipt>),
    /// The host broke a rule.
    Breach(Breach),
    /// The host did not serve the order, or not to its end.
    Unserved(Refusal),
    /// The host cannot be paid from here, and was not.
    Unpayable(Refusal),
    /// No other host can help.
    Failed(Refusal),
}

impl From<Breach> for End {
    fn from(breach: Breach) -> Self {
        End::Breach(breach)
    }
}

/// One order with one host.
#[derive(Debug)]
pub(crate) struct Leg {
    // Identity.
    /// The order's id.
    id: OrderId,
    /// The host, as it was listed when it was chosen.
    candidate: Candidate,
    /// The signed order.
    signed: Signed,
    /// Its digest.
    digest: Digest,
    /// The order key towards this host.
    signer: Box<dyn Crypto>,

    // Course.
    /// Where it stands.
    state: State,
    /// Its stream, while it is open.
    stream: Option<StreamId>,
    /// When it was sent, or the dial began.
    sent: Tick,
    /// The same by the clock on the wall.
    started: WallTime,
    /// When [`Leg::expire`] must run.
    deadline: Tick,
    /// The client wants no more output.
    stopped: Option<Stop>,
    /// Our own count of the prompt, from when the order was sent.
    recount: Option<Recount>,

    // What the host signed.
    /// Terms that wait for our own count of the prompt.
    held_terms: Option<Signed>,
    /// The terms that were accepted.
    terms: Option<(Signed, Terms)>,
    /// A receipt that was checked, held back until our wallet knows of every payment.
    held_receipt: Option<Signed>,
    /// The receipt that was countersigned.
    receipt: Option<Signed>,
    /// Our signature under it.
    countersigned: Option<Signed>,

    // Output and money.
    /// The output so far.
    transcript: Transcript,
    /// Most that the host may ask for: the cap without what is kept for routing fees.
    max_cost: Msat,
    /// The invoices so far.
    bills: Bills,

    // Books.
    /// What of it is on disk.
    journal: Journal,
    /// No price was above the listing.
    price_kept: bool,
    /// Why the host did not take the order.
    refused: Option<Code>,
    /// The host took the order and something for it, and then refused it.
    broken_off: bool,
}

/// What is said of a token that does not stand for what its piece shows.
pub(crate) fn wrong_piece(position: u64) -> String {
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

impl Leg {
    /// Signs the order for a host, and dials it.
    pub fn dial(request: &BuyRequest, candidate: Candidate, ctx: &mut Ctx<'_>) -> Self {
        let mut salt = [0; 16];
        ctx.rng.fill_bytes(&mut salt);
        let order = Order {
            model: candidate.offer.digest,
            job: request.job.clone(),
            // What is kept for routing fees is not the host's.
            max_cost: ctx.config.fees.cost_within(request.max_cost),
            mode: request.mode,
            payment_grain: ctx.config.payment_grain,
            path: request.path,
            retention: request.retention,
            handling: request.handling,
            salt,
            via: None,
            authority: Vec::new(),
            extensions: Vec::new(),
        };
        let once = request.private.then_some(&order.salt);
        let signer = ctx.orders.signer(&candidate.host, once);
        let signed = ctx.seal_with(signer.as_ref(), candidate.host, &order);
        let digest = signed.digest();
        let id = OrderId::of(&digest);
        let effect = ctx.fresh();
        ctx.tell(Message::Bind {
            request: request.request,
            order: id,
            host: candidate.host,
        });
        ctx.out.push(Effect::OpenStream {
            id: effect,
            host: candidate.host,
            addresses: candidate.addresses.clone(),
            private: request.private,
        });
        Leg {
            id,
            candidate,
            signed,
            digest,
            signer,
            state: State::Dialing(effect),
            stream: None,
            sent: ctx.now.tick,
            started: ctx.now.wall,
            deadline: ctx.now.tick.after_ms(ctx.config.dial_timeout_ms),
            stopped: None,
            recount: None,
            held_terms: None,
            terms: None,
            held_receipt: None,
            receipt: None,
            countersigned: None,
            transcript: Transcript::new(&digest, &request.job),
            max_cost: order.max_cost,
            bills: Bills::default(),
            journal: Journal::new(Side::Buyer, id),
            price_kept: true,
            refused: None,
            broken_off: false,
        }
    }

    /// The order's id.
    pub fn id(&self) -> OrderId {
        self.id
    }

    /// Its stream, while it is open.
    pub fn stream(&self) -> Option<StreamId> {
        self.stream
    }

    /// When [`Leg::expire`] must run.
    pub fn deadline(&self) -> Tick {
        self.deadline
    }

    /// The dial under way.
    pub fn dialing(&self) -> Option<EffectId> {
        match self.state {
            State::Dialing(id) => Some(id),
            _ => None,
        }
    }

    /// Whether nothing was delivered, and nothing was or can still be paid.
    pub fn is_untouched(&self) -> bool {
        self.transcript.is_empty() && self.bills.all_failed()
    }

    /// How long ago the order was sent, or the dial began. Milliseconds.
    pub fn waited_ms(&self, now: Tick) -> u64 {
        now.ms_since(self.sent)
    }

    /// Whether it waits for that count of its prompt.
    pub fn awaits_count(&self, id: EffectId) -> bool {
        self.recount
            .as_ref()
            .is_some_and(|recount| recount.awaits(id))
    }

    /// What everything that the host says is held against.
    fn ordered<'a>(&'a self, ask: Ask<'a>, ctx: &Ctx<'_>) -> Ordered<'a> {
        Ordered {
            id: self.id,
            digest: self.digest,
            buyer: self.signer.key(),
            candidate: &self.candidate,
            job: &ask.request.job,
            mode: ask.request.mode,
            max_cost: self.max_cost,
            grain: ctx.config.payment_grain,
            now: ctx.now.wall,
        }
    }

    fn before_accept(&self) -> bool {
        self.state != State::Streaming
    }

    fn breach(&self, kind: OffenceKind, detail: impl Into<String>) -> End {
        End::Breach(Breach {
            before_accept: self.before_accept(),
            kind,
            detail: detail.into(),
        })
    }

    /// Debt from earlier orders that the terms add.
    fn carried(&self) -> Msat {
        self.terms
            .as_ref()
            .map_or(Msat::ZERO, |(_, terms)| terms.carried_debt)
    }

    /// What that much costs by the terms.
    fn cost_of(&self, counts: &Counts) -> Msat {
        let terms = self.terms.as_ref();
        terms.map_or(Msat::ZERO, |(_, terms)| terms.prices.cost_or_max(counts))
    }

    /// The stream is open: order.
    pub fn on_stream_opened(&mut self, stream: StreamId, ask: Ask<'_>, ctx: &mut Ctx<'_>) {
        self.stream = Some(stream);
        self.sent = ctx.now.tick;
        self.started = ctx.now.wall;
        self.state = State::Ordered;
        self.deadline = ctx.now.tick.after_ms(ctx.config.terms_timeout_ms);
        ctx.send(stream, Frame::Order(self.signed.clone()));
        // Behind the order: it takes no time from the way to the first token.
        let model = self.candidate.offer.digest;
        self.recount = Some(Recount::begin(model, &ask.request.job, ctx));
    }

    /// The host could not be reached. `ours`: this node did not try, for want of a stream of
    /// its own, and the host has no part in it.
    pub fn on_dial_failed(&mut self, reason: &str, ours: bool, ctx: &mut Ctx<'_>) -> End {
        if ours {
            let mut refusal = Refusal::new(Code::Busy, reason);
            refusal.retry_after_ms = Some(OWN_STREAMS_RETRY_MS);
            return End::Unserved(refusal);
        }
        let (host, kind) = (self.candidate.host, OffenceKind::GhostListing);
        ctx.offence(host, self.id, kind, reason);
        let text = format!("the host cannot be reached: {reason}");
        End::Unserved(Refusal::new(Code::Disconnected, text))
    }

    /// Our own count of the prompt is there, or cannot be.
    pub fn on_input_counted(
        &mut self,
        count: InputCount,
        ask: Ask<'_>,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), End> {
        if let Some(recount) = self.recount.as_mut() {
            recount.counted(count);
        }
        let held = self.held_terms.take();
        if let Some(terms) = held.filter(|_| self.state == State::Ordered) {
            return self.on_terms(terms, ask, ctx);
        }
        if self.state != State::Streaming {
            return Ok(());
        }
        if let Some((_, terms)) = &self.terms {
            self.check_count(terms)?;
        }
        self.tell_count(ask, ctx);
        self.check_pieces(ask, 0, self.transcript.tokens.clone(), ctx);
        self.fetch_vocabulary(ask, ctx);
        Ok(())
    }

    fn check_count(&self, terms: &Terms) -> Result<(), Breach> {
        let offer = &self.candidate.offer;
        match &self.recount {
            Some(recount) => recount.check(offer, terms, self.before_accept()),
            None => Ok(()),
        }
    }

    /// Tells the client that the host's count was held against our own.
    fn tell_count(&self, ask: Ask<'_>, ctx: &mut Ctx<'_>) {
        if let Some(tokens) = self.recount.as_ref().and_then(Recount::tokens) {
            ctx.deliver(ask.request.request, BuyerEvent::InputCounted { tokens });
        }
    }

    /// Has pieces held against the vocabulary, where it is here. Text arrives no later for it.
    fn check_pieces(&self, ask: Ask<'_>, from: u64, tokens: Vec<ChainedToken>, ctx: &mut Ctx<'_>) {
        let (Some(recount), Some((_, terms))) = (&self.recount, &self.terms) else {
            return;
        };
        let pieces = ask.request.job.meter() == Meter::OutputToken && !tokens.is_empty();
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

    /// Once the first word came, and not before, a vocabulary that is missing is fetched for
    /// the next order: from this host, or from another that lists the model.
    fn fetch_vocabulary(&mut self, ask: Ask<'_>, ctx: &mut Ctx<'_>) {
        let missing = self.transcript.first_token_ms.is_some()
            && self.recount.as_mut().is_some_and(Recount::must_fetch);
        if !missing {
            return;
        }
        let model = self.candidate.offer.digest;
        let same = |host: &&Candidate| host.offer.digest == model;
        // Drawn: whoever fills the first ranks does not choose who is asked.
        let others = ask.others.iter().filter(same);
        let others = others.choose_multiple(&mut *ctx.rng, MAX_VOCABULARY_SOURCES - 1);
        let hosts = std::iter::once(&self.candidate)
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

    /// A frame of the host arrived.
    pub fn on_frame(&mut self, frame: Frame, ask: Ask<'_>, ctx: &mut Ctx<'_>) -> Result<(), End> {
        match (self.state, frame) {
            (State::Ordered, Frame::Terms(signed)) => self.on_terms(signed, ask, ctx),
            (State::Ordered | State::Streaming, Frame::Refusal(refusal)) => {
                Err(self.on_refusal(refusal, ask, ctx))
            }
            (State::Streaming, Frame::Chunk(chunk)) => self.on_chunk(chunk, ask, ctx),
            (State::Streaming, Frame::Invoice(signed)) => self.on_invoice(signed, ask, ctx),
            (State::Streaming, Frame::Receipt(signed)) => self.on_receipt(signed, ask, ctx),
            (_, frame) => {
                let detail = format!("the host sent a {} frame out of turn", frame.name());
                Err(self.breach(OffenceKind::UnexpectedFrame, detail))
            }
        }
    }

    /// Bytes that are no frame.
    pub fn on_malformed_frame(&self, detail: String) -> End {
        self.breach(OffenceKind::MalformedFrame, detail)
    }

    /// A token that this host sent stands for something else than it says.
    pub fn on_wrong_piece(&self, position: u64) -> End {
        self.breach(OffenceKind::FalseText, wrong_piece(position))
    }

    /// The host refused. A code that only a node's own wallet or budgets can give means
    /// nothing in its mouth.
    fn on_refusal(&mut self, refusal: Refusal, ask: Ask<'_>, ctx: &Ctx<'_>) -> End {
        if refusal.code.is_from_hosts() {
            self.blame(refusal.code, ask.request.mode, ctx.now.tick);
            return End::Unserved(refusal);
        }
        let detail = format!(
            "the host refused with `{}`, which is not a host's to say",
            refusal.code.word()
        );
        self.breach(OffenceKind::UnexpectedFrame, detail)
    }

    /// Opens what the host signed.
    fn read<T: Body>(&self, signed: &Signed, ctx: &Ctx<'_>) -> Result<Opened<T>, End> {
        let signer = self.signer.as_ref();
        let opened = signed.open::<T>(signer, ctx.config.network, &signer.key(), ctx.now.wall);
        let checked = opened.and_then(|opened| match opened.envelope.from == self.candidate.host {
            true => Ok(opened),
            false => Err(EnvelopeError::BadSignature {
                from: opened.envelope.from,
            }),
        });
        checked.map_err(|error| self.breach(OffenceKind::BadSignature, error.to_string()))
    }

    fn on_terms(&mut self, signed: Signed, ask: Ask<'_>, ctx: &mut Ctx<'_>) -> Result<(), End> {
        let terms = self.read::<Terms>(&signed, ctx)?.body;
        let ordered = self.ordered(ask, ctx);
        terms::check(&ordered, &terms)?;
        self.check_count(&terms)?;
        let entry = terms::check_entry(&ordered, &terms, ctx.crypto)?;
        if terms.starts_within_ms > ctx.config.max_wait_ms {
            return Err(self.leave_queue(&terms, ctx));
        }
        // What is paid before our own count is known is not given back.
        if self.recount.as_ref().is_some_and(Recount::is_awaited) {
            self.held_terms = Some(signed);
            return Ok(());
        }
        let (Some(stream), digest) = (self.stream, signed.digest()) else {
            return Ok(());
        };
        self.transcript.begin(&self.digest, &digest, terms.input);
        let kept = [self.signed.bytes.len(), signed.bytes.len()];
        self.transcript.keep(kept.into_iter())?;
        let prepaid = entry.as_ref().map(|(entry, _)| entry.msat);
        self.bills
            .begin(terms.window, prepaid.unwrap_or(Msat::ZERO));
        self.terms = Some((signed, terms.clone()));
        self.state = State::Streaming;
        self.deadline = ctx.now.tick.after_ms(patience_ms(&terms, ctx));
        self.persist(ctx);
        ctx.deliver(
            ask.request.request,
            BuyerEvent::Accepted {
                order: self.id,
                input: terms.input,
                entry: prepaid,
                window: terms.window,
                quantum: terms.quantum,
                carried: terms.carried_debt,
            },
        );
        self.tell_count(ask, ctx);
        ctx.send(stream, Frame::Accept(digest));
        if let Some((entry, facts)) = entry {
            let head = self.transcript.head();
            self.pay(0, entry.bolt11.clone(), facts, entry.msat, head, ctx);
        }
        Ok(())
    }

    /// The host would begin later than this node waits.
    fn leave_queue(&self, terms: &Terms, ctx: &mut Ctx<'_>) -> End {
        let seconds = terms.starts_within_ms / 1_000;
        let text =
            format!("the host would begin in {seconds} s, which is longer than this node waits");
        let mut refusal = Refusal::new(Code::Busy, text);
        refusal.retry_after_ms = Some(terms.starts_within_ms);
        self.cancel(ctx);
        End::Unserved(refusal)
    }

    fn pay(
        &mut self,
        seq: u32,
        bolt11: String,
        facts: InvoiceFacts,
        msat: Msat,
        head: Digest,
        ctx: &mut Ctx<'_>,
    ) {
        self.bills.ask(seq, &facts, msat, head, ctx.now.tick);
        ctx.tell(Message::Pay(Box::new(PayRequest {
            order: self.id,
            seq,
            host: self.candidate.host,
            bolt11,
            facts,
            msat,
            max_fee: ctx.config.max_fee(msat),
            carried: self.carried(),
        })));
    }

    fn on_chunk(&mut self, chunk: Chunk, ask: Ask<'_>, ctx: &mut Ctx<'_>) -> Result<(), End> {
        let job = &ask.request.job;
        if let Some((_, terms)) = &self.terms {
            let ordered = self.ordered(ask, ctx);
            self.transcript
                .check(&ordered, terms, &chunk, self.stopped.is_some())?;
        }
        let goes_on = |stop: Stop| self.cost_of(&chunk.totals) > stop.most;
        if self.stopped.is_some_and(goes_on) {
            return Err(self.leave("the host went on after it was told to stop", ctx));
        }
        let pieces = chunk.tokens.iter().map(|token| token.piece.bytes.len());
        self.transcript.keep(pieces)?;
        let from = self.transcript.counts.delivered();
        let text = self
            .transcript
            .push(&chunk, job, self.waited_ms(ctx.now.tick));
        let tokens = chunk.tokens.iter().map(|token| token.id).collect();
        self.check_pieces(ask, from, chunk.tokens, ctx);
        self.wait(ctx.config.idle_timeout_ms, ctx);
        ctx.deliver(
            ask.request.request,
            BuyerEvent::Output {
                text,
                tokens,
                totals: chunk.totals,
                cost: self.cost_of(&chunk.totals),
                attached: chunk.attached,
            },
        );
        self.fetch_vocabulary(ask, ctx);
        Ok(())
    }

    fn on_invoice(&mut self, signed: Signed, ask: Ask<'_>, ctx: &mut Ctx<'_>) -> Result<(), End> {
        let invoice = self.read::<Invoice>(&signed, ctx)?.body;
        // The wallet of an honest host may be another than when it was listed. Where nothing was
        // paid in this order yet, that is seen only now.
        if self.bills.is_empty()
            && let Ok(facts) = ctx.crypto.read_invoice(&invoice.bolt11)
            && facts.payee != self.candidate.lightning
        {
            let detail = "an invoice of another wallet than the listing names";
            return Err(self.breach(OffenceKind::TermsNotAsListed, detail));
        }
        let Some((_, terms)) = &self.terms else {
            return Ok(());
        };
        let ordered = self.ordered(ask, ctx);
        let bills = &self.bills;
        let facts = bills.check(&ordered, terms, &self.transcript, &invoice, ctx.crypto)?;
        self.transcript.keep(std::iter::once(signed.bytes.len()))?;
        self.bills.accept(signed, &invoice);
        self.wait(ctx.config.idle_timeout_ms, ctx);
        self.persist(ctx);
        let (seq, msat, head) = (invoice.seq, invoice.msat, invoice.head);
        self.pay(seq, invoice.bolt11, facts, msat, head, ctx);
        Ok(())
    }

    /// Payment settled an invoice.
    pub fn on_payment_settled(
        &mut self,
        seq: u32,
        fee: Msat,
        ms: u64,
        ask: Ask<'_>,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), End> {
        let Some(bill) = self.bills.settle(seq) else {
            return Ok(());
        };
        let (hash, msat, head) = (bill.hash, bill.msat, bill.head);
        if let Some(stream) = self.stream {
            let paid = Paid {
                order: self.id,
                seq,
                hash,
                head,
                extensions: Vec::new(),
            };
            let signed = ctx.seal_with(self.signer.as_ref(), self.candidate.host, &paid);
            ctx.send(stream, Frame::Paid(signed));
        }
        let event = BuyerEvent::Paid {
            seq,
            hash,
            msat,
            fee,
            ms,
        };
        ctx.deliver(ask.request.request, event);
        // A host gives places in the order of payment: from here on it could begin.
        let waits = seq == 0 && self.transcript.is_empty() && self.held_receipt.is_none();
        let terms = self.terms.as_ref().filter(|_| waits);
        if let Some(ms) = terms.map(|(_, terms)| patience_ms(terms, ctx)) {
            self.wait(ms, ctx);
        }
        match self.bills.all_settled() {
            true => self.release_receipt(ask, ctx),
            false => Ok(()),
        }
    }

    /// Payment did not settle an invoice.
    pub fn on_payment_failed(
        &mut self,
        seq: u32,
        refusal: Refusal,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), End> {
        if refusal.code == Code::PaymentUnknown {
            // Never replaced: the order goes on for as long as the window lasts.
            return Ok(());
        }
        let known = match refusal.code {
            // Nothing was sent for a debt that the books do not know, and it is not taken up.
            Code::DebtDisputed => self.bills.forget(seq),
            _ => self.bills.fail(seq),
        };
        if !known {
            return Ok(());
        }
        self.cancel(ctx);
        // This host cannot be paid from here, which is no offence: books can differ in good
        // faith, and a route can be missing or dear. Another one may be in reach.
        let here = matches!(
            refusal.code,
            Code::DebtDisputed | Code::PaymentFailed | Code::CapTooLow
        );
        if !here || !self.is_untouched() {
            return Err(End::Failed(refusal));
        }
        self.refused = Some(refusal.code);
        Err(End::Unpayable(refusal))
    }

    /// Takes up a receipt that was held back, if there is one.
    fn release_receipt(&mut self, ask: Ask<'_>, ctx: &mut Ctx<'_>) -> Result<(), End> {
        match self.held_receipt.clone() {
            Some(receipt) => self.on_receipt(receipt, ask, ctx),
            None => Ok(()),
        }
    }

    fn on_receipt(&mut self, signed: Signed, ask: Ask<'_>, ctx: &mut Ctx<'_>) -> Result<(), End> {
        let receipt = self.read::<Receipt>(&signed, ctx)?.body;
        let Some((terms_signed, terms)) = &self.terms else {
            return Ok(());
        };
        receipt::check(
            &self.ordered(ask, ctx),
            (terms_signed, terms),
            &self.transcript,
            &self.bills,
            &receipt,
        )?;
        let Some(stream) = self.stream else {
            return Ok(());
        };
        if !self.bills.all_settled() && self.held_receipt.is_none() {
            // The host's wallet is a moment ahead of ours.
            self.held_receipt = Some(signed);
            self.deadline = ctx.now.tick.after_ms(HOLD_RECEIPT_MS);
            return Ok(());
        }
        let body = Countersigned {
            receipt: signed.digest(),
            extensions: Vec::new(),
        };
        let countersigned = ctx.seal_with(self.signer.as_ref(), self.candidate.host, &body);
        self.bills.vouched = Some(receipt.counts);
        self.receipt = Some(signed);
        self.countersigned = Some(countersigned.clone());
        ctx.send(stream, Frame::Countersigned(countersigned));
        Err(End::Finished(Box::new(receipt)))
    }

    /// The client wants no more output. Returns whether any may still come: otherwise there is
    /// nothing to stop.
    pub fn on_stop(&mut self, ask: Ask<'_>, ctx: &mut Ctx<'_>) -> bool {
        let (State::Streaming, Some(stream)) = (self.state, self.stream) else {
            return false;
        };
        if self.transcript.finish.is_none() {
            let stop = self.stop(ask, ctx.now.tick);
            let until = self.stopped.get_or_insert(stop).until;
            self.deadline = self.deadline.min(until);
        }
        ctx.send(stream, Frame::Stop);
        true
    }

    /// What may still come once the host is told to stop: what it may have sent unpaid by
    /// then, and no more than a step or what it sent before. A window is its own word.
    fn stop(&self, ask: Ask<'_>, now: Tick) -> Stop {
        let cost = self.cost_of(&self.transcript.counts);
        let terms = self.terms.as_ref();
        let step = terms.map_or(Msat::ZERO, |(_, terms)| terms.quantum);
        let more = self.unsure(&ask.request.job).min(cost.max(step));
        Stop {
            until: now.after_ms(STOP_MS),
            most: cost.saturating_add(more),
        }
    }

    /// Tells the host that nothing more is wanted.
    pub fn cancel(&self, ctx: &mut Ctx<'_>) {
        if let Some(stream) = self.stream {
            ctx.send(stream, Frame::Cancel);
        }
    }

    /// Ends an order whose host does not end it: nothing more is paid.
    fn leave(&self, why: &str, ctx: &mut Ctx<'_>) -> End {
        self.cancel(ctx);
        End::Unserved(Refusal::new(Code::Timeout, why))
    }

    /// The stream ended.
    pub fn on_stream_closed(&mut self, ask: Ask<'_>, ctx: &mut Ctx<'_>) -> Result<(), End> {
        if self.held_receipt.is_some() {
            return self.release_receipt(ask, ctx);
        }
        self.stream = None;
        let refusal = Refusal::new(Code::Disconnected, "the host went away");
        Err(End::Unserved(refusal))
    }

    /// Waits so long for the host's next frame, but no longer than a Stop allows.
    fn wait(&mut self, ms: u64, ctx: &Ctx<'_>) {
        let until = ctx.now.tick.after_ms(ms);
        let stop = self.stopped.filter(|_| self.transcript.finish.is_none());
        self.deadline = stop.map_or(until, |stop| stop.until.min(until));
    }

    /// The deadline passed.
    pub fn expire(&mut self, ask: Ask<'_>, ctx: &mut Ctx<'_>) -> Result<(), End> {
        if self.held_receipt.is_some() {
            return self.release_receipt(ask, ctx);
        }
        // Our own count takes too long: the host's is believed, as where there is none.
        if let Some(terms) = self.held_terms.take() {
            if let Some(recount) = self.recount.as_mut() {
                recount.waive();
            }
            return self.on_terms(terms, ask, ctx);
        }
        let what = match self.state {
            State::Dialing(_) => "the host could not be reached in time",
            State::Ordered => "the host sent no terms in time",
            State::Streaming => "the host fell silent",
        };
        Err(self.leave(what, ctx))
    }

    /// Reports a rule that the host broke, and cancels the order.
    pub fn report(&mut self, breach: &Breach, ctx: &mut Ctx<'_>) {
        let kind = breach.offence();
        self.price_kept &= kind != OffenceKind::PriceAboveListing;
        ctx.offence(self.candidate.host, self.id, kind, &breach.detail);
        self.cancel(ctx);
    }

    /// Books what a refusal says about the host: it did not take the order, or it took it with
    /// money or words under way and did not keep to it. What we caused ourselves says nothing, and
    /// neither that a host that lists the mode *after* gives us no credit.
    fn blame(&mut self, code: Code, mode: PaymentMode, now: Tick) {
        match code {
            Code::Cancelled if self.stopped.is_some() => {}
            Code::NotPaid if self.bills.is_slow(now) => self.refused = Some(code),
            Code::ModeUnsupported if mode == PaymentMode::After && self.is_untouched() => {}
            _ if self.is_untouched() => self.refused = Some(code),
            _ => self.broken_off = true,
        }
    }
}
