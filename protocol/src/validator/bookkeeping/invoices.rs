//! The running receipts: which of them belong to this order, and whether they add up.

use super::{Bound, Case, Trouble, doubt, lie};
use crate::crypto::Crypto;
use crate::ids::OrderId;
use crate::money::{Counts, Msat};
use crate::wire::bundle::Bundle;
use crate::wire::envelope::Network;
use crate::wire::order::Invoice;

/// Opens every invoice: those that provably belong here by sequence number, and
/// the first reason why another one may not.
pub(super) fn open(
    case: &Case<'_>,
    bundle: &Bundle,
    crypto: &dyn Crypto,
    network: Network,
) -> Result<(Vec<Bound>, Option<String>), Trouble> {
    let mut bound: Vec<Bound> = Vec::new();
    let mut unbound = None;
    for signed in &bundle.invoices {
        let opened = signed
            .open_public::<Invoice>(crypto, network)
            .map_err(|error| doubt(format!("an invoice: {error}")))?;
        let seq = opened.body.seq;
        let ours = opened.envelope.from == case.terms.envelope.from
            && opened.body.order == OrderId::of(&case.order.digest);
        match case.index.get(&opened.body.head) {
            Some(tokens) if ours => bound.push(Bound {
                tokens: *tokens,
                body: opened.body,
            }),
            _ => {
                unbound.get_or_insert(format!(
                    "the chain head of invoice {seq} is not that of these tokens under these terms: \
                     a wrong head, altered tokens or another order"
                ));
            }
        }
    }
    bound.sort_by_key(|invoice| invoice.body.seq);
    if bound
        .windows(2)
        .any(|pair| matches!(pair, [a, b] if a.body.seq == b.body.seq))
    {
        return Err(doubt("an invoice is in the bundle twice"));
    }
    Ok((bound, unbound))
}

/// Most that may be invoiced once `covers` is delivered: its cost and the carried
/// debt, or the entry payment where that is more.
pub(super) fn most_due(case: &Case<'_>, covers: &Counts) -> Result<Msat, Trouble> {
    let terms = &case.terms.body;
    let cost = terms
        .prices
        .cost(covers)
        .ok_or_else(|| doubt("the cost by these prices is beyond any amount"))?;
    let entry = terms.entry.as_ref().map_or(Msat::ZERO, |entry| entry.msat);
    Ok(cost.saturating_add(terms.carried_debt).max(entry))
}

/// Checks each invoice by itself, and each pair that follows one another.
pub(super) fn check(case: &Case<'_>, bound: &[Bound], crypto: &dyn Crypto) -> Result<(), Trouble> {
    if let Some(entry) = &case.terms.body.entry {
        amount(crypto, &entry.bolt11, entry.msat, 0)?;
    }
    let mut before: Option<&Bound> = None;
    for invoice in bound {
        one(case, invoice)?;
        amount(
            crypto,
            &invoice.body.bolt11,
            invoice.body.msat,
            invoice.body.seq,
        )?;
        sums(case, before, invoice)?;
        before = Some(invoice);
    }
    Ok(())
}

fn one(case: &Case<'_>, invoice: &Bound) -> Result<(), Trouble> {
    let Invoice { seq, covers, .. } = &invoice.body;
    if covers.delivered() != invoice.tokens {
        return Err(lie(format!(
            "invoice {seq} covers {} units of output, its chain head commits to {}",
            covers.delivered(),
            invoice.tokens
        )));
    }
    counts(case, covers, &format!("invoice {seq}"))?;
    let most = most_due(case, covers)?;
    if invoice.body.invoiced > most {
        return Err(lie(format!(
            "invoice {seq} brings the sum to {}, what it covers costs {most}",
            invoice.body.invoiced
        )));
    }
    Ok(())
}

/// Input and items: no more than the terms and the order say. Less is the host's loss.
pub(super) fn counts(case: &Case<'_>, counts: &Counts, what: &str) -> Result<(), Trouble> {
    let agreed = &case.terms.body.input;
    if counts.prompt() > agreed.prompt() || counts.input_tokens > agreed.input_tokens {
        return Err(lie(format!(
            "{what} counts {} prompt tokens, the terms {}",
            counts.prompt(),
            agreed.prompt()
        )));
    }
    let job = &case.order.body.job;
    let (meter, most) = (job.meter(), job.most_delivered());
    if *counts != counts.with_delivered(meter, counts.delivered()) || counts.delivered() > most {
        return Err(lie(format!(
            "{what} counts {} output tokens and {} items, the order is for {most} ({meter:?})",
            counts.output_tokens, counts.items
        )));
    }
    Ok(())
}

/// The amount inside the BOLT 11 string is the one that the host signed beside it.
fn amount(crypto: &dyn Crypto, bolt11: &str, msat: Msat, seq: u32) -> Result<(), Trouble> {
    match crypto.read_invoice(bolt11).map(|facts| facts.msat) {
        Ok(Some(asked)) if asked != msat => Err(lie(format!(
            "invoice {seq} says {msat}, its BOLT 11 string asks for {asked}"
        ))),
        // A string that does not parse was not payable: the buyer's own node refuses it.
        _ => Ok(()),
    }
}

/// Sums run on from invoice to invoice; where one is missing they may only have grown.
fn sums(case: &Case<'_>, before: Option<&Bound>, invoice: &Bound) -> Result<(), Trouble> {
    let body = &invoice.body;
    let entry = case.terms.body.entry.as_ref();
    let (last_seq, last_sum) = match before {
        Some(before) => (before.body.seq, before.body.invoiced),
        None => (0, entry.map_or(Msat::ZERO, |entry| entry.msat)),
    };
    let expected = last_sum.saturating_add(body.msat);
    let next = last_seq.checked_add(1) == Some(body.seq);
    if (next && body.invoiced != expected) || body.invoiced < expected {
        return Err(lie(format!(
            "invoice {} of {} brings the sum from {last_sum} to {}",
            body.seq, body.msat, body.invoiced
        )));
    }
    if before.is_some_and(|before| before.tokens > invoice.tokens) {
        return Err(lie(format!(
            "invoice {} covers less than an earlier one",
            body.seq
        )));
    }
    Ok(())
}
