//! The receipt against order, terms, token chain and invoices.

use super::invoices::counts;
use super::{Bound, Case, Trouble, doubt, lie};
use crate::ids::OrderId;
use crate::money::{Meter, Msat};
use crate::wire::chain::ChainedToken;
use crate::wire::envelope::Opened;
use crate::wire::order::{Finish, Receipt, Status};
use crate::wire::text::Rendering;
use std::collections::BTreeSet;

/// Checks a receipt. One that does not commit to this order and these terms proves nothing.
pub(super) fn check(
    case: &Case<'_>,
    receipt: &Opened<Receipt>,
    bound: &[Bound],
) -> Result<(), Trouble> {
    let body = &receipt.body;
    if receipt.envelope.from != case.terms.envelope.from {
        return Err(doubt("the receipt is signed by another key than the terms"));
    }
    if body.order != case.order.digest || body.terms != case.terms.digest {
        return Err(doubt("the receipt commits to another order or other terms"));
    }
    names(case, body)?;
    counts(case, &body.counts, "the receipt")?;
    chain(case, body, bound)?;
    ending(case, body)?;
    money(case, body, bound)
}

/// What the receipt repeats of order and terms.
fn names(case: &Case<'_>, receipt: &Receipt) -> Result<(), Trouble> {
    let (order, terms) = (&case.order.body, &case.terms.body);
    let checks = [
        (
            receipt.id == OrderId::of(&case.order.digest),
            "another order's id",
        ),
        (receipt.buyer == case.order.envelope.from, "another buyer"),
        (receipt.host == case.terms.envelope.from, "another host"),
        (receipt.model == order.model, "another model than ordered"),
        (
            receipt.tokenizer == terms.tokenizer,
            "another tokenizer than the terms",
        ),
        (
            receipt.template == terms.template,
            "another template than the terms",
        ),
        (
            receipt.numerics == terms.numerics,
            "other numerics than the terms",
        ),
        (
            receipt.prices == terms.prices,
            "other prices than the terms",
        ),
    ];
    match checks.iter().find(|(agrees, _)| !agrees) {
        Some((_, what)) => Err(lie(format!("the receipt names {what}"))),
        None => Ok(()),
    }
}

/// The signed head commits to a number of tokens; so do the counts.
fn chain(case: &Case<'_>, receipt: &Receipt, bound: &[Bound]) -> Result<(), Trouble> {
    let counted = receipt.counts.delivered();
    if let Some(tokens) = case.index.get(&receipt.head) {
        if *tokens != counted {
            return Err(lie(format!(
                "the receipt counts {counted} tokens, its chain head commits to {tokens}"
            )));
        }
        return match bound.iter().find(|invoice| invoice.tokens > counted) {
            Some(invoice) => Err(lie(format!(
                "the receipt counts {counted} tokens, invoice {} of the same host {}",
                invoice.body.seq, invoice.tokens
            ))),
            None => Ok(()),
        };
    }
    // The head fits no prefix of the tokens. Where an invoice vouches for as many
    // tokens as the receipt counts, the tokens are proved and the receipt is false.
    let vouched = bound.iter().find(|invoice| invoice.tokens >= counted);
    match vouched {
        Some(invoice) => Err(lie(format!(
            "receipt and invoice {} of the same host sign different chain heads for {counted} tokens",
            invoice.body.seq
        ))),
        None => Err(doubt(format!(
            "the receipt's chain head is none of these {} tokens: a wrong head or altered tokens",
            case.heads.len().saturating_sub(1)
        ))),
    }
}

/// The status follows from what the receipt itself says, and an answer that the model
/// is said to have ended does end.
fn ending(case: &Case<'_>, receipt: &Receipt) -> Result<(), Trouble> {
    let status = match receipt.finish {
        Finish::Stopped => Status::Stopped,
        _ => Status::Complete,
    };
    if receipt.status != status {
        return Err(lie("the receipt's status is not that of its end"));
    }
    let committed = case.index.get(&receipt.head).copied();
    let Some(tokens) = committed.and_then(|n| case.tokens.get(..usize::try_from(n).ok()?)) else {
        return Ok(()); // Which tokens it commits to is not known.
    };
    let job = &case.order.body.job;
    let length = tokens.len() as u64;
    if receipt.finish == Finish::Budget && !is_spent(case, receipt) {
        return Err(lie(
            "the receipt says that the cap is used up, and it leaves room for one unit more",
        ));
    }
    let whole = length >= job.most_delivered();
    // Embeddings have no end but the last text, whoever computes them.
    if job.meter() == Meter::Item && matches!(receipt.finish, Finish::Stop | Finish::Length) {
        let text = "the receipt says that every text was embedded, and fewer were";
        return if whole { Ok(()) } else { Err(lie(text)) };
    }
    // Servers of another make do not show the token that ended an answer, and have limits of
    // their own.
    let replayable = receipt.numerics.is_some();
    let (ended, what) = match receipt.finish {
        _ if !replayable => return Ok(()),
        // The last token ends a turn, or a stop string is complete.
        Finish::Stop => (
            tokens.last().is_some_and(|token| token.piece.control) || stops(tokens, &job.stop),
            "the receipt says that the model ended the answer, and neither its last token nor a stop string does",
        ),
        Finish::Length => (
            whole,
            "the receipt says that the output ordered was delivered, and less was",
        ),
        _ => (true, ""),
    };
    if ended { Ok(()) } else { Err(lie(what)) }
}

/// One unit more would cost more than the cap, with the debt that the order took up.
fn is_spent(case: &Case<'_>, receipt: &Receipt) -> bool {
    let order = &case.order.body;
    let meter = order.job.meter();
    let cost = receipt.prices.cost_with_next(&receipt.counts, meter);
    cost.saturating_add(case.terms.body.carried_debt) > order.max_cost
}

fn stops(tokens: &[ChainedToken], stop: &[String]) -> bool {
    let mut rendering = Rendering::new(stop);
    for token in tokens {
        rendering.push(&token.piece);
    }
    rendering.finish();
    rendering.is_stopped()
}

/// The list of payments is unambiguous: ascending numbers, one hash each, and no less for
/// the entry than the terms ask.
fn entries(case: &Case<'_>, receipt: &Receipt) -> Result<(), Trouble> {
    let payments = &receipt.payments;
    let mut hashes = BTreeSet::new();
    let unordered = payments
        .windows(2)
        .find(|pair| matches!(pair, [a, b] if a.seq >= b.seq));
    if let Some([_, again]) = unordered {
        return Err(lie(format!(
            "the receipt books payment {} twice or out of order",
            again.seq
        )));
    }
    if let Some(again) = payments.iter().find(|one| !hashes.insert(one.hash)) {
        return Err(lie(format!(
            "the receipt books one payment under two numbers, the second is {}",
            again.seq
        )));
    }
    let entry = case.terms.body.entry.as_ref();
    let first = payments.first().filter(|first| first.seq == 0);
    match (entry, first) {
        (Some(entry), Some(first)) if first.msat < entry.msat => Err(lie(format!(
            "the receipt books {} for the entry, which asked for {}",
            first.msat, entry.msat
        ))),
        _ => Ok(()),
    }
}

fn money(case: &Case<'_>, receipt: &Receipt, bound: &[Bound]) -> Result<(), Trouble> {
    let cost = receipt
        .prices
        .cost(&receipt.counts)
        .ok_or_else(|| doubt("the cost by these prices is beyond any amount"))?;
    if receipt.cost != cost {
        return Err(lie(format!(
            "the receipt says {}, its counts and prices make {cost}",
            receipt.cost
        )));
    }
    entries(case, receipt)?;
    let paid = receipt
        .payments
        .iter()
        .try_fold(Msat::ZERO, |sum, payment| sum.checked_add(payment.msat))
        .ok_or_else(|| doubt("the payments are beyond any amount"))?;
    let owed = cost
        .saturating_add(case.terms.body.carried_debt)
        .saturating_sub(paid);
    if receipt.debt > owed {
        return Err(lie(format!(
            "the receipt claims a debt of {}, by its own figures it is {owed}",
            receipt.debt
        )));
    }
    // A payer may send more than asked, never less: a wallet does not take it.
    let short = receipt.payments.iter().find(|payment| {
        bound
            .iter()
            .any(|invoice| invoice.body.seq == payment.seq && payment.msat < invoice.body.msat)
    });
    match short {
        Some(payment) => Err(lie(format!(
            "the receipt books {} for invoice {}, which asked for more",
            payment.msat, payment.seq
        ))),
        None => Ok(()),
    }
}
