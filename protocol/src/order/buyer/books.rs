//! What a leg leaves behind: records on disk while it runs, and at its end the account, the
//! evidence, and what the end says of the host.

use super::{Ask, Leg};
use crate::message::inference::{Evidence, OrderAccount, Outcome};
use crate::message::payment::Side;
use crate::message::sibling::Message;
use crate::money::Msat;
use crate::order::context::Ctx;
use crate::order::late::LateOrder;
use crate::order::record::{Closing, OrderRecord};
use crate::refusal::Code;
use crate::wire::order::{Finish, Status};
use crate::work::Job;

impl Leg {
    /// What the host may have sent beyond what arrived: the window that it signed last, and what
    /// payments since add to it. Nothing behind the end.
    pub(super) fn unsure(&self, job: &Job) -> Msat {
        let (Some((_, terms)), None) = (&self.terms, self.transcript.finish) else {
            return Msat::ZERO;
        };
        terms.most_under_way(job, &self.transcript.counts, self.bills.window())
    }

    /// What the host can show that it is owed. Output that none of its signatures covers convicts
    /// nobody, whatever it is, and so is worth nothing; nor is input to which no output came,
    /// unless the output ended because we stopped it.
    fn owed(&self) -> Msat {
        let stopped = self.transcript.finish == Some(Finish::Stopped);
        let vouched = self.bills.vouched;
        let vouched = vouched.filter(|to| to.delivered() > 0 || stopped);
        let cost = vouched.map(|counts| self.cost_of(&counts));
        cost.unwrap_or_default().saturating_add(self.carried())
    }

    /// Closes the stream and the books of a leg that ended.
    pub fn close(&mut self, status: Status, ask: Ask<'_>, ctx: &mut Ctx<'_>) {
        let record = self.record(Some(status));
        if let Some(stream) = self.stream.take() {
            ctx.close(stream);
        }
        self.judge(status, ctx);
        let Some(record) = record else { return };
        let account = OrderAccount {
            carried: match self.bills.is_empty() {
                true => Msat::ZERO,
                false => self.carried(),
            },
            unsure: match status {
                Status::Complete | Status::Stopped => Msat::ZERO,
                // Output may have been under way when the order broke off.
                Status::Failed(_) => self.unsure(&ask.request.job),
            },
            ..record.account()
        };
        let closing = Closing {
            account,
            unpaid: Msat::ZERO,
        };
        ctx.close_order(&mut self.journal, &record, closing);
        if let Some(bundle) = record.bundle() {
            ctx.tell(Message::OrderEnded(Box::new(Evidence {
                request: Some(ask.request.request),
                bundle,
                audit: ask.request.audit,
            })));
        }
    }

    /// Tells Reputation what the end says of the host, where it says anything.
    fn judge(&self, status: Status, ctx: &mut Ctx<'_>) {
        let failure = match status {
            // Whatever word it chose.
            Status::Failed(_) if self.broken_off => Some(Code::ProtocolViolation),
            Status::Failed(code) if self.refused.is_none() => Some(code),
            _ => None,
        };
        if !failure.is_none_or(Code::is_hosts_fault) {
            return;
        }
        let (owed, settled) = (self.owed(), self.bills.settled());
        let (output, stopped) = (&self.transcript, self.stopped.is_some());
        // An end without a word of output is no service, unless we wanted no more.
        let unserved = failure.is_some() || (output.counts.delivered() == 0 && !stopped);
        ctx.tell(Message::Happened(Outcome {
            order: self.id,
            host: self.candidate.host,
            model: self.candidate.offer.digest,
            failure,
            refused: self.refused,
            first_token_ms: output.first_token_ms,
            tokens: output.counts.delivered(),
            stream_ms: output.stream_ms,
            price_kept: self.price_kept,
            took_payment: unserved && settled > owed,
            blank: failure.is_none() && self.refused.is_none() && !output.shown && !stopped,
        }));
        if unserved || self.refused.is_some() {
            let late = LateOrder {
                ended: ctx.now.wall,
                host: self.candidate.host,
                owed,
                settled,
                open: self.bills.open(),
            };
            let records = ctx.late.remember(self.id, late);
            ctx.persist(records);
        }
    }

    /// The leg as it is written down. Its output moves there: it has none when the record is
    /// made first, and needs none when it ends.
    fn record(&mut self, status: Option<Status>) -> Option<OrderRecord> {
        let (terms_signed, terms) = self.terms.as_ref()?;
        let counts = self.transcript.counts;
        Some(OrderRecord {
            side: Side::Buyer,
            counterparty: self.candidate.host,
            model: self.candidate.offer.digest,
            digest: self.digest,
            order: Some(self.signed.clone()),
            terms: Some(terms_signed.clone()),
            tokens: std::mem::take(&mut self.transcript.tokens),
            invoices: std::mem::take(&mut self.bills.signed),
            paid: Vec::new(),
            receipt: self.receipt.clone(),
            countersigned: self.countersigned.clone(),
            counts,
            cost: terms.prices.cost_or_max(&counts),
            carried: terms.carried_debt,
            status,
            started: self.started,
        })
    }

    /// Writes what is new.
    pub(super) fn persist(&mut self, ctx: &mut Ctx<'_>) {
        let whole = match self.journal.is_open() {
            true => None,
            false => self.record(None),
        };
        let records = match (whole, &self.terms) {
            (Some(record), _) => self.journal.begin(&record),
            (None, Some((_, terms))) => {
                let counts = self.transcript.counts;
                let cost = terms.prices.cost_or_max(&counts);
                let (tokens, invoices) = (&self.transcript.tokens, &self.bills.signed);
                self.journal.add(tokens, invoices, counts, cost)
            }
            (None, None) => Vec::new(),
        };
        ctx.persist(records);
    }
}
