//! The checkers' own books of orders: who, with whom, for how much, how far.
//!
//! Filled from frames on the wire and from the wallet network alone. An order is known by the
//! digest of what its buyer signed: buyers choose ids, and a dishonest one uses an id twice.

use super::Seen;
use crate::engine;
use crate::event::NodeIx;
use crate::node::{AnyEffect, Participant};
use protocol::codec;
use protocol::ids::{Digest, ModelDigest, NodeKey, OrderId, PaymentHash, RequestId, StreamId};
use protocol::limits::MAX_ORDER_FRAME_BYTES;
use protocol::message::inference::{Effect, Input};
use protocol::message::sibling::Message;
use protocol::money::{Counts, Meter, Prices};
use protocol::route::Delivery;
use protocol::wire::envelope::{Envelope, Signed};
use protocol::wire::manifest::PaymentMode;
use protocol::wire::order::{Frame, Invoice, Order, Terms};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};

/// One order as the wire shows it.
#[derive(Debug, Clone)]
pub struct OrderBook {
    /// What the buyer calls it.
    pub id: OrderId,
    /// The key that signed it.
    pub key: NodeKey,
    /// Who buys.
    pub buyer: NodeIx,
    /// Who sells.
    pub host: NodeIx,
    /// What its prompt is counted under.
    pub salt: [u8; 16],
    /// The model.
    pub model: ModelDigest,
    /// What one delivered unit is.
    pub meter: Meter,
    /// How it is paid.
    pub mode: PaymentMode,
    /// Output units that were ordered at most.
    pub ordered: u64,
    /// The buyer's cap. Msat.
    pub max_cost: u64,
    /// Prompt tokens as the world's tokenizer counts them.
    pub counted: u64,
    /// Prompt tokens by the terms.
    pub input: Counts,
    /// What the terms charge, never more than the host ever listed.
    pub prices: Prices,
    /// Debt by the terms. Msat.
    pub carried: u64,
    /// When it came last. World time in milliseconds.
    pub came_ms: u64,
    /// There are terms.
    pub terms: bool,
    /// The buyer countersigned a receipt: both sides have the same account.
    pub agreed: bool,
    /// Output units that left the host.
    pub sent: u64,
    /// The host's engine began, so that the prompt was computed.
    pub began: bool,
    /// Chunks that left the host.
    pub chunks: u64,
    /// When the last of them did. World time in milliseconds.
    pub last_ms: u64,
    /// Output units that reached the buyer.
    pub delivered: u64,
    /// The last chunk of them came.
    pub finished: bool,
    /// Of these, what an invoice that reached the buyer covers.
    pub covered: Option<u64>,
    /// Paid, as the wallets have it. Msat.
    pub settled: u64,
    /// Routing fees of it. Msat.
    pub fees: u64,
    /// Its payments: seq to hash.
    pub hashes: BTreeMap<u32, PaymentHash>,
}

impl OrderBook {
    /// Cost of `output` units and the prompt, in msat, rounded down once.
    pub fn cost(&self, output: u64) -> u64 {
        let part = |meter, count: u64| u128::from(self.prices.of(meter)) * u128::from(count);
        let sum = part(Meter::InputToken, self.input.input_tokens)
            + part(Meter::CachedInputToken, self.input.cached_input_tokens)
            + part(self.meter, output);
        u64::try_from(sum / 1_000_000).unwrap_or(u64::MAX)
    }

    /// Cost of what the host can show that it delivered: nothing where it signed for nothing. Msat.
    pub fn vouched(&self) -> u64 {
        match (self.agreed, self.covered) {
            (true, _) if self.delivered > 0 => self.cost(self.delivered),
            (false, Some(covered)) => self.cost(covered),
            _ => 0,
        }
    }

    /// Worth of what the host gave: nothing before its engine began. Msat.
    pub fn value(&self) -> u64 {
        match self.began {
            true => self.cost(self.sent),
            false => 0,
        }
    }

    /// Cost of one unit of output, rounded up. Msat.
    pub fn unit(&self) -> u64 {
        self.prices.of(self.meter).div_ceil(1_000_000)
    }
}

/// What one buyer key had of one host in all.
#[derive(Debug, Clone, Default)]
pub struct KeyBook {
    /// Worth of everything delivered, prompts of answers that began included. Msat.
    pub value: u64,
    /// Paid, as the wallets have it. Msat.
    pub paid: u64,
    /// When something was last paid. World time in milliseconds.
    pub last_ms: u64,
    /// What was paid less than a minute before that. Msat.
    pub lately: u64,
}

impl KeyBook {
    /// Delivered and not paid. Msat.
    pub fn unpaid(&self) -> u64 {
        self.value.saturating_sub(self.paid)
    }
}

/// A payment's way from the wallet into a host's books takes no longer, where nothing is down. Milliseconds.
const BOOKED_MS: u64 = 60_000;

/// An order that stands still unpaid ends within this time. Milliseconds.
const UNDER_WAY_MS: u64 = 90_000;

/// All orders.
#[derive(Debug, Default)]
pub struct Index {
    /// By host and buyer key.
    pub keys: BTreeMap<(NodeIx, NodeKey), KeyBook>,
    /// By the digest of the signed order.
    pub orders: BTreeMap<Digest, OrderBook>,
    /// The orders that a node buys or serves.
    of_node: BTreeMap<NodeIx, BTreeSet<Digest>>,
    /// The orders that a key signed for a host.
    signed: BTreeMap<(NodeIx, NodeKey), Vec<Digest>>,
    /// Which order a stream carries, by the host's end and by the buyer's.
    pub streams: BTreeMap<StreamId, Digest>,
    /// Which invoice a hash belongs to.
    pub hashes: BTreeMap<PaymentHash, (Digest, u32)>,
    /// Settled hashes.
    pub settled: BTreeSet<PaymentHash>,
    /// Failed hashes.
    pub failed: BTreeSet<PaymentHash>,
    /// What a user would pay for a request at most, routing fees included. Msat.
    wishes: BTreeMap<(NodeIx, RequestId), u64>,
    /// The same of the orders that a request became.
    caps: BTreeMap<(NodeIx, OrderId), u64>,
    /// Prices that a host ever listed for a model.
    listed: BTreeMap<(NodeIx, ModelDigest), Vec<Prices>>,
    /// The largest quantum that a host ever listed. Msat.
    quanta: BTreeMap<NodeIx, u64>,
}

/// The first digest that an order of that id may have.
fn first(order: &OrderId) -> Digest {
    let mut digest = [0; 32];
    digest[..order.0.len()].copy_from_slice(&order.0);
    Digest(digest)
}

/// Reads a signed body without believing it.
pub fn body<T: DeserializeOwned>(signed: &Signed) -> Option<T> {
    codec::decode(&envelope(signed)?.body, MAX_ORDER_FRAME_BYTES).ok()
}

/// Reads the envelope of a signed body without believing it.
pub fn envelope(signed: &Signed) -> Option<Envelope> {
    codec::decode(&signed.bytes, MAX_ORDER_FRAME_BYTES).ok()
}

impl Index {
    /// Remembers what a host lists from now on.
    pub fn list(&mut self, node: NodeIx, participant: &Participant) {
        for model in &participant.served {
            let prices = self.listed.entry((node, model.offer.digest)).or_default();
            if !prices.contains(&model.offer.prices) {
                prices.push(model.offer.prices.clone());
            }
        }
        let quantum = self.quanta.entry(node).or_default();
        *quantum = (*quantum).max(participant.quantum);
    }

    /// The largest step of payment that a host ever listed. Msat.
    pub fn quantum(&self, host: NodeIx) -> u64 {
        self.quanta.get(&host).copied().unwrap_or(0)
    }

    /// The most that a buyer can owe a host from its other orders with it. Where an order
    /// broke off, output may have been under way: the window, at most. Msat.
    pub fn owed(&self, id: &Digest, order: &OrderBook) -> u64 {
        let others = self.of_node(order.buyer).filter(|(other, book)| {
            *other != id && book.terms && (book.buyer, book.host) == (order.buyer, order.host)
        });
        let left = |book: &OrderBook| {
            // What the host may have sent unseen: never more than was ordered, nor than the key's
            // window, which is no wider than what it ever paid.
            let paid = self.keys.get(&(book.host, book.key));
            let window =
                paid.map_or(0, |paid| paid.paid) + self.quantum(book.host).max(book.unit());
            let under_way = match book.agreed {
                true => 0,
                false => book.max_cost.min(window),
            };
            let due = book.cost(book.sent.max(book.delivered)) + book.carried + under_way;
            due.saturating_sub(book.settled)
        };
        let (all, taken_up) = others.fold((0u64, 0u64), |(all, taken_up), (_, book)| {
            let part = if book.settled > 0 { book.carried } else { 0 };
            (all.saturating_add(left(book)), taken_up + part)
        });
        all.saturating_sub(taken_up)
    }

    /// The orders that a node buys or serves, by digest.
    pub fn of_node(&self, node: NodeIx) -> impl Iterator<Item = (&Digest, &OrderBook)> {
        let digests = self.of_node.get(&node).into_iter().flatten();
        digests.filter_map(|digest| self.orders.get_key_value(digest))
    }

    /// Every order of that id, by digest.
    pub fn of_id(&self, order: OrderId) -> impl Iterator<Item = (&Digest, &OrderBook)> {
        let from = self.orders.range(first(&order)..);
        from.take_while(move |(_, book)| book.id == order)
    }

    /// What the user of an order would pay for it at most, routing fees included; the signed cap
    /// leaves out what is kept for them. Msat.
    pub fn cap(&self, buyer: NodeIx, book: &OrderBook) -> u64 {
        let cap = self.caps.get(&(buyer, book.id));
        cap.copied().unwrap_or(book.max_cost)
    }

    /// The order on a stream.
    pub fn on(&self, stream: StreamId) -> Option<(&Digest, &OrderBook)> {
        self.orders.get_key_value(self.streams.get(&stream)?)
    }

    /// What a host may still claim as a debt of a key: what each of its orders left unpaid, less
    /// what later ones paid of it; and what was paid so lately that the host need not know. An
    /// entry that brought nothing pays no other order. Msat.
    pub fn claimable(&self, host: NodeIx, key: &NodeKey, now_ms: u64) -> u64 {
        let signed = self.signed.get(&(host, *key)).into_iter().flatten();
        let ours = signed.filter_map(|digest| self.orders.get(digest));
        let (left, taken_up) = ours.fold((0u64, 0u64), |(left, taken_up), book| {
            let value = book.value();
            let over = book.settled.saturating_sub(value).min(book.carried);
            (left + value.saturating_sub(book.settled), taken_up + over)
        });
        let lately = self.keys.get(&(host, *key)).map_or(0, |book| {
            let known = now_ms.saturating_sub(book.last_ms) >= BOOKED_MS;
            if known { 0 } else { book.lately }
        });
        left.saturating_sub(taken_up) + lately
    }

    /// The order that a hash pays.
    pub fn paid_by(&self, hash: &PaymentHash) -> Option<(&Digest, &OrderBook)> {
        self.orders.get_key_value(&self.hashes.get(hash)?.0)
    }

    /// Follows what is seen.
    pub fn see(&mut self, now_ms: u64, seen: &Seen<'_>) {
        match seen {
            Seen::Arrived {
                from,
                to,
                stream,
                peer,
                frame,
            } => self.arrived(now_ms, (*from, *to), (*stream, *peer), frame),
            Seen::Performed {
                node,
                effect: AnyEffect::Inference(Effect::StartEngine { order, .. }),
                ..
            } => self.begins(now_ms, *node, order),
            Seen::Handed {
                node,
                delivery: Delivery::Inference(Input::EngineFailed { order, .. }),
            } => self.fails(*node, order),
            // Also into a stream that is gone, which a host does not know yet.
            Seen::Performed {
                effect: AnyEffect::Inference(Effect::Send { stream, frame }),
                ..
            } => {
                if let Frame::Chunk(chunk) = frame.as_ref() {
                    self.sent(now_ms, *stream, chunk.tokens.len() as u64);
                }
            }
            Seen::Sent { stream, frame, .. } => self.invoices(*stream, frame),
            Seen::Settled {
                hash, msat, fee, ..
            } => {
                self.settled.insert(*hash);
                if let Some((order, _)) = self.hashes.get(hash)
                    && let Some(book) = self.orders.get_mut(order)
                {
                    book.settled += msat;
                    book.fees += fee;
                    let key = self.keys.entry((book.host, book.key)).or_default();
                    key.paid += msat;
                    let lately = now_ms.saturating_sub(key.last_ms) < BOOKED_MS;
                    key.lately = if lately { key.lately + msat } else { *msat };
                    key.last_ms = now_ms;
                }
            }
            Seen::Wished { node, wish } => {
                self.wishes.insert((*node, wish.request), wish.max_cost.0);
            }
            Seen::Emitted { node, effect, .. } => {
                if let Some(Message::Bind { request, order, .. }) = effect.tell()
                    && let Some(cap) = self.wishes.get(&(*node, *request))
                {
                    self.caps.insert((*node, *order), *cap);
                }
            }
            Seen::Crashed { node } => self.forgive(now_ms, *node),
            Seen::PayFailed { hash, .. } => {
                self.failed.insert(*hash);
            }
            _ => {}
        }
    }

    /// A host that crashes under an order forgives what it left unpaid: the buyer cannot know.
    fn forgive(&mut self, now_ms: u64, host: NodeIx) {
        let recent = |book: &OrderBook| book.last_ms + UNDER_WAY_MS > now_ms;
        let digests = self.of_node.get(&host).into_iter().flatten();
        for book in digests.filter_map(|digest| self.orders.get(digest)) {
            if book.host == host && book.began && !book.agreed && recent(book) {
                let unpaid = book.value().saturating_sub(book.settled);
                let key = self.keys.entry((host, book.key)).or_default();
                key.value = key.value.saturating_sub(unpaid);
            }
        }
    }

    /// The order of that id at a host.
    pub fn at(&self, host: NodeIx, order: &OrderId) -> Option<&OrderBook> {
        let (_, book) = self.orders.range(first(order)..).next()?;
        (book.id == *order && book.host == host).then_some(book)
    }

    fn at_mut(&mut self, host: NodeIx, order: &OrderId) -> Option<&mut OrderBook> {
        let (_, book) = self.orders.range_mut(first(order)..).next()?;
        (book.id == *order && book.host == host).then_some(book)
    }

    fn begins(&mut self, now_ms: u64, host: NodeIx, order: &OrderId) {
        let Some(book) = self.at_mut(host, order) else {
            return;
        };
        let before = book.value();
        book.began = true;
        book.last_ms = now_ms;
        let (key, more) = (book.key, book.value().saturating_sub(before));
        self.keys.entry((host, key)).or_default().value += more;
    }

    /// An engine that fails before its first output gave nothing.
    fn fails(&mut self, host: NodeIx, order: &OrderId) {
        let Some(book) = self.at_mut(host, order).filter(|book| book.chunks == 0) else {
            return;
        };
        let (key, value) = (book.key, book.value());
        book.began = false;
        let key = self.keys.entry((host, key)).or_default();
        key.value = key.value.saturating_sub(value);
    }

    fn sent(&mut self, now_ms: u64, stream: StreamId, units: u64) {
        let order = self.streams.get(&stream);
        let Some(book) = order.and_then(|order| self.orders.get_mut(order)) else {
            return;
        };
        let before = book.value();
        book.sent += units;
        book.chunks += 1;
        book.last_ms = now_ms;
        let more = book.value().saturating_sub(before);
        self.keys.entry((book.host, book.key)).or_default().value += more;
    }

    fn arrived(
        &mut self,
        now_ms: u64,
        (from, to): (NodeIx, NodeIx),
        (stream, peer): (StreamId, StreamId),
        frame: &Frame,
    ) {
        match frame {
            Frame::Order(signed) => {
                let (Some(order), Some(envelope)) = (body::<Order>(signed), envelope(signed))
                else {
                    return;
                };
                let digest = signed.digest();
                self.streams.insert(stream, digest);
                self.streams.insert(peer, digest);
                if !self.orders.contains_key(&digest) {
                    let signed = self.signed.entry((to, envelope.from)).or_default();
                    signed.push(digest);
                    for node in [from, to] {
                        self.of_node.entry(node).or_default().insert(digest);
                    }
                }
                // Who replays somebody's order is not its buyer.
                let book = self.orders.entry(digest).or_insert_with(|| OrderBook {
                    id: OrderId::of(&digest),
                    key: envelope.from,
                    buyer: from,
                    host: to,
                    salt: order.salt,
                    model: order.model,
                    meter: order.job.meter(),
                    mode: order.mode,
                    ordered: order.job.most_delivered(),
                    max_cost: order.max_cost.0,
                    counted: engine::count(&order.job, &order.salt).tokens,
                    input: Counts::default(),
                    prices: Prices::default(),
                    carried: 0,
                    came_ms: now_ms,
                    terms: false,
                    agreed: false,
                    sent: 0,
                    began: false,
                    chunks: 0,
                    last_ms: 0,
                    delivered: 0,
                    finished: false,
                    covered: None,
                    settled: 0,
                    fees: 0,
                    hashes: BTreeMap::new(),
                });
                book.came_ms = now_ms;
            }
            Frame::Chunk(chunk) => {
                if let Some(book) = self
                    .streams
                    .get(&stream)
                    .and_then(|order| self.orders.get_mut(order))
                {
                    book.delivered += chunk.tokens.len() as u64;
                    book.finished |= chunk.finish.is_some();
                }
            }
            Frame::Countersigned(_) => {
                if let Some(id) = self.streams.get(&stream)
                    && let Some(book) = self.orders.get_mut(id)
                {
                    book.agreed = true;
                }
            }
            frame => {
                self.covers(stream, frame);
                self.invoices(stream, frame);
            }
        }
    }

    /// An invoice reached the buyer, which can show what it covers.
    fn covers(&mut self, stream: StreamId, frame: &Frame) {
        if let Frame::Invoice(signed) = frame
            && let Some(invoice) = body::<Invoice>(signed)
            && let Some(id) = self.streams.get(&stream)
            && let Some(book) = self.orders.get_mut(id)
        {
            book.covered = book.covered.max(Some(invoice.covers.delivered()));
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
                book.input = terms.input;
                book.carried = terms.carried_debt.0;
                let listed = self.listed.get(&(book.host, book.model));
                book.prices = within(&terms.prices, listed.map_or(&[], Vec::as_slice));
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

/// The prices of terms, none of them above the dearest listing there ever was.
fn within(terms: &Prices, listed: &[Prices]) -> Prices {
    let mut prices = terms.clone();
    for price in &mut prices.0 {
        let dearest = listed.iter().map(|one| one.of(price.meter)).max();
        price.msat_per_million = price.msat_per_million.min(dearest.unwrap_or(0));
    }
    prices
}
