//! The invoices of one order, and what became of their payments.
//!
//! Not whether a payment is made: Payment decides that, once per invoice.

use super::terms::{Ordered, patience_ms};
use super::transcript::Transcript;
use super::{Ask, End, Leg};
use crate::crypto::{Crypto, InvoiceFacts};
use crate::ids::{Digest, PaymentHash};
use crate::limits;
use crate::message::inference::{BuyerEvent, PayRequest};
use crate::message::sibling::Message;
use crate::money::{Counts, Msat};
use crate::offence::OffenceKind;
use crate::order::breach::Breach;
use crate::order::context::Ctx;
use crate::refusal::{Code, Refusal};
use crate::time::{Tick, WallTime};
use crate::wire::envelope::Signed;
use crate::wire::manifest::PaymentMode;
use crate::wire::order::{Frame, Invoice, Paid, PaymentEntry, Terms, description_hash};
use std::collections::BTreeMap;

/// Shortest life that an invoice must still have when it arrives. Milliseconds. A payment needs a moment.
const MIN_INVOICE_LIFE_MS: u64 = 5_000;
/// Two honest clocks may be far enough apart for it, so it proves no bad faith.
pub(super) const EXPIRES_SOON: &str =
    "an invoice that is about to expire, by the clock of this machine";
/// Longest that a payment of ours may be under way before a host that calls it missing is
/// believed. Milliseconds. Half of what a host waits.
const PROMPT_PAYMENT_MS: u64 = 30_000;

/// What our wallet says of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Under way, or nobody knows.
    Open,
    /// Made.
    Settled,
    /// Not made, for good.
    Failed,
}

/// An invoice that our wallet was asked to pay.
#[derive(Debug)]
pub(super) struct Bill {
    /// Its payment hash.
    pub hash: PaymentHash,
    /// Its amount.
    pub msat: Msat,
    /// The chain head that it vouches for.
    pub head: Digest,
    /// What became of the payment.
    pub fate: Fate,
    /// When our wallet was asked to pay it.
    pub asked: Tick,
}

/// The invoices of one order.
#[derive(Debug, Default)]
pub(super) struct Bills {
    /// By their number; the entry payment is 0.
    bills: BTreeMap<u32, Bill>,
    /// The signed invoices, oldest first; the entry payment's is in the terms.
    pub signed: Vec<Signed>,
    /// Sum of the invoices accepted so far, the entry payment included.
    pub invoiced: Msat,
    /// Unpaid output that the host granted last, by its own signature.
    window: Msat,
    /// What was settled when it said so.
    settled_then: Msat,
    /// What the host's last invoice or receipt covers: what it can show that it delivered.
    pub vouched: Option<Counts>,
}

impl Bills {
    /// Begins with what the terms say.
    pub fn begin(&mut self, window: Msat, entry: Msat) {
        self.window = window;
        self.invoiced = entry;
    }

    /// Takes an invoice that was checked.
    pub fn accept(&mut self, signed: Signed, invoice: &Invoice) {
        self.window = invoice.window;
        self.settled_then = self.settled();
        self.invoiced = invoice.invoiced;
        self.signed.push(signed);
        self.vouched = Some(invoice.covers);
    }

    /// Notes an invoice that our wallet is asked to pay.
    pub fn ask(&mut self, seq: u32, facts: &InvoiceFacts, msat: Msat, head: Digest, now: Tick) {
        let bill = Bill {
            hash: facts.hash,
            msat,
            head,
            fate: Fate::Open,
            asked: now,
        };
        self.bills.insert(seq, bill);
    }

    /// Marks a payment as settled, and returns its bill, the first time.
    pub fn settle(&mut self, seq: u32) -> Option<&Bill> {
        let bill = self.bills.get_mut(&seq)?;
        if bill.fate == Fate::Settled {
            return None;
        }
        bill.fate = Fate::Settled;
        Some(bill)
    }

    /// Marks a payment as not made. Returns whether there is such an invoice.
    pub fn fail(&mut self, seq: u32) -> bool {
        let bill = self.bills.get_mut(&seq);
        bill.map(|bill| bill.fate = Fate::Failed).is_some()
    }

    /// Forgets an invoice that is not paid at all. Returns whether there is such an invoice.
    pub fn forget(&mut self, seq: u32) -> bool {
        self.bills.remove(&seq).is_some()
    }

    /// Whether our wallet was asked to pay nothing.
    pub fn is_empty(&self) -> bool {
        self.bills.is_empty()
    }

    /// Whether nothing was, or can still be, paid.
    pub fn all_failed(&self) -> bool {
        self.bills.values().all(|bill| bill.fate == Fate::Failed)
    }

    /// Whether our wallet knows that everything is paid.
    pub fn all_settled(&self) -> bool {
        self.bills.values().all(|bill| bill.fate == Fate::Settled)
    }

    /// Whether a payment of ours is under way for so long that the host is right to miss it.
    pub fn is_slow(&self, now: Tick) -> bool {
        let slow =
            |bill: &Bill| bill.fate == Fate::Open && now.ms_since(bill.asked) >= PROMPT_PAYMENT_MS;
        self.bills.values().any(slow)
    }

    /// What our wallet says is paid.
    pub fn settled(&self) -> Msat {
        let settled = self
            .bills
            .values()
            .filter(|bill| bill.fate == Fate::Settled);
        settled.fold(Msat::ZERO, |sum, bill| sum.saturating_add(bill.msat))
    }

    /// Payments that may still settle, by the number of their invoice.
    pub fn open(&self) -> BTreeMap<u32, Msat> {
        let open = self
            .bills
            .iter()
            .filter(|(_, bill)| bill.fate == Fate::Open);
        open.map(|(seq, bill)| (*seq, bill.msat)).collect()
    }

    /// The window that the host signed last, which each payment since then widens by its own
    /// amount at most.
    pub fn window(&self) -> Msat {
        let since = self.invoiced.saturating_sub(self.settled_then);
        self.window.saturating_add(since)
    }

    /// Whether our wallet was asked to pay just that.
    pub fn has(&self, entry: &PaymentEntry) -> bool {
        self.bills
            .get(&entry.seq)
            .is_some_and(|bill| bill.hash == entry.hash && bill.msat == entry.msat)
    }

    /// Holds an invoice against what was delivered, agreed and paid so far.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(
        &self,
        ordered: &Ordered<'_>,
        terms: &Terms,
        transcript: &Transcript,
        invoice: &Invoice,
        crypto: &dyn Crypto,
    ) -> Result<InvoiceFacts, Breach> {
        let wrong = |detail: String| Breach::after_accept(OffenceKind::WrongInvoice, detail);
        self.check_covers(ordered, transcript, invoice)
            .map_err(wrong)?;
        self.check_sum(ordered, terms, transcript, invoice)
            .map_err(wrong)?;
        let facts = crypto
            .read_invoice(&invoice.bolt11)
            .map_err(|error| wrong(error.to_string()))?;
        check_bolt11(ordered, &facts, invoice.msat, invoice.seq, &invoice.covers).map_err(wrong)?;
        if self.bills.values().any(|bill| bill.hash == facts.hash) {
            return Err(wrong(
                "a second invoice with the same payment hash".to_owned(),
            ));
        }
        if expires_soon(&facts, ordered.now) {
            return Err(Breach::after_accept(OffenceKind::Stale, EXPIRES_SOON));
        }
        Ok(facts)
    }

    /// Its place among the invoices, and the output that it covers.
    fn check_covers(
        &self,
        ordered: &Ordered<'_>,
        transcript: &Transcript,
        invoice: &Invoice,
    ) -> Result<(), String> {
        if invoice.order != ordered.id {
            return Err("an invoice of another order".to_owned());
        }
        let last = self.bills.keys().next_back();
        if last.is_some_and(|last| invoice.seq <= *last) || invoice.seq == 0 {
            return Err(format!("invoice {} out of order", invoice.seq));
        }
        if self.signed.len() >= limits::MAX_INVOICES {
            return Err("more invoices than an order may have".to_owned());
        }
        let units = invoice.covers.delivered();
        let expected = transcript.counts.with_delivered(ordered.job.meter(), units);
        let head = transcript.head_after(units);
        if invoice.covers != expected || head.is_none() {
            return Err("an invoice for more than was delivered".to_owned());
        }
        if head != Some(&invoice.head) {
            return Err("an invoice whose chain head is not that of what was delivered".to_owned());
        }
        Ok(())
    }

    /// Its amount, and the sum of all.
    fn check_sum(
        &self,
        ordered: &Ordered<'_>,
        terms: &Terms,
        transcript: &Transcript,
        invoice: &Invoice,
    ) -> Result<(), String> {
        // The last one is the exact remainder; a smaller step would buy the host more fees.
        // Where a window is just one step, output stands less than one unit short of it.
        let prices = &terms.prices;
        let first = prices.cost_with_next(&terms.input, ordered.job.meter());
        let unit = first.saturating_sub(prices.cost_or_max(&terms.input));
        let rounding = unit.saturating_add(ordered.grain);
        let ended = transcript.finish.is_some();
        if ordered.mode != PaymentMode::Metered && !ended {
            return Err("an invoice before the end of the output".to_owned());
        }
        let small = invoice.msat.saturating_add(rounding) <= terms.quantum;
        if small && !ended {
            return Err(format!(
                "an invoice of {} where the step agreed upon is {}",
                invoice.msat, terms.quantum
            ));
        }
        if Some(invoice.invoiced) != self.invoiced.checked_add(invoice.msat) {
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
        let left = due.saturating_sub(invoice.invoiced);
        let whole = invoice.covers == transcript.counts && left < ordered.grain.max(Msat(1));
        if small && !whole {
            return Err(format!(
                "an invoice of {} below the step agreed upon, which is not the remainder",
                invoice.msat
            ));
        }
        if invoice.invoiced > ordered.max_cost {
            return Err(format!(
                "{} invoiced, the cap is {}",
                invoice.invoiced, ordered.max_cost
            ));
        }
        let open = |bill: &&Bill| bill.fate == Fate::Open;
        if self.bills.values().filter(open).count() >= limits::MAX_PAYMENTS_IN_FLIGHT {
            return Err("too many unpaid invoices at once".to_owned());
        }
        Ok(())
    }
}

/// Holds the facts of a BOLT 11 invoice against the order: payee, amount, what it is bound to.
///
/// # Errors
/// What is wrong, for a [`Breach`].
pub(super) fn check_bolt11(
    ordered: &Ordered<'_>,
    facts: &InvoiceFacts,
    msat: Msat,
    seq: u32,
    covers: &Counts,
) -> Result<(), String> {
    if facts.payee != ordered.candidate.lightning {
        return Err(
            "an invoice that pays another Lightning node than the listing names".to_owned(),
        );
    }
    if facts.msat != Some(msat) {
        return Err("an invoice of another amount than stated".to_owned());
    }
    if facts.description_hash != Some(description_hash(&ordered.id, seq, covers)) {
        return Err("an invoice that is not bound to this order".to_owned());
    }
    Ok(())
}

/// Whether an invoice ends too soon to be paid, by this machine's clock.
pub(super) fn expires_soon(facts: &InvoiceFacts, now: WallTime) -> bool {
    facts.expires < now.after_ms(MIN_INVOICE_LIFE_MS)
}

impl Leg {
    pub(super) fn on_invoice(
        &mut self,
        signed: Signed,
        ask: Ask<'_>,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), End> {
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

    pub(super) fn pay(
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
}
