//! What strangers leave behind at an honest node is bounded: records, nonces, verdicts, invoices.

use super::{Checker, Facts, Seen};
use crate::event::NodeIx;
use protocol::machine::Table;
use protocol::order::wire::Frame;
use std::collections::{BTreeMap, BTreeSet};

/// Records of orders beside those that somebody paid for or that were served on credit.
const ORDERS: usize = 16;
/// Side and id: what the key of an order begins with. Bytes.
const ORDER_KEY: usize = 17;
/// Nonces beside those of orders that came lately and got terms.
const NONCES: usize = 16;
/// A nonce is needed for two windows of five minutes, and cleared away a little later. Milliseconds.
const NONCE_MS: u64 = 1_000_000;
/// A jump of a clock that matters to nonces. Milliseconds.
const CLOCK_MS: u64 = 200_000;
/// Verdicts beside those about orders of its own.
const VERDICTS: usize = 256;
/// Invoices that could still be paid. Each order has at most eight under way.
const INVOICES: usize = 128;

/// The judge.
#[derive(Default)]
pub struct Strangers {
    terms: BTreeMap<NodeIx, Vec<u64>>,
    set: BTreeSet<NodeIx>,
}

impl Checker for Strangers {
    fn name(&self) -> &'static str {
        "strangers-bounded"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        let (node, store, invoices) = match seen {
            Seen::Sent {
                from,
                frame: Frame::Terms(_),
                ..
            } => {
                self.terms.entry(*from).or_default().push(facts.now_ms);
                return None;
            }
            Seen::ClockSet { node, by_ms } => {
                if by_ms.unsigned_abs() > CLOCK_MS {
                    self.set.insert(*node);
                }
                return None;
            }
            Seen::Stored {
                node,
                store,
                invoices,
            } => (*node, *store, *invoices),
            _ => return None,
        };
        if !facts.people.get(node)?.honest() {
            return None;
        }
        let orders = facts.index.orders.values();
        let (mut bought, mut sold) = (0, 0);
        for book in orders {
            let known = |key| facts.index.keys.get(key).is_some_and(|one| one.paid > 0);
            bought += usize::from(book.buyer == node);
            let earned = book.settled > 0 || book.chunks > 0 || known(&(node, book.key));
            sold += usize::from(book.host == node && earned);
        }
        // A clock that jumped keeps nonces of a time that does not come: all of them count.
        let kept = if self.set.contains(&node) {
            u64::MAX
        } else {
            NONCE_MS
        };
        let terms = self.terms.entry(node).or_default();
        terms.retain(|at| at.saturating_add(kept) > facts.now_ms);
        let terms = terms.len();
        let found = [
            (
                "records of orders",
                store.count(Table::Orders) + store.distinct(Table::OpenOrders, ORDER_KEY),
                bought + sold + ORDERS,
            ),
            ("nonces", store.count(Table::Nonces), terms + NONCES),
            ("verdicts", store.count(Table::Verdicts), bought + VERDICTS),
            ("invoices that can be paid", invoices, INVOICES),
        ];
        let (what, count, most) = found.into_iter().find(|(_, count, most)| count > most)?;
        Some(format!("node {node} keeps {count} {what}, {most} at most"))
    }
}
