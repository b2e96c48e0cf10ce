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

use crate::crypto::Crypto;
use crate::ids::{Digest, EffectId, OrderId, StreamId};
use crate::message::discovery::Candidate;
use crate::message::inference::{BuyRequest, Effect};
use crate::message::payment::Side;
use crate::message::sibling::Message;
use crate::money::{Counts, Msat};
use crate::offence::OffenceKind;
use crate::order::breach::Breach;
use crate::order::context::Ctx;
use crate::order::record::Journal;
use crate::refusal::{Code, Refusal};
use crate::time::{Tick, WallTime};
use crate::wire::envelope::{Body, EnvelopeError, Opened, Signed};
use crate::wire::manifest::PaymentMode;
use crate::wire::order::{Frame, Order, Receipt, Terms};
use bills::Bills;
use rand::RngCore;
use recount::Recount;
use std::collections::VecDeque;
use terms::Ordered;
use transcript::Transcript;

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
