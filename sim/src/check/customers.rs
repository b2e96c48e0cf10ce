//! An honest host keeps its customers: in the end no honest node shuns it.
//!
//! But one that was paid for something and did not serve it, or broke off before it signed for what
//! it served, whatever the cause, may be left alone
//! by that customer: twice in a row is an hour.

use super::{Checker, Facts, Seen};
use crate::event::NodeIx;

/// Paid orders of one customer, without all that was paid for, that explain a long rest.
const UNSERVED: usize = 2;

/// The judge.
pub struct Customers;

fn unserved(facts: &Facts, buyer: NodeIx, host: NodeIx) -> usize {
    let orders = facts.index.orders.values();
    let between = orders.filter(|book| (book.buyer, book.host) == (buyer, host));
    between
        .filter(|book| book.settled > book.vouched() + book.carried)
        .count()
}

impl Checker for Customers {
    fn name(&self) -> &'static str {
        "customers-kept"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        let Seen::Knows { node, shunned, .. } = seen else {
            return None;
        };
        if !facts.people.get(*node)?.honest() {
            return None;
        }
        let mut hosts = shunned.iter().filter_map(|key| facts.by_key(key));
        let host = hosts.find(|host| {
            facts.people[*host].honest() && unserved(facts, *node, *host) < UNSERVED
        })?;
        Some(format!("node {node} shuns honest host {host}"))
    }
}
