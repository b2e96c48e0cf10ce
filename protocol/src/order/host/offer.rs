//! From the count of the prompt to the acceptance: which terms the buyer is offered, and what it
//! pays first.

use super::{HostOrder, State};
use crate::message::inference::PromptFacts;
use crate::message::payment::Credit;
use crate::message::sibling::Message;
use crate::money::{Counts, Meter, Msat};
use crate::order::context::Ctx;
use crate::refusal::{Code, Refusal};
use crate::wire::chain::TokenChain;
use crate::wire::manifest::PaymentMode;
use crate::wire::order::{Accept, EntryInvoice, Frame, Terms};

impl HostOrder {
    /// The engine counted the prompt.
    pub fn on_prompt_counted(
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
            quantum: self.pace().least_window(),
        });
    }

    /// Payment told how far the buyer is trusted. `starts_within_ms`: how soon a place is free.
    pub fn on_credit_opened(
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
        let pace = self.pace();
        let (input, most, free) = (pace.cost(), pace.ceiling(), pace.free());
        let step = pace.least_window();
        // Less than a step of credit carries no stream, unless it covers the whole order:
        // whoever has less prepays.
        let mode = self.order.body.mode;
        if mode == PaymentMode::After && (prepay || free < most) {
            let text = format!(
                "the order may cost {most}, and this host gives this buyer credit for {free}"
            );
            return self.refuse(Refusal::new(Code::ModeUnsupported, text), ctx);
        }
        let prepay = prepay || free < step.min(most) || mode == PaymentMode::Before;
        self.known = !prepay;
        let entry = self.pace().entry(mode);
        if entry > self.order.body.max_cost {
            let message = format!(
                "the entry payment is {entry}, the order's cap is {} without routing fees",
                self.order.body.max_cost
            );
            return self.refuse(Refusal::new(Code::CapTooLow, message), ctx);
        }
        if most > input && self.pace().most_output() == 0 {
            let message = format!(
                "the input costs {input}, and the order's cap of {} without routing fees leaves nothing for output",
                self.order.body.max_cost
            );
            return self.refuse(Refusal::new(Code::CapTooLow, message), ctx);
        }
        let can_begin = self.pace().affordable(free) > 0;
        if entry == Msat::ZERO || (!prepay && can_begin) {
            return self.offer_terms(None, ctx);
        }
        self.state = State::MakingEntry;
        self.invoiced = entry;
        self.make_invoice(0, entry, ctx);
    }

    pub(super) fn offer_terms(&mut self, entry: Option<EntryInvoice>, ctx: &mut Ctx<'_>) {
        let terms = Terms {
            order: self.order.digest,
            input: self.counts,
            prices: self.offer.prices.clone(),
            window: self.window,
            quantum: self.pace().step(),
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
    pub fn on_accept(&mut self, terms: Accept, ctx: &mut Ctx<'_>) {
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

    pub(super) fn queue_if_ready(&mut self) {
        let entry_paid = self.issued.get(&0).is_none_or(|entry| entry.settled);
        if self.state == State::Offered && self.accepted.is_some() && entry_paid {
            self.state = State::Queued;
        }
    }
}
