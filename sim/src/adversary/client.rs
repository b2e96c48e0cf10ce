//! A client without machines: orders, pays what its strategy pays, and ends when it says so.

use super::Hand;
use crate::event::NodeIx;
use protocol::codec;
use protocol::ids::{ModelDigest, StreamId};
use protocol::limits::MAX_ORDER_FRAME_BYTES;
use protocol::money::Msat;
use protocol::wire::envelope::{Envelope, Signed};
use protocol::wire::manifest::PaymentMode;
use protocol::wire::order::{
    Countersigned, Frame, Handling, Invoice, Order, Path, Retention, Terms,
};
use protocol::work::{Job, Sampling, Work};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// How an order is to go.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The secret that signs it.
    pub secret: [u8; 32],
    /// Signed before: sent again as it is.
    pub again: Option<Signed>,
    /// The host.
    pub host: NodeIx,
    /// The model.
    pub model: ModelDigest,
    /// Output tokens asked for.
    pub max_output: u32,
    /// Words of the prompt.
    pub words: usize,
    /// The cap. Msat.
    pub max_cost: u64,
    /// What it does.
    pub conduct: Conduct,
}

/// What a client does with an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conduct {
    /// Pays everything.
    Pays,
    /// Pays an entry of at most so many msat, nothing after it, and leaves at the end of the output.
    Leaves(u64),
    /// Looks at the terms and does nothing any more.
    Squats,
}

/// How an order ended.
#[derive(Debug)]
pub struct Over {
    /// As it was planned.
    pub plan: Plan,
    /// Tokens that came.
    pub delivered: u64,
    /// It went as planned.
    pub done: bool,
}

struct Deal {
    plan: Plan,
    delivered: u64,
}

/// All orders of one adversary.
#[derive(Default)]
pub struct Client {
    deals: BTreeMap<StreamId, Deal>,
}

fn body<T: DeserializeOwned>(signed: &Signed) -> Option<T> {
    let envelope: Envelope = codec::decode(&signed.bytes, MAX_ORDER_FRAME_BYTES).ok()?;
    codec::decode(&envelope.body, MAX_ORDER_FRAME_BYTES).ok()
}

/// A job of some words.
pub fn job(words: usize, max_output: u32, seed: u64) -> Job {
    Job {
        work: Work::Complete {
            prompt: "tell me ".repeat(words),
        },
        max_output,
        sampling: Sampling::default(),
        seed,
        stop: Vec::new(),
        date: "2026-01-15".to_owned(),
        steering: Default::default(),
        prefix: Vec::new(),
        extensions: Vec::new(),
    }
}

impl Client {
    /// Orders under way.
    pub fn open(&self) -> usize {
        self.deals.len()
    }

    /// Orders; `None` where the host cannot be reached.
    pub fn order(&mut self, hand: &mut Hand<'_>, mut plan: Plan) -> Option<StreamId> {
        let stream = hand.dial(plan.host)?;
        let (salt, seed) = (hand.id(), hand.dice().between(0, u64::MAX - 1));
        let order = Order {
            model: plan.model,
            job: job(plan.words, plan.max_output, seed),
            max_cost: Msat(plan.max_cost),
            mode: PaymentMode::Metered,
            payment_grain: Msat(1),
            path: Path::Fast,
            retention: Retention::Keep,
            handling: Handling::Plain,
            salt,
            via: None,
            authority: Vec::new(),
            extensions: Vec::new(),
        };
        let to = hand.key_of(plan.host);
        let signed = match plan.again.take() {
            Some(signed) => signed,
            None => hand.seal(&plan.secret, Some(to), &order),
        };
        hand.send(stream, &Frame::Order(signed.clone()));
        plan.again = Some(signed);
        let deal = Deal { plan, delivered: 0 };
        self.deals.insert(stream, deal);
        Some(stream)
    }

    /// A frame; says when the order is over.
    pub fn arrived(&mut self, hand: &mut Hand<'_>, stream: StreamId, frame: Frame) -> Option<Over> {
        let deal = self.deals.get_mut(&stream)?;
        let conduct = deal.plan.conduct;
        match frame {
            Frame::Terms(signed) => {
                let terms: Terms = body(&signed)?;
                if conduct == Conduct::Squats {
                    return None;
                }
                let entry = terms.entry.as_ref();
                if let (Conduct::Leaves(most), Some(entry)) = (conduct, entry)
                    && entry.msat.0 > most
                {
                    hand.send(stream, &Frame::Cancel);
                    return self.end(hand, stream, false);
                }
                hand.send(stream, &Frame::Accept(signed.digest()));
                if let Some(entry) = entry {
                    hand.pay(&entry.bolt11);
                }
                None
            }
            Frame::Chunk(chunk) => {
                deal.delivered += chunk.tokens.len() as u64;
                let leaves = matches!(conduct, Conduct::Leaves(_));
                if chunk.finish.is_some() && leaves {
                    hand.send(stream, &Frame::Cancel);
                    return self.end(hand, stream, true);
                }
                None
            }
            Frame::Invoice(signed) => {
                let invoice: Invoice = body(&signed)?;
                // Who does not pay has all that there was to have: the host stands still.
                if conduct == Conduct::Pays {
                    hand.pay(&invoice.bolt11);
                }
                None
            }
            Frame::Receipt(signed) => {
                let (secret, host) = (deal.plan.secret, deal.plan.host);
                let countersigned = Countersigned {
                    receipt: signed.digest(),
                    extensions: Vec::new(),
                };
                let to = hand.key_of(host);
                let signed = hand.seal(&secret, Some(to), &countersigned);
                hand.send(stream, &Frame::Countersigned(signed));
                self.end(hand, stream, true)
            }
            Frame::Refusal(_) => {
                let served = deal.delivered > 0;
                self.end(hand, stream, served)
            }
            _ => None,
        }
    }

    /// A stream is gone.
    pub fn closed(&mut self, hand: &mut Hand<'_>, stream: StreamId) -> Option<Over> {
        let served = self.deals.get(&stream)?.delivered > 0;
        self.end(hand, stream, served)
    }

    fn end(&mut self, hand: &mut Hand<'_>, stream: StreamId, done: bool) -> Option<Over> {
        let deal = self.deals.remove(&stream)?;
        hand.close(stream);
        Some(Over {
            plan: deal.plan,
            delivered: deal.delivered,
            done,
        })
    }
}
