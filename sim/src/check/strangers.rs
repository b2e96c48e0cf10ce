//! What strangers leave behind at an honest node is bounded: records, nonces, verdicts, invoices.
//!
//! Each bound is counted from what the node let in, by the constants of [`protocol::limits`] and
//! of its order machine: a nonce for each order that was paid for or had credit, in the time in
//! which its envelope could come again; a payable invoice for each order that was counted, in the
//! life of an entry, and as many as may be under way for each that had output, in the life of an
//! invoice. How many orders one peer may have counted without paying is a bound of its own.

use super::{Checker, Facts, Seen};
use crate::event::NodeIx;
use crate::node::{AnyEffect, NETWORK};
use protocol::ids::NodeKey;
use protocol::inference::context::Config;
use protocol::inference::io::Effect;
use protocol::limits;
use protocol::machine::Table;
use protocol::reputation::io::AGREEING;
use std::collections::{BTreeMap, BTreeSet};

/// Records of orders beside those that somebody paid for or that were served on credit.
const ORDERS: usize = 16;
/// Side and id: what the key of an order begins with. Bytes.
const ORDER_KEY: usize = 17;
/// A jump of a clock that matters; smaller ones lengthen what is counted. Milliseconds.
const CLOCK_MS: u64 = 200_000;
/// An envelope from the future stays acceptable for two windows; then a sweep takes its nonce.
const NONCE_MS: u64 = 2 * limits::ENVELOPE_WINDOW_MS + 2 * limits::ORDER_SWEEP_MS + CLOCK_MS;
/// Verdicts beside those about orders of its own.
const VERDICTS: usize = 256;
/// Verdicts about one order of its own: what the node found, and what it is told by others.
const OWN_VERDICTS: usize = 1 + AGREEING;
/// A span between two sweeps may begin in one and end in the next.
const UNPAID_PER_PEER: usize =
    2 * limits::MAX_VOID_PER_MINUTE as usize + limits::MAX_UNPAID_PER_PEER;

/// The judge.
#[derive(Default)]
pub struct Strangers {
    /// Orders that a node had counted: when, and who signed them.
    admitted: BTreeMap<NodeIx, Vec<(u64, NodeKey)>>,
    set: BTreeSet<NodeIx>,
}

impl Strangers {
    /// The most orders of one peer that nobody paid for, let in since `from`.
    fn unpaid_of_one(&self, facts: &Facts, node: NodeIx, from: u64) -> usize {
        let mut of: BTreeMap<NodeIx, usize> = BTreeMap::new();
        let admitted = self.admitted.get(&node).into_iter().flatten();
        for (_, key) in admitted.filter(|(at, _)| *at >= from) {
            let paid = facts.index.keys.get(&(node, *key));
            if paid.is_some_and(|book| book.paid > 0 || book.value > 0) {
                continue;
            }
            let mut orders = facts.index.orders.values();
            let order = orders.find(|book| book.host == node && book.key == *key);
            if let Some(order) = order {
                *of.entry(order.buyer).or_default() += 1;
            }
        }
        of.into_values().max().unwrap_or(0)
    }
}

impl Checker for Strangers {
    fn name(&self) -> &'static str {
        "strangers-bounded"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        let (node, store, invoices) = match seen {
            Seen::Emitted {
                node,
                effect: AnyEffect::Inference(Effect::CountPrompt { buyer, .. }),
                ..
            } => {
                let admitted = self.admitted.entry(*node).or_default();
                admitted.push((facts.now_ms, *buyer));
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
        let person = facts.people.get(node).filter(|one| one.honest())?;
        // A clock that was set keeps what is of a time that does not come: all of it counts.
        let since = |ms: u64| match self.set.contains(&node) {
            true => 0,
            false => facts.now_ms.saturating_sub(ms),
        };
        let orders = Config::new(NETWORK);
        let life = |seconds: u32| since(u64::from(seconds) * 1_000 + CLOCK_MS);
        let (entries, streams) = (life(orders.entry_expiry_s), life(orders.invoice_expiry_s));
        let again = since(NONCE_MS);
        let (mut bought, mut sold, mut under_way, mut taken) = (0, 0, 0, 0);
        for book in facts.index.orders.values() {
            let known = |key| facts.index.keys.get(key).is_some_and(|one| one.paid > 0);
            bought += usize::from(book.buyer == node);
            let earned = book.settled > 0 || book.chunks > 0 || known(&(node, book.key));
            sold += usize::from(book.host == node && earned);
            let ran = book.host == node && book.chunks > 0 && book.last_ms >= streams;
            under_way += usize::from(ran);
            let on_credit = book.terms && !book.hashes.contains_key(&0);
            let stands = book.settled > 0 || book.began || on_credit;
            taken += usize::from(book.host == node && book.came_ms >= again && stands);
        }
        let admitted = self.admitted.get(&node).map_or(&[][..], Vec::as_slice);
        let admitted = |from: u64| admitted.iter().filter(|(at, _)| *at >= from).count();
        let minute = facts.now_ms.saturating_sub(limits::ORDER_SWEEP_MS);
        // A fresh key with a free quota is no unpaid order.
        let unpaid = match person.limits.free_quota.0 {
            0 => self.unpaid_of_one(facts, node, minute),
            _ => 0,
        };
        let found = [
            (
                "records of orders",
                store.count(Table::Orders) + store.distinct(Table::OpenOrders, ORDER_KEY),
                bought + sold + ORDERS,
            ),
            ("nonces", store.count(Table::Nonces), taken),
            (
                "verdicts",
                store.count(Table::Verdicts),
                OWN_VERDICTS * bought + VERDICTS,
            ),
            (
                "invoices that can be paid",
                invoices,
                admitted(entries) + under_way * limits::MAX_PAYMENTS_IN_FLIGHT,
            ),
            (
                "orders of one peer and minute that nobody paid for",
                unpaid,
                UNPAID_PER_PEER,
            ),
        ];
        let (what, count, most) = found.into_iter().find(|(_, count, most)| count > most)?;
        Some(format!("node {node} keeps {count} {what}, {most} at most"))
    }
}
