//! Whether a receipt says what happened, to the last figure: only then it is countersigned.

use super::bills::Bills;
use super::terms::Ordered;
use super::transcript::Transcript;
use crate::money::Msat;
use crate::offence::OffenceKind;
use crate::order::breach::Breach;
use crate::wire::envelope::Signed;
use crate::wire::order::{Finish, Receipt, Status, Terms};

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
