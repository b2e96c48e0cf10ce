//! Which terms a buyer agrees to, and which entry payment.
//!
//! The checks are pure: what is checked is passed in. Not the buyer's own count of the prompt
//! ([`super::recount`]), and not whether a carried debt is known: Payment's books say that.

use super::recount::Recount;
use super::{Ask, End, Leg, State, bills};
use crate::crypto::{Crypto, InvoiceFacts};
use crate::ids::{Digest, NodeKey, OrderId};
use crate::limits;
use crate::message::discovery::Candidate;
use crate::message::inference::BuyerEvent;
use crate::money::{Meter, Msat};
use crate::offence::OffenceKind;
use crate::order::breach::Breach;
use crate::order::context::Ctx;
use crate::refusal::{Code, Refusal};
use crate::time::WallTime;
use crate::wire::envelope::Signed;
use crate::wire::manifest::PaymentMode;
use crate::wire::order::{EntryInvoice, Frame, Terms};
use crate::work::{Job, Work};

/// Tokens that a chat template may add per message before the host's input count is doubted.
const TEMPLATE_TOKENS_PER_MESSAGE: u64 = 64;
/// The same for the template as a whole: some models come with a long default system prompt.
const TEMPLATE_TOKENS: u64 = 1_024;

/// What was ordered of which host: what everything that it says is held against.
#[derive(Clone, Copy)]
pub(super) struct Ordered<'a> {
    /// The order's id.
    pub id: OrderId,
    /// Digest of the signed order.
    pub digest: Digest,
    /// The order key towards this host.
    pub buyer: NodeKey,
    /// The host, as it is listed.
    pub candidate: &'a Candidate,
    /// What is computed.
    pub job: &'a Job,
    /// When it is paid.
    pub mode: PaymentMode,
    /// Most that the host may ask for: the cap without what is kept for routing fees.
    pub max_cost: Msat,
    /// Smallest amount that this wallet can pay, and a divisor of all that it can.
    pub grain: Msat,
    /// This machine's clock.
    pub now: WallTime,
}

/// Returns the most tokens that a host may count in the prompt of a job: one for each byte, and
/// what a template adds.
pub(crate) fn most_input(job: &Job) -> u64 {
    let messages = match &job.work {
        Work::Chat { messages } => messages.len() as u64,
        Work::Complete { .. } => 1,
        Work::Embed { texts } => texts.len() as u64,
    };
    job.text_bytes() as u64 + messages * TEMPLATE_TOKENS_PER_MESSAGE + TEMPLATE_TOKENS
}

/// Holds terms against the order and the listing.
///
/// # Errors
/// The first rule that they break.
pub(super) fn check(ordered: &Ordered<'_>, terms: &Terms) -> Result<(), Breach> {
    let wrong = |kind, detail: &str| Err(Breach::before_accept(kind, detail));
    let offer = &ordered.candidate.offer;
    if terms.order != ordered.digest {
        return wrong(OffenceKind::TermsNotAsListed, "terms of another order");
    }
    // As far apart as clocks may be; the host holds the terms to its own.
    if terms.expires.after_ms(limits::ENVELOPE_WINDOW_MS) < ordered.now {
        return wrong(OffenceKind::Stale, "terms that have expired");
    }
    if terms.numerics != offer.numerics
        || terms.tokenizer != offer.tokenizer
        || terms.template != offer.template
    {
        return wrong(
            OffenceKind::TermsNotAsListed,
            "tokenizer, template or numerics other than listed",
        );
    }
    let dearer = terms
        .prices
        .0
        .iter()
        .any(|price| price.msat_per_million > offer.prices.of(price.meter));
    if dearer {
        return wrong(OffenceKind::PriceAboveListing, "prices above the listing");
    }
    check_input(ordered, terms)?;
    check_steps(ordered, terms)
}

/// The host's count of the prompt: plausible, within the context, and at prices that make sense.
fn check_input(ordered: &Ordered<'_>, terms: &Terms) -> Result<(), Breach> {
    let job = ordered.job;
    let plausible = most_input(job);
    let claimed = terms.input.prompt();
    if claimed > plausible || terms.input.delivered() != 0 {
        let detail = format!("{claimed} input tokens claimed for at most {plausible}");
        return Err(Breach::before_accept(OffenceKind::WrongCount, detail));
    }
    let context = u64::from(ordered.candidate.offer.context);
    let whole = claimed.saturating_add(job.most_delivered());
    if job.meter() == Meter::OutputToken && whole > context {
        let detail = format!(
            "{claimed} input tokens claimed, which leave no room for the output ordered: the context is {context}"
        );
        return Err(Breach::before_accept(OffenceKind::WrongCount, detail));
    }
    // What is cached is never dearer than what is computed.
    let price = |meter| terms.prices.of(meter);
    if terms.input.cached_input_tokens > 0
        && price(Meter::CachedInputToken) > price(Meter::InputToken)
    {
        let detail = "cached input at a higher price than computed input";
        return Err(Breach::before_accept(OffenceKind::WrongCount, detail));
    }
    Ok(())
}

/// The steps of payment, the room that the cap leaves for output, and a debt that is taken up.
fn check_steps(ordered: &Ordered<'_>, terms: &Terms) -> Result<(), Breach> {
    let wrong = |kind, detail: &str| Err(Breach::before_accept(kind, detail));
    let job = ordered.job;
    // A step is rounded up to what this wallet can pay.
    let grain = ordered.grain.0.max(1);
    let listed = ordered.candidate.quantum.0;
    let listed = listed.div_ceil(grain).saturating_mul(grain);
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
    let most = terms.prices.cost_or_max(&all).min(ordered.max_cost);
    if terms.quantum.0.saturating_mul(limits::MAX_INVOICES as u64) < most.0 {
        return wrong(
            OffenceKind::TermsNotAsListed,
            "steps of payment so small that there would be too many",
        );
    }
    // Otherwise the order could end before its first unit, and be true to its cap.
    let least = terms.prices.cost_with_next(&terms.input, job.meter());
    if least.saturating_add(terms.carried_debt) > ordered.max_cost {
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

/// Holds the entry payment of terms, if they ask for one, against the mode and the cap, and its
/// invoice against the order. Returns the facts of that invoice.
///
/// # Errors
/// The first rule that it breaks.
pub(super) fn check_entry<'a>(
    ordered: &Ordered<'_>,
    terms: &'a Terms,
    crypto: &dyn Crypto,
) -> Result<Option<(&'a EntryInvoice, InvoiceFacts)>, Breach> {
    let wrong = |detail: String| Err(Breach::before_accept(OffenceKind::WrongInvoice, detail));
    let Some(entry) = &terms.entry else {
        return Ok(None);
    };
    let input = terms.prices.cost_or_max(&terms.input);
    let job = ordered.job;
    let with = |units| {
        let counts = terms.input.with_delivered(job.meter(), units);
        terms.prices.cost_or_max(&counts).saturating_sub(input)
    };
    // One step of output, or one token where that is dearer; never more than all of it.
    let all = with(job.most_delivered());
    let step = match ordered.mode {
        PaymentMode::Metered => terms.quantum.max(with(1)).min(all),
        PaymentMode::Before => all,
        PaymentMode::After => {
            return wrong("an entry payment where the order is paid at its end".to_owned());
        }
    };
    // Rounded up to what this wallet can pay.
    let rounding = ordered.grain.saturating_sub(Msat(1));
    let most = input
        .saturating_add(step)
        .saturating_add(terms.carried_debt)
        .saturating_add(rounding);
    if entry.msat > most {
        let detail = format!(
            "an entry payment of {} where {most} is the most",
            entry.msat
        );
        return wrong(detail);
    }
    let cap = ordered.max_cost;
    if entry.msat > cap {
        let detail = format!("an entry payment of {} above the cap of {cap}", entry.msat);
        return wrong(detail);
    }
    let invoice = crypto
        .read_invoice(&entry.bolt11)
        .map_err(|error| error.to_string());
    let facts = invoice.and_then(|facts| {
        bills::check_bolt11(ordered, &facts, entry.msat, 0, &terms.input)?;
        Ok(facts)
    });
    match facts {
        Ok(facts) if bills::expires_soon(&facts, ordered.now) => Err(Breach::before_accept(
            OffenceKind::Stale,
            bills::EXPIRES_SOON,
        )),
        Ok(facts) => Ok(Some((entry, facts))),
        Err(detail) => wrong(detail),
    }
}

/// How long the first token may take. A host that is a little slower than it thought is still
/// waited for where it is paid. Milliseconds.
pub(super) fn patience_ms(terms: &Terms, ctx: &Ctx<'_>) -> u64 {
    let starts = match terms.entry {
        Some(_) => terms.starts_within_ms.saturating_mul(2),
        None => terms.starts_within_ms,
    };
    starts.saturating_add(ctx.config.first_token_timeout_ms)
}

impl Leg {
    pub(super) fn on_terms(
        &mut self,
        signed: Signed,
        ask: Ask<'_>,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), End> {
        let terms = self.read::<Terms>(&signed, ctx)?.body;
        let ordered = self.ordered(ask, ctx);
        check(&ordered, &terms)?;
        self.check_count(&terms)?;
        let entry = check_entry(&ordered, &terms, ctx.crypto)?;
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
    pub(super) fn leave_queue(&self, terms: &Terms, ctx: &mut Ctx<'_>) -> End {
        let seconds = terms.starts_within_ms / 1_000;
        let text =
            format!("the host would begin in {seconds} s, which is longer than this node waits");
        let mut refusal = Refusal::new(Code::Busy, text);
        refusal.retry_after_ms = Some(terms.starts_within_ms);
        self.cancel(ctx);
        End::Unserved(refusal)
    }
}
