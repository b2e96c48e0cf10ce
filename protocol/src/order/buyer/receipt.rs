//! Whether a receipt says what happened, to the last figure: only then it is countersigned.

use super::bills::Bills;
use super::terms::Ordered;
use super::transcript::Transcript;
use super::{Ask, End, Leg};
use crate::money::Msat;
use crate::offence::OffenceKind;
use crate::order::breach::Breach;
use crate::order::context::Ctx;
use crate::wire::envelope::Signed;
use crate::wire::order::{Countersigned, Finish, Frame, Receipt, Status, Terms};

/// How long a receipt waits for our own wallet to know of the payments in it. Milliseconds.
/// Shorter than the host waits for the countersignature.
const HOLD_RECEIPT_MS: u64 = 5_000;

/// Holds a receipt against the evidence.
///
/// # Errors
/// The first part of it that disagrees.
pub(super) fn check(
    ordered: &Ordered<'_>,
    (signed, terms): (&Signed, &Terms),
    transcript: &Transcript,
    bills: &Bills,
    receipt: &Receipt,
) -> Result<(), Breach> {
    let cost = terms.prices.cost_or_max(&transcript.counts);
    let paid = bills.settled();
    let received = receipt
        .payments
        .iter()
        .fold(Msat::ZERO, |sum, entry| sum.saturating_add(entry.msat));
    let known = receipt.payments.iter().all(|entry| bills.has(entry));
    let due = cost.saturating_add(terms.carried_debt);
    let ascending = receipt
        .payments
        .windows(2)
        .all(|pair| matches!(pair, [a, b] if a.seq < b.seq));
    let status = match receipt.finish {
        Finish::Stopped => Status::Stopped,
        _ => Status::Complete,
    };
    let rules = receipt.tokenizer == terms.tokenizer && receipt.template == terms.template;
    let candidate = ordered.candidate;
    let checks = [
        (transcript.finish == Some(receipt.finish), "end of output"),
        (receipt.status == status, "status"),
        (ascending, "order of payments"),
        (
            receipt.id == ordered.id && receipt.order == ordered.digest,
            "order",
        ),
        (receipt.terms == signed.digest(), "terms"),
        (
            receipt.host == candidate.host && receipt.buyer == ordered.buyer,
            "keys",
        ),
        (receipt.model == candidate.offer.digest, "model"),
        (rules, "tokenizer"),
        (receipt.numerics == terms.numerics, "numerics"),
        (receipt.prices == terms.prices, "prices"),
        (receipt.counts == transcript.counts, "token counts"),
        (receipt.head == transcript.head(), "chain head"),
        (receipt.cost == cost, "cost"),
        // The host may know of a settled payment before our wallet says so, never the reverse.
        (known && received >= paid, "payments"),
        (receipt.debt == due.saturating_sub(received), "debt"),
    ];
    match checks.iter().find(|(ok, _)| !ok) {
        Some((_, what)) => Err(Breach::after_accept(
            OffenceKind::WrongReceipt,
            format!("a receipt whose {what} disagree with the evidence"),
        )),
        None => Ok(()),
    }
}

impl Leg {
    /// Takes up a receipt that was held back, if there is one.
    pub(super) fn release_receipt(&mut self, ask: Ask<'_>, ctx: &mut Ctx<'_>) -> Result<(), End> {
        match self.held_receipt.clone() {
            Some(receipt) => self.on_receipt(receipt, ask, ctx),
            None => Ok(()),
        }
    }

    pub(super) fn on_receipt(
        &mut self,
        signed: Signed,
        ask: Ask<'_>,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), End> {
        let receipt = self.read::<Receipt>(&signed, ctx)?.body;
        let Some((terms_signed, terms)) = &self.terms else {
            return Ok(());
        };
        check(
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
}
