//! What strangers leave behind at an honest node is bounded: records, nonces, verdicts, invoices.
//!
//! Each bound is counted from what the node let in, by the constants of [`protocol::limits`] and
//! of its order machine: a nonce for each order that was paid for or had credit, in the time in
//! which its envelope could come again; a payable invoice for each order that was counted, in the
//! life of an entry, and as many as may be under way for each that had output, in the life of an
//! invoice. What one peer and one address may have is bounded beside it, see `callers`.

use super::callers::Callers;
use super::{Checker, Facts, Seen};
use crate::event::NodeIx;
use crate::node::{AnyEffect, NETWORK};
use protocol::inference::Config;
use protocol::limits;
use protocol::machine::Table;
use protocol::message::inference::Effect;
use protocol::message::validator::AGREEING;
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
/// The judge.
#[derive(Default)]
pub struct Strangers {
    callers: Callers,
    /// When a node had orders counted.
    admitted: BTreeMap<NodeIx, Vec<u64>>,
    set: BTreeSet<NodeIx>,
}

impl Checker for Strangers {
    fn name(&self) -> &'static str {
        "strangers-bounded"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        if let Some(what) = self.callers.see(facts, seen) {
            return Some(what);
        }
        let (node, store, invoices) = match seen {
            Seen::Emitted {
                node,
                effect: AnyEffect::Inference(Effect::CountPrompt { .. }),
                ..
            } => {
                let admitted = self.admitted.entry(*node).or_default();
                admitted.push(facts.now_ms);
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
        facts.participants.get(node).filter(|one| one.honest())?;
        // A clock that was set keeps what is of a time that does not come: all of it counts.
        let since = |ms: u64| match self.set.contains(&node) {
            true => 0,
            false => facts.now_ms.saturating_sub(ms),
        };
        let config = Config::new(NETWORK);
        let life = |seconds: u32| since(u64::from(seconds) * 1_000 + CLOCK_MS);
        let (entries, streams) = (life(config.entry_expiry_s), life(config.invoice_expiry_s));
        let again = since(NONCE_MS);
        let (mut bought, mut sold, mut under_way, mut taken) = (0, 0, 0, 0);
        for (_, book) in facts.index.of_node(node) {
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
        let admitted = |from: u64| admitted.iter().filter(|at| **at >= from).count();
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
        ];
        let (what, count, most) = found.into_iter().find(|(_, count, most)| count > most)?;
        Some(format!("node {node} keeps {count} {what}, {most} at most"))
    }
}
