//! The check that anybody can repeat for free: signatures, digests, chain, sums, prices.
//!
//! Not a replay. Used for every order of our own, for bundles of strangers, and
//! by `freehold replay`.
//!
//! # Who can be convicted by what
//! A bundle comes from a buyer, who can alter, drop or mix whatever it likes. So
//! only a statement that the host signed *and* that commits to this order and
//! these terms counts against it: a receipt that names both digests, or an
//! invoice whose chain head is one of the heads of these tokens under these
//! terms. A head that fits no prefix of the tokens proves nothing to a third
//! party, since the tokens may be altered; nor does an invoice of another order
//! under the same id. Those end in [`Finding::Inconclusive`].

use crate::crypto::Crypto;
use crate::ids::{Digest, ModelDigest, NodeKey, OrderId};
use crate::limits;
use crate::wire::bundle::{Bundle, Finding};
use crate::wire::chain::{ChainedToken, TokenChain};
use crate::wire::envelope::{Network, Opened};
use crate::wire::order::{Countersigned, Invoice, Order, Receipt, Terms};
use crate::work::Job;
use std::collections::BTreeMap;

mod invoices;
mod receipts;

/// What a bundle is about; unverified until [`bookkeeping`] passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// The order.
    pub id: OrderId,
    /// Who signed the terms.
    pub host: NodeKey,
    /// The model ordered.
    pub model: ModelDigest,
    /// Digest of the signed receipt, or of the last invoice, or of the terms.
    pub evidence: Digest,
}

/// What a consistent bundle says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What it is about.
    pub label: Label,
    /// The buyer's order key.
    pub buyer: NodeKey,
    /// What was to be computed.
    pub job: Job,
    /// Salt of the prompt's digest.
    pub salt: [u8; 16],
    /// The tokens that the host's signatures cover; later ones are nobody's.
    pub tokens: Vec<ChainedToken>,
    /// Prompt tokens that the host's terms charge, cached ones included.
    pub prompt_tokens: u64,
    /// Salted digest of the prompt, where there is a receipt.
    pub prompt: Option<Digest>,
    /// Numerics that the host claims.
    pub numerics: Option<String>,
}

/// Everything opened, and the chain recomputed.
struct Case<'a> {
    order: &'a Opened<Order>,
    terms: &'a Opened<Terms>,
    tokens: &'a [ChainedToken],
    /// `heads[n]` commits to the first n tokens.
    heads: &'a [Digest],
    /// Where a head stands in `heads`.
    index: &'a BTreeMap<Digest, u64>,
}

/// An invoice that provably belongs to this order and these terms.
struct Bound {
    body: Invoice,
    /// Tokens that its head commits to.
    tokens: u64,
}

/// Why a check went no further: proof against the host, or doubt about the evidence.
enum Trouble {
    False(String),
    Doubt(String),
}

impl From<Trouble> for Finding {
    fn from(trouble: Trouble) -> Finding {
        match trouble {
            Trouble::False(detail) => Finding::FalseAccount { detail },
            Trouble::Doubt(detail) => Finding::Inconclusive { detail },
        }
    }
}

/// Checks a bundle as a third party can.
///
/// # Errors
/// [`Finding::FalseAccount`] where the host's own signed statements contradict each
/// other or the token chain; [`Finding::Inconclusive`] where the evidence is
/// incomplete or may be the buyer's making.
pub fn bookkeeping(
    bundle: &Bundle,
    crypto: &dyn Crypto,
    network: Network,
) -> Result<Facts, Finding> {
    check(bundle, crypto, network).map_err(Finding::from)
}

fn doubt(detail: impl Into<String>) -> Trouble {
    Trouble::Doubt(detail.into())
}

fn lie(detail: impl Into<String>) -> Trouble {
    Trouble::False(detail.into())
}

fn check(bundle: &Bundle, crypto: &dyn Crypto, network: Network) -> Result<Facts, Trouble> {
    if bundle.tokens.len() > limits::MAX_OUTPUT_TOKENS as usize
        || bundle.invoices.len() > limits::MAX_INVOICES
    {
        return Err(doubt("the bundle is larger than any order can be"));
    }
    let order = bundle
        .order
        .open_public::<Order>(crypto, network)
        .map_err(|error| doubt(format!("the order: {error}")))?;
    let terms = bundle
        .terms
        .open_public::<Terms>(crypto, network)
        .map_err(|error| doubt(format!("the terms: {error}")))?;
    belong_together(&order, &terms)?;
    let heads = heads(&order.digest, &terms.digest, &bundle.tokens);
    let index = (0u64..).zip(&heads).map(|(n, head)| (*head, n)).collect();
    let case = Case {
        order: &order,
        terms: &terms,
        tokens: &bundle.tokens,
        heads: &heads,
        index: &index,
    };
    let (bound, unbound) = invoices::open(&case, bundle, crypto, network)?;
    invoices::check(&case, &bound, crypto)?;
    let receipt = bundle
        .receipt
        .as_ref()
        .map(|signed| signed.open_public::<Receipt>(crypto, network));
    let receipt = match receipt {
        Some(Ok(receipt)) => Some(receipt),
        Some(Err(error)) => return Err(doubt(format!("the receipt: {error}"))),
        None => None,
    };
    if let Some(receipt) = &receipt {
        receipts::check(&case, receipt, &bound)?;
    }
    if let Some(detail) = unbound {
        return Err(doubt(detail));
    }
    countersignature(bundle, receipt.as_ref(), &order, crypto, network)?;
    conclude(&case, bundle, receipt, &bound)
}

/// The terms are the host's answer to this very order.
fn belong_together(order: &Opened<Order>, terms: &Opened<Terms>) -> Result<(), Trouble> {
    let host = terms.envelope.from;
    if terms.body.order != order.digest {
        return Err(doubt("the terms commit to another order"));
    }
    if order.envelope.to != Some(host) || terms.envelope.to != Some(order.envelope.from) {
        return Err(doubt("order and terms are not addressed to each other"));
    }
    Ok(())
}

fn heads(order: &Digest, terms: &Digest, tokens: &[ChainedToken]) -> Vec<Digest> {
    let mut chain = TokenChain::new(order, terms);
    let mut heads = Vec::with_capacity(tokens.len() + 1);
    heads.push(chain.head());
    for token in tokens {
        chain.push(token);
        heads.push(chain.head());
    }
    heads
}

fn countersignature(
    bundle: &Bundle,
    receipt: Option<&Opened<Receipt>>,
    order: &Opened<Order>,
    crypto: &dyn Crypto,
    network: Network,
) -> Result<(), Trouble> {
    let Some(signed) = &bundle.countersigned else {
        return Ok(());
    };
    let opened = signed
        .open_public::<Countersigned>(crypto, network)
        .map_err(|error| doubt(format!("the countersignature: {error}")))?;
    let fits = receipt.is_some_and(|receipt| receipt.digest == opened.body.receipt)
        && opened.envelope.from == order.envelope.from;
    if fits {
        Ok(())
    } else {
        Err(doubt(
            "the countersignature is not the buyer's under this receipt",
        ))
    }
}

fn conclude(
    case: &Case<'_>,
    bundle: &Bundle,
    receipt: Option<Opened<Receipt>>,
    bound: &[Bound],
) -> Result<Facts, Trouble> {
    let covered = match &receipt {
        Some(receipt) => case.index.get(&receipt.body.head).copied(),
        None => bound.iter().map(|invoice| invoice.tokens).max(),
    };
    let Some(covered) = covered else {
        return Err(doubt("the host signed neither an invoice nor a receipt"));
    };
    let covered = usize::try_from(covered).unwrap_or(usize::MAX);
    let terms = &case.terms.body;
    Ok(Facts {
        label: label(bundle),
        buyer: case.order.envelope.from,
        job: case.order.body.job.clone(),
        salt: case.order.body.salt,
        tokens: bundle.tokens.iter().take(covered).cloned().collect(),
        prompt_tokens: terms.input.prompt(),
        prompt: receipt.map(|receipt| receipt.body.prompt),
        numerics: terms.numerics.clone(),
    })
}

/// Reads what a bundle claims to be about, without checking any of it; for the
/// head of a verdict that finds it inconclusive.
pub fn label(bundle: &Bundle) -> Label {
    use crate::codec::decode;
    use crate::wire::envelope::Envelope;
    let open = |bytes: &[u8]| decode::<Envelope>(bytes, limits::MAX_ORDER_FRAME_BYTES).ok();
    let id = OrderId::of(&bundle.order.digest());
    let order = open(&bundle.order.bytes)
        .and_then(|envelope| decode::<Order>(&envelope.body, limits::MAX_ORDER_FRAME_BYTES).ok());
    let host = open(&bundle.terms.bytes).map(|envelope| envelope.from);
    let evidence = bundle
        .receipt
        .as_ref()
        .or(bundle.invoices.last())
        .unwrap_or(&bundle.terms);
    Label {
        id,
        host: host.unwrap_or(NodeKey([0; 32])),
        model: order.map_or(ModelDigest([0; 32]), |order| order.model),
        evidence: evidence.digest(),
    }
}

#[cfg(test)]
mod tests;
