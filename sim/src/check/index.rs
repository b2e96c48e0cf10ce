//! The checkers' own books of orders: who, with whom, for how much, how far.
//!
//! Filled from frames on the wire and from the wallet network alone.

use super::Seen;
use crate::event::NodeIx;
use crate::node::{Person, QUANTUM};
use protocol::codec;
use protocol::envelope::{Envelope, Signed};
use protocol::ids::{ModelDigest, OrderId, PaymentHash, StreamId};
use protocol::limits::MAX_ORDER_FRAME_BYTES;
use protocol::money::Meter;
use protocol::order::wire::{Frame, Invoice, Order, Terms};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};

/// One order as the wire shows it.
#[derive(Debug, Clone)]
pub struct OrderBook {
    /// Who buys.
    pub buyer: NodeIx,
    /// Who sells.
    pub host: NodeIx,
    /// The model.
    pub model: ModelDigest,
    /// The buyer's cap. Msat.
    pub max_cost: u64,
    /// Prompt tokens by the terms.
    pub input: u64,
    /// Debt by the terms. Msat.
    pub carried: u64,
    /// There are terms.
    pub terms: bool,
    /// The buyer countersigned a receipt: both sides have the same account.
    pub agreed: bool,
    /// Output tokens that left the host.
    pub sent: u64,
    /// Output tokens that reached the buyer.
    pub delivered: u64,
    /// Paid, as the wallets have it. Msat.
    pub settled: u64,
    /// Sum of payments asked of the wallet. Msat.
    pub asked: u64,
    /// Largest window granted so far. Msat.
    pub window: u64,
    /// Its payments: seq to hash.
    pub hashes: BTreeMap<u32, PaymentHash>,
}

impl OrderBook {
    /// Cost of `output` tokens and the prompt at the listed price, in msat, rounded down once.
    pub fn cost(&self, people: &[Person], output: u64) -> u64 {
        let Some(host) = people.get(self.host) else {
            return 0;
        };
        let offer = host
            .served
            .iter()
            .find(|served| served.offer.digest == self.model);
        let price = |meter| {
            let prices = offer.map(|served| &served.offer.prices.0);
            let found = prices
                .into_iter()
                .flatten()
                .find(|price| price.meter == meter);
            found.map_or(0, |price| u128::from(price.msat_per_million))
        };
        let sum = price(Meter::InputToken) * u128::from(self.input)
            + price(Meter::OutputToken) * u128::from(output);
        u64::try_from(sum / 1_000_000).unwrap_or(u64::MAX)
    }
}

/// All orders.
#[derive(Debug, Default)]
pub struct Index {
    /// By id.
    pub orders: BTreeMap<OrderId, OrderBook>,
    /// Which order a stream carries, by the host's end and by the buyer's.
    pub streams: BTreeMap<StreamId, OrderId>,
    /// Which invoice a hash belongs to.
    pub hashes: BTreeMap<PaymentHash, (OrderId, u32)>,
    /// Settled hashes.
    pub settled: BTreeSet<PaymentHash>,
    /// Failed hashes.
    pub failed: BTreeSet<PaymentHash>,
}

/// Reads a signed body without believing it.
pub fn body<T: DeserializeOwned>(signed: &Signed) -> Option<T> {
    let envelope: Envelope = codec::decode(&signed.bytes, MAX_ORDER_FRAME_BYTES).ok()?;
    codec::decode(&envelope.body, MAX_ORDER_FRAME_BYTES).ok()
}

impl Index {
    /// The most that a buyer can owe a host from its other orders with it. Where an order
    /// broke off, output may have been under way: the window, at most. Msat.
    pub fn owed(&self, people: &[Person], id: &OrderId, order: &OrderBook) -> u64 {
        let others = self.orders.iter().filter(|(other, book)| {
            *other != id && book.terms && (book.buyer, book.host) == (order.buyer, order.host)
        });
        let left = |book: &OrderBook| {
            // As a buyer must reckon, who sees no window grow: it may double with each payment.
            let doublings = u32::try_from(book.hashes.len() + 1).unwrap_or(6).min(6);
            let under_way = match book.agreed {
                true => 0,
                false => (book.window.max(2 * QUANTUM) << doublings).min(book.max_cost),
            };
            let due = book.cost(people, book.sent.max(book.delivered)) + book.carried + under_way;
            due.saturating_sub(book.settled)
        };
        let (all, taken_up) = others.fold((0, 0), |(all, taken_up), (_, book)| {
            let part = if book.settled > 0 { book.carried } else { 0 };
            (all + left(book), taken_up + part)
        });
        u64::saturating_sub(all, taken_up)
    }

    /// The order on a stream.
    pub fn on(&self, stream: StreamId) -> Option<(&OrderId, &OrderBook)> {
        self.orders.get_key_value(self.streams.get(&stream)?)
    }

    /// Follows what is seen.
    pub fn see(&mut self, _people: &[Person], seen: &Seen<'_>) {
        match seen {
            Seen::Arrived {
                from,
                to,
                stream,
                peer,
                frame,
            } => self.arrived(*from, *to, *stream, *peer, frame),
            Seen::Sent { stream, frame, .. } => {
                if let Frame::Chunk(chunk) = frame
                    && let Some(order) = self.streams.get(stream)
                    && let Some(book) = self.orders.get_mut(order)
                {
                    book.sent += chunk.tokens.len() as u64;
                }
                self.invoices(*stream, frame);
            }
            Seen::Settled { hash, msat, .. } => {
                self.settled.insert(*hash);
                if let Some((order, _)) = self.hashes.get(hash)
                    && let Some(book) = self.orders.get_mut(order)
                {
                    book.settled += msat;
                }
            }
            Seen::PayFailed { hash, .. } => {
                self.failed.insert(*hash);
            }
            Seen::Handed { delivery, .. } => self.granted(delivery),
            _ => {}
        }
    }

    fn granted(&mut self, delivery: &protocol::route::Delivery) {
        use protocol::inference::io::Input;
        use protocol::route::Delivery;
        let (order, window) = match delivery {
            Delivery::Inference(Input::CreditOpened {
                order,
                result: Ok(credit),
            }) => (order, &credit.window),
            Delivery::Inference(Input::CreditGranted { order, window, .. }) => (order, window),
            _ => return,
        };
        if let Some(book) = self.orders.get_mut(order) {
            book.window = book.window.max(window.0);
        }
    }

    fn arrived(
        &mut self,
        from: NodeIx,
        to: NodeIx,
        stream: StreamId,
        peer: StreamId,
        frame: &Frame,
    ) {
        match frame {
            Frame::Order(signed) => {
                let Some(order) = body::<Order>(signed) else {
                    return;
                };
                let id = OrderId::of(&signed.digest());
                self.streams.insert(stream, id);
                self.streams.insert(peer, id);
                self.orders.entry(id).or_insert(OrderBook {
                    buyer: from,
                    host: to,
                    model: order.model,
                    max_cost: order.max_cost.0,
                    input: 0,
                    carried: 0,
                    terms: false,
                    agreed: false,
                    sent: 0,
                    delivered: 0,
                    settled: 0,
                    asked: 0,
                    window: 0,
                    hashes: BTreeMap::new(),
                });
            }
            Frame::Chunk(chunk) => {
                if let Some(book) = self
                    .streams
                    .get(&stream)
                    .and_then(|order| self.orders.get_mut(order))
                {
                    book.delivered += chunk.tokens.len() as u64;
                }
            }
            Frame::Countersigned(_) => {
                if let Some(id) = self.streams.get(&stream)
                    && let Some(book) = self.orders.get_mut(id)
                {
                    book.agreed = true;
                }
            }
            frame => self.invoices(stream, frame),
        }
    }

    fn invoices(&mut self, stream: StreamId, frame: &Frame) {
        let Some(id) = self.streams.get(&stream).copied() else {
            return;
        };
        let (seq, bolt11) = match frame {
            Frame::Terms(signed) => {
                let (Some(terms), Some(book)) = (body::<Terms>(signed), self.orders.get_mut(&id))
                else {
                    return;
                };
                book.terms = true;
                book.input = terms.input.input_tokens;
                book.carried = terms.carried_debt.0;
                match terms.entry {
                    Some(entry) => (0, entry.bolt11),
                    None => return,
                }
            }
            Frame::Invoice(signed) => match body::<Invoice>(signed) {
                Some(invoice) => (invoice.seq, invoice.bolt11),
                None => return,
            },
            _ => return,
        };
        if let Some(facts) = crate::crypto::read_invoice(&bolt11) {
            self.hashes.insert(facts.hash, (id, seq));
            if let Some(book) = self.orders.get_mut(&id) {
                book.hashes.insert(seq, facts.hash);
            }
        }
    }
}
