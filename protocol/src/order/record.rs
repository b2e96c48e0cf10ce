//! An order on disk: what must survive a crash, and the evidence afterwards.
//!
//! Not the books: those are Payment's. Written by the order machines through
//! [`Journal`], read back by the inference machine at start.
//!
//! # Tables
//! | table | key | value |
//! |---|---|---|
//! | `OpenOrders` | side, id, 0 | [`OrderRecord`] as it was when the order began |
//! | `OpenOrders` | side, id, n > 0 | [`OpenPart`]: what was added since |
//! | `OpenOrders` | side, id, 2^32-1 | [`Closing`]: over, and Payment has not said that it knows |
//! | `Orders` | side, id | [`OrderRecord`] of an order that is over |
//! | `Retained` | day, side, id | bytes of that record: what [`Retained`] deletes by |
//!
//! A start reads `OpenOrders` and `Retained`, never `Orders`. Each part is written once,
//! so an answer of n invoices writes O(n) bytes.

#[cfg(test)]
mod tests;

use crate::ids::{Digest, ModelDigest, NodeKey, OrderId};
use crate::machine::{Record, Table};
use crate::message::inference::OrderAccount;
use crate::message::payment::Side;
use crate::money::{Counts, Msat};
use crate::refusal::Code;
use crate::time::WallTime;
use crate::wire::chain::ChainedToken;
use crate::wire::envelope::Signed;
use crate::wire::order::{Invoice, Order, Status, Terms};
use crate::{codec, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One order, as far as its side needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRecord {
    /// Our side.
    pub side: Side,
    /// The other side.
    pub counterparty: NodeKey,
    /// The model.
    pub model: ModelDigest,
    /// Digest of the signed order.
    pub digest: Digest,
    /// The signed order; `None` on the side of a host that promised to forget it.
    pub order: Option<Signed>,
    /// The signed terms.
    pub terms: Option<Signed>,
    /// Tokens so far (buyer side; the host can produce them again).
    pub tokens: Vec<ChainedToken>,
    /// Signed invoices, oldest first.
    pub invoices: Vec<Signed>,
    /// Signed `Paid` frames (host side).
    pub paid: Vec<Signed>,
    /// The signed receipt.
    pub receipt: Option<Signed>,
    /// The buyer's countersignature.
    pub countersigned: Option<Signed>,
    /// Totals delivered.
    pub counts: Counts,
    /// Their cost.
    pub cost: Msat,
    /// Debt of earlier orders that this one took up.
    pub carried: Msat,
    /// `None`: still running when it was written.
    pub status: Option<Status>,
    /// When it began.
    pub started: WallTime,
}

/// What was added to an open order since it was written last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPart {
    /// Tokens (buyer side).
    pub tokens: Vec<ChainedToken>,
    /// Signed invoices.
    pub invoices: Vec<Signed>,
    /// Totals delivered by then.
    pub counts: Counts,
    /// Their cost.
    pub cost: Msat,
}

/// What Payment is told of an order that is over, until it says that it knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// The account.
    pub account: OrderAccount,
    /// What the buyer owes (host side).
    pub unpaid: Msat,
}

/// Last part of the key of a [`Closing`].
const CLOSING: u32 = u32::MAX;

/// Bytes that a stored order may have: the bundle's limit.
const MAX_RECORD_BYTES: usize = limits::MAX_AUDIT_FRAME_BYTES;

fn prefix(side: Side, id: &OrderId) -> Vec<u8> {
    let side = match side {
        Side::Buyer => 0u8,
        Side::Host => 1u8,
    };
    [&[side][..], &id.0].concat()
}

fn open_key(side: Side, id: &OrderId, part: u32) -> Vec<u8> {
    [prefix(side, id), part.to_be_bytes().to_vec()].concat()
}

fn write(table: Table, key: Vec<u8>, value: Vec<u8>) -> Record {
    Record {
        table,
        key,
        value: Some(value),
    }
}

fn delete(table: Table, key: Vec<u8>) -> Record {
    Record {
        table,
        key,
        value: None,
    }
}

/// Key of a finished order in [`Table::Orders`].
pub fn order_key(side: Side, id: &OrderId) -> Vec<u8> {
    prefix(side, id)
}

impl OrderRecord {
    /// Reads a finished order back from [`Table::Orders`].
    pub fn decode(value: &[u8]) -> Option<OrderRecord> {
        codec::decode(value, MAX_RECORD_BYTES).ok()
    }

    /// The order's id.
    pub fn id(&self) -> OrderId {
        OrderId::of(&self.digest)
    }

    /// A body as it was written down: it was verified then.
    fn body<T: serde::de::DeserializeOwned>(signed: &Signed) -> Option<T> {
        let limit = limits::MAX_ORDER_FRAME_BYTES;
        let envelope: crate::wire::envelope::Envelope = codec::decode(&signed.bytes, limit).ok()?;
        codec::decode(&envelope.body, limit).ok()
    }

    /// What the host of an order that a crash ended may have delivered beyond what its
    /// buyer wrote down, at most: see [`Terms::most_under_way`].
    pub fn unsure(&self) -> Msat {
        let order = self.order.as_ref().and_then(Self::body::<Order>);
        let terms = self.terms.as_ref().and_then(Self::body::<Terms>);
        let (Side::Buyer, Some(order), Some(terms)) = (self.side, order, terms) else {
            return Msat::ZERO;
        };
        let invoices: Vec<Invoice> = self.invoices.iter().filter_map(Self::body).collect();
        let window = invoices.last().map_or(terms.window, |last| last.window);
        // Payments that may have been settled since, each of which widens the window by its
        // own amount at most, and one invoice that was not written down any more.
        let in_flight = invoices.iter().rev().take(limits::MAX_PAYMENTS_IN_FLIGHT);
        let entry = terms.entry.as_ref().map_or(Msat::ZERO, |entry| entry.msat);
        let grown = in_flight
            .map(|invoice| invoice.msat)
            .fold(entry.max(terms.quantum), Msat::saturating_add);
        terms.most_under_way(&order.job, &self.counts, window.saturating_add(grown))
    }

    /// Returns what Payment is told of the order; one that was still running was interrupted.
    pub fn account(&self) -> OrderAccount {
        OrderAccount {
            order: self.id(),
            side: self.side,
            counterparty: self.counterparty,
            model: self.model,
            counts: self.counts,
            cost: self.cost,
            carried: self.carried,
            unsure: Msat::ZERO,
            status: self.status.unwrap_or(Status::Failed(Code::Interrupted)),
            receipt: self.receipt.as_ref().map(Signed::digest),
        }
    }

    /// Returns the evidence for a third party, once there are terms.
    pub fn bundle(self) -> Option<crate::wire::bundle::Bundle> {
        Some(crate::wire::bundle::Bundle {
            order: self.order?,
            terms: self.terms?,
            tokens: self.tokens,
            invoices: self.invoices,
            receipt: self.receipt,
            countersigned: self.countersigned,
        })
    }
}

/// Where an open order stands on disk.
#[derive(Debug)]
pub struct Journal {
    side: Side,
    id: OrderId,
    /// Rows written; 0: nothing is on disk.
    rows: u32,
    tokens: usize,
    invoices: usize,
}

impl Journal {
    /// An order of which nothing is on disk.
    pub fn new(side: Side, id: OrderId) -> Self {
        Journal {
            side,
            id,
            rows: 0,
            tokens: 0,
            invoices: 0,
        }
    }

    /// Whether anything is on disk.
    pub fn is_open(&self) -> bool {
        self.rows > 0
    }

    /// Writes an order for the first time.
    pub fn begin(&mut self, record: &OrderRecord) -> Vec<Record> {
        let key = open_key(self.side, &self.id, 0);
        self.wrote(record.tokens.len(), record.invoices.len());
        vec![write(Table::OpenOrders, key, codec::encode(record))]
    }

    /// Writes what is new in an order that was begun.
    pub fn add(
        &mut self,
        tokens: &[ChainedToken],
        invoices: &[Signed],
        counts: Counts,
        cost: Msat,
    ) -> Vec<Record> {
        let key = open_key(self.side, &self.id, self.rows);
        let part = OpenPart {
            tokens: tokens.get(self.tokens..).unwrap_or_default().to_vec(),
            invoices: invoices.get(self.invoices..).unwrap_or_default().to_vec(),
            counts,
            cost,
        };
        self.wrote(tokens.len(), invoices.len());
        vec![write(Table::OpenOrders, key, codec::encode(&part))]
    }

    fn wrote(&mut self, tokens: usize, invoices: usize) {
        self.rows = self.rows.saturating_add(1);
        self.tokens = tokens;
        self.invoices = invoices;
    }

    /// Ends the order on disk: its rows go, what Payment must be told stays.
    pub fn close(&mut self, closing: &Closing) -> Vec<Record> {
        let mut records: Vec<_> = (0..self.rows)
            .map(|row| delete(Table::OpenOrders, open_key(self.side, &self.id, row)))
            .collect();
        self.rows = 0;
        let key = open_key(self.side, &self.id, CLOSING);
        records.push(write(Table::OpenOrders, key, codec::encode(closing)));
        records
    }
}

/// Payment knows of the end: nothing of the order is open any more.
pub fn closed(side: Side, id: &OrderId) -> Record {
    delete(Table::OpenOrders, open_key(side, id, CLOSING))
}

/// What the disk holds of an order that was open when the node stopped.
#[derive(Debug)]
pub enum Unfinished {
    /// It ran. `rows` are on disk.
    Running {
        /// Everything that was written.
        record: Box<OrderRecord>,
        /// How to end it.
        journal: Journal,
    },
    /// It was over; Payment may not know.
    Closing(Box<Closing>),
}

/// Puts rows of [`Table::OpenOrders`] together, in order of their keys.
#[derive(Debug, Default)]
pub struct Reader {
    orders: BTreeMap<Vec<u8>, Unfinished>,
}

impl Reader {
    /// Takes one row. What does not decode, or does not follow, is passed over.
    pub fn take(&mut self, key: &[u8], value: &[u8]) {
        let Some((order, part)) = key.split_last_chunk::<4>() else {
            return;
        };
        match (u32::from_be_bytes(*part), self.orders.get_mut(order)) {
            (CLOSING, _) => {
                if let Ok(closing) = codec::decode(value, MAX_RECORD_BYTES) {
                    let closing = Unfinished::Closing(Box::new(closing));
                    self.orders.insert(order.to_vec(), closing);
                }
            }
            (0, _) => {
                let Some(record) = OrderRecord::decode(value) else {
                    return;
                };
                let mut journal = Journal::new(record.side, record.id());
                journal.rows = 1;
                let record = Box::new(record);
                let running = Unfinished::Running { record, journal };
                self.orders.insert(order.to_vec(), running);
            }
            (row, Some(Unfinished::Running { record, journal })) => {
                journal.rows = journal.rows.max(row.saturating_add(1));
                if let Ok(part) = codec::decode::<OpenPart>(value, MAX_RECORD_BYTES) {
                    record.tokens.extend(part.tokens);
                    record.invoices.extend(part.invoices);
                    record.counts = part.counts;
                    record.cost = part.cost;
                }
            }
            _ => {}
        }
    }

    /// Everything that was open.
    pub fn finish(self) -> Vec<Unfinished> {
        self.orders.into_values().collect()
    }
}

/// How long evidence is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Days.
    pub days: u32,
    /// Bytes over all orders.
    pub bytes: u64,
}

/// Milliseconds of a day.
const DAY_MS: u64 = 86_400_000;
/// Most orders deleted in one turn, so that a sweep holds nothing up.
const SWEEP_ORDERS: usize = 256;

/// Which finished orders are on disk, oldest first: about 100 bytes of memory each.
#[derive(Debug, Default)]
pub struct Retained {
    orders: BTreeMap<Vec<u8>, u64>,
    bytes: u64,
}

impl Retained {
    /// Takes back one row of [`Table::Retained`].
    pub fn restore(&mut self, key: &[u8], value: &[u8]) {
        if let Ok(bytes) = codec::decode::<u64>(value, 16) {
            self.bytes = self.bytes.saturating_add(bytes);
            self.orders.insert(key.to_vec(), bytes);
        }
    }

    /// Writes a finished order.
    pub fn keep(&mut self, record: &OrderRecord, now: WallTime) -> Vec<Record> {
        let order = prefix(record.side, &record.id());
        let day = u32::try_from(now.0 / DAY_MS).unwrap_or(u32::MAX);
        let key = [day.to_be_bytes().to_vec(), order.clone()].concat();
        let value = codec::encode(record);
        let bytes = value.len() as u64;
        if self.orders.insert(key.clone(), bytes).is_none() {
            self.bytes = self.bytes.saturating_add(bytes);
        }
        vec![
            write(Table::Orders, order, value),
            write(Table::Retained, key, codec::encode(&bytes)),
        ]
    }

    /// Deletes the oldest orders until `keep` holds, some at a time.
    pub fn sweep(&mut self, keep: Keep, now: WallTime) -> Vec<Record> {
        let day = u32::try_from(now.0 / DAY_MS).unwrap_or(u32::MAX);
        let first = day.saturating_sub(keep.days).to_be_bytes();
        let mut records = Vec::new();
        while records.len() < 2 * SWEEP_ORDERS
            && let Some(oldest) = self.orders.first_entry()
            && (self.bytes > keep.bytes || oldest.key().as_slice() < first.as_slice())
        {
            let (key, bytes) = oldest.remove_entry();
            self.bytes = self.bytes.saturating_sub(bytes);
            let order = key.get(4..).unwrap_or_default().to_vec();
            records.push(delete(Table::Orders, order));
            records.push(delete(Table::Retained, key));
        }
        records
    }

    /// Orders on disk.
    pub fn len(&self) -> usize {
        self.orders.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.orders.is_empty()
    }
}
