//! Honest bundles, and the levers to make them dishonest. For tests only.

use crate::crypto::{Crypto, Secp};
use crate::ids::{Digest, ModelDigest, NodeKey, OrderId, PaymentHash};
use crate::money::{Counts, Meter, Msat, Prices};
use crate::time::WallTime;
use crate::wire::bundle::Bundle;
use crate::wire::chain::{ChainedToken, Piece, TokenChain};
use crate::wire::envelope::{Body, Network, Signed};
use crate::wire::manifest::PaymentMode;
use crate::wire::order::{
    self, Countersigned, EntryInvoice, Invoice, Order, PaymentEntry, Receipt, Status, Terms,
};
use crate::work::{ChatMessage, Job, Sampling, Work};

pub const NETWORK: Network = Network::Regtest;
pub const NUMERICS: &str = "fh1-cpu";
const AT: WallTime = WallTime(1_700_000_000_000);

pub fn buyer() -> Secp {
    Secp::from_secret(&[1; 32]).unwrap()
}

pub fn host() -> Secp {
    Secp::from_secret(&[2; 32]).unwrap()
}

pub fn validator() -> Secp {
    Secp::from_secret(&[3; 32]).unwrap()
}

fn seal<T: Body>(by: &Secp, to: NodeKey, nonce: u8, body: &T) -> Signed {
    Signed::seal(by, NETWORK, Some(to), AT, [nonce; 16], body)
}

pub fn token(n: u32) -> ChainedToken {
    let mut logits = [7; 32];
    logits[..4].copy_from_slice(&n.to_le_bytes());
    ChainedToken {
        id: 1_000 + n,
        logits: Digest(logits),
        piece: Piece {
            control: n == 9,
            bytes: format!(" word{n}").into_bytes(),
        },
    }
}

/// An order of ten tokens: entry payment, invoices at 4 and 8, receipt at 10.
///
/// Each closure may turn what the host signs into a lie.
pub struct Script {
    pub order: fn(&mut Order),
    pub terms: fn(&mut Terms),
    pub invoice: fn(&mut Invoice),
    pub receipt: fn(&mut Receipt),
    pub receipt_signed: bool,
}

impl Default for Script {
    fn default() -> Self {
        Script {
            order: |_| {},
            terms: |_| {},
            invoice: |_| {},
            receipt: |_| {},
            receipt_signed: true,
        }
    }
}

pub fn order_body() -> Order {
    Order {
        model: ModelDigest([5; 32]),
        job: Job {
            work: Work::Chat {
                messages: vec![ChatMessage {
                    role: "user".into(),
                    content: "What is a channel?".into(),
                }],
            },
            max_output: 64,
            sampling: Sampling::default(),
            seed: 4,
            stop: Vec::new(),
            date: "2026-01-02".into(),
            steering: Default::default(),
            prefix: Vec::new(),
            extensions: Vec::new(),
        },
        max_cost: Msat(1_000_000),
        mode: PaymentMode::Metered,
        payment_grain: Msat(1),
        path: order::Path::Fast,
        retention: order::Retention::Keep,
        handling: order::Handling::Plain,
        salt: [6; 16],
        via: None,
        authority: Vec::new(),
        extensions: Vec::new(),
    }
}

fn terms_body(order: &Signed, script: &Script) -> Terms {
    Terms {
        order: order.digest(),
        input: counts(script, 0),
        prices: Prices::chat(100_000_000, 250_000_000).with(Meter::Item, 250_000_000),
        window: Msat(2_000),
        quantum: Msat(1_000),
        carried_debt: Msat(100),
        entry: Some(EntryInvoice {
            bolt11: "entry".into(),
            msat: Msat(1_100),
        }),
        numerics: Some(NUMERICS.into()),
        tokenizer: Digest([10; 32]),
        template: Digest([11; 32]),
        starts_within_ms: 0,
        expires: AT.after_ms(60_000),
        extensions: Vec::new(),
    }
}

/// Eight tokens of input, and so much of what the script's job delivers.
fn counts(script: &Script, delivered: u64) -> Counts {
    let mut order = order_body();
    (script.order)(&mut order);
    let input = Counts {
        input_tokens: 8,
        ..Counts::default()
    };
    input.with_delivered(order.job.meter(), delivered)
}

pub fn prompt() -> Digest {
    order::prompt_digest(&[6; 16], &[1, 2, 3, 4, 5, 6, 7, 8])
}

/// Builds the bundle of an order that ran by `script`.
pub fn bundle(script: &Script) -> Bundle {
    let (buyer, host) = (buyer(), host());
    let mut ordered = order_body();
    (script.order)(&mut ordered);
    let order = seal(&buyer, host.key(), 1, &ordered);
    let mut terms_said = terms_body(&order, script);
    (script.terms)(&mut terms_said);
    let terms = seal(&host, buyer.key(), 2, &terms_said);
    let tokens: Vec<ChainedToken> = (0..10).map(token).collect();
    let invoices: Vec<Invoice> = [4, 8]
        .into_iter()
        .zip(1..)
        .map(|(covers, seq)| invoice(&order, &terms, &tokens, covers, seq, script))
        .collect();
    let receipt = script
        .receipt_signed
        .then(|| receipt(&order, &terms, &terms_said, &tokens, script));
    let signed = receipt.map(|body| seal(&host, buyer.key(), 5, &body));
    let countersigned = signed.as_ref().map(|signed| {
        let body = Countersigned {
            receipt: signed.digest(),
            extensions: Vec::new(),
        };
        seal(&buyer, host.key(), 6, &body)
    });
    Bundle {
        order,
        terms,
        tokens,
        invoices: invoices
            .iter()
            .map(|body| seal(&host, buyer.key(), 20 + body.seq as u8, body))
            .collect(),
        receipt: signed,
        countersigned,
    }
}

fn head(order: &Signed, terms: &Signed, tokens: &[ChainedToken]) -> Digest {
    let mut chain = TokenChain::new(&order.digest(), &terms.digest());
    tokens.iter().for_each(|token| chain.push(token));
    chain.head()
}

/// Each invoice brings the sum to the cost of what it covers and the carried debt.
fn invoice(
    order: &Signed,
    terms: &Signed,
    tokens: &[ChainedToken],
    covers: u64,
    seq: u32,
    script: &Script,
) -> Invoice {
    let sum = 800 + 250 * covers + 100;
    let before = if seq == 1 { 1_100 } else { 800 + 250 * 4 + 100 };
    let mut body = Invoice {
        order: OrderId::of(&order.digest()),
        seq,
        bolt11: format!("invoice {seq}"),
        msat: Msat(sum - before),
        covers: counts(script, covers),
        invoiced: Msat(sum),
        head: head(order, terms, &tokens[..covers as usize]),
        window: Msat(2_000),
        extensions: Vec::new(),
    };
    (script.invoice)(&mut body);
    body
}

fn receipt(
    order: &Signed,
    terms: &Signed,
    said: &Terms,
    tokens: &[ChainedToken],
    script: &Script,
) -> Receipt {
    let payment = |seq, msat| PaymentEntry {
        seq,
        hash: PaymentHash([seq as u8; 32]),
        msat: Msat(msat),
    };
    let mut body = Receipt {
        id: OrderId::of(&order.digest()),
        order: order.digest(),
        terms: terms.digest(),
        buyer: buyer().key(),
        host: host().key(),
        model: ModelDigest([5; 32]),
        tokenizer: said.tokenizer,
        template: said.template,
        numerics: said.numerics.clone(),
        prices: said.prices.clone(),
        prompt: prompt(),
        head: head(order, terms, tokens),
        finish: order::Finish::Stop,
        counts: counts(script, 10),
        cost: Msat(800 + 2_500),
        payments: vec![payment(0, 1_100), payment(1, 800), payment(2, 1_000)],
        debt: Msat(500),
        started: AT,
        ended: AT.after_ms(900),
        status: Status::Complete,
        extensions: Vec::new(),
    };
    (script.receipt)(&mut body);
    body
}
