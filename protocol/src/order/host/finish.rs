//! How an order ends on the host's side: receipt, countersignature, books.

use super::{HostOrder, State};
use crate::ids::{Digest, NodeKey};
use crate::message::inference::{Effect, OrderAccount};
use crate::message::payment::Side;
use crate::money::{Counts, Msat};
use crate::offence::OffenceKind;
use crate::order::context::Ctx;
use crate::order::record::{Closing, OrderRecord};
use crate::refusal::{Code, Refusal};
use crate::wire::attached::Attached;
use crate::wire::envelope::Signed;
use crate::wire::order::{Finish, Frame, Receipt, Retention, Status};

/// How long a buyer may take to countersign. Milliseconds. The receipt stands without it.
const COUNTERSIGN_TIMEOUT_MS: u64 = 10_000;

impl HostOrder {
    /// The buyer wants no more output.
    pub fn on_stop(&mut self, ctx: &mut Ctx<'_>) {
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

    pub(super) fn finish_output(&mut self, finish: Finish, ctx: &mut Ctx<'_>) {
        self.finish = Some(finish);
        self.ended = ctx.now.wall;
        self.state = State::Settling;
        self.touch(ctx);
        let open = self.pace().open(self.due());
        if open >= ctx.config.min_invoice.max(Msat(1)) {
            self.invoice(open, ctx);
        }
        self.settle_if_done(ctx);
    }

    pub(super) fn settle_if_done(&mut self, ctx: &mut Ctx<'_>) {
        if self.state == State::Settling
            && self.outstanding() == 0
            && let Some(finish) = self.finish
        {
            self.issue_receipt(finish, ctx);
        }
    }

    pub(super) fn issue_receipt(&mut self, finish: Finish, ctx: &mut Ctx<'_>) {
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

    /// The buyer countersigned the receipt.
    pub fn on_countersigned(
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

    pub(super) fn status(&self) -> Status {
        match self.finish {
            Some(Finish::Stopped) => Status::Stopped,
            _ => Status::Complete,
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

    pub(super) fn refuse(&mut self, refusal: Refusal, ctx: &mut Ctx<'_>) {
        self.fail(refusal, ctx);
    }

    pub(super) fn violation(&mut self, detail: &str, ctx: &mut Ctx<'_>) {
        ctx.offence(
            self.buyer(),
            self.id(),
            OffenceKind::UnexpectedFrame,
            detail,
        );
        self.fail(Refusal::new(Code::ProtocolViolation, detail), ctx);
    }

    pub(super) fn end(&mut self, code: Code, ctx: &mut Ctx<'_>) {
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

    pub(super) fn over(&mut self, status: Status, ctx: &mut Ctx<'_>) {
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
    pub(super) fn close_books(&mut self, status: Status, ctx: &mut Ctx<'_>) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        // Input that was computed is owed, also where the buyer left before the first token.
        let computed = self.began() && status != Status::Failed(Code::EngineFailed);
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

    pub(super) fn record(&self, status: Option<Status>) -> OrderRecord {
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
    pub(super) fn persist(&mut self, ctx: &mut Ctx<'_>) {
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
