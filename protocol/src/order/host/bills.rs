//! The invoices of an order on the host's side: made, sent in their order, paid.

use super::{HostOrder, State};
use crate::ids::{Digest, OrderId, PaymentHash};
use crate::limits;
use crate::message::inference::Effect;
use crate::message::sibling::Message;
use crate::money::{Counts, Msat};
use crate::order::context::Ctx;
use crate::refusal::Refusal;
use crate::wire::envelope::{Opened, Signed};
use crate::wire::manifest::PaymentMode;
use crate::wire::order::{EntryInvoice, Frame, Invoice, Paid, PaymentEntry, description_hash};

/// An invoice that was asked of Payment.
#[derive(Debug)]
pub(super) struct Issued {
    /// Its amount.
    msat: Msat,
    /// What was delivered when it was asked for.
    covers: Counts,
    /// The chain head then.
    head: Digest,
    /// Sum of the invoices up to it.
    invoiced: Msat,
    /// Its payment hash, once it is made.
    hash: Option<PaymentHash>,
    /// It is paid.
    pub settled: bool,
    /// Made, and waiting for those before it to be made and sent.
    unsent: Option<String>,
}

impl HostOrder {
    pub(super) fn make_invoice(&mut self, seq: u32, msat: Msat, ctx: &mut Ctx<'_>) {
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
    pub fn on_invoice_made(
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
    pub(super) fn send_invoices(&mut self, ctx: &mut Ctx<'_>) {
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

    pub(super) fn outstanding(&self) -> usize {
        self.issued
            .values()
            .filter(|issued| !issued.settled)
            .count()
    }

    pub(super) fn invoice_if_due(&mut self, ctx: &mut Ctx<'_>) {
        if self.order.body.mode == PaymentMode::After {
            return;
        }
        let stands = self.counts.delivered() >= self.allowed && self.outstanding() == 0;
        let due = self.pace().next_invoice(self.due(), stands);
        if let Some(open) = due
            && self.outstanding() < limits::MAX_PAYMENTS_IN_FLIGHT
        {
            self.invoice(open, ctx);
        }
    }

    pub(super) fn invoice(&mut self, msat: Msat, ctx: &mut Ctx<'_>) {
        let seq = self
            .issued
            .keys()
            .next_back()
            .map_or(1, |last| last.saturating_add(1))
            .max(1);
        self.invoiced = self.invoiced.saturating_add(msat);
        self.make_invoice(seq, msat, ctx);
    }

    /// Payment received a payment for invoice `seq`.
    pub fn on_credit_granted(&mut self, seq: u32, msat: Msat, window: Msat, ctx: &mut Ctx<'_>) {
        let Some(issued) = self.issued.get_mut(&seq) else {
            return;
        };
        if issued.settled {
            return;
        }
        issued.settled = true;
        self.paid = self.paid.saturating_add(msat);
        self.window = self.pace().window_with(window);
        if !self.journal.is_open() {
            self.persist(ctx);
        }
        if matches!(self.state, State::Running | State::Settling) {
            self.touch(ctx);
        }
        match self.state {
            State::Offered => self.queue_if_ready(),
            State::Running => {
                let allowed = self.pace().allowance();
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

    /// The buyer countersigned what it paid.
    pub fn on_paid(&mut self, signed: Signed, paid: &Opened<Paid>, ctx: &mut Ctx<'_>) {
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

    pub(super) fn payments(&self) -> Vec<PaymentEntry> {
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
}
