//! An honest host keeps its customers: in the end no honest node shuns it.
//!
//! But one that was paid for something and did not serve it, or broke off before it signed for what
//! it served, whatever the cause, may be left alone by that customer: twice in a row is an hour. And
//! who cannot replay an answer has nothing but others' words: where it asked three validators about
//! one answer and all three lied, it shuns.

use super::index::body;
use super::{Checker, Facts, Seen};
use crate::event::NodeIx;
use crate::node::AnyEffect;
use protocol::ids::{NodeKey, OrderId};
use protocol::message::validator::Effect;
use protocol::wire::bundle::{AuditFrame, Verdict};
use std::collections::{BTreeMap, BTreeSet};

/// Paid orders of one customer, without all that was paid for, that explain a long rest.
pub(super) const UNSERVED: usize = 2;

/// Liars that must all have been asked about one answer.
const LIARS: usize = 3;

/// The judge.
#[derive(Default)]
pub struct Customers {
    /// Dishonest validators that convicted over an order of a host.
    lied: BTreeMap<(NodeKey, OrderId), BTreeSet<NodeIx>>,
}

impl Customers {
    /// A validator says what it found.
    fn said(&mut self, facts: &Facts, node: NodeIx, frame: &AuditFrame) {
        let AuditFrame::Verdict(signed) = frame else {
            return;
        };
        let honest = facts.participants.get(node).is_none_or(|one| one.honest());
        match body::<Verdict>(signed) {
            Some(verdict) if verdict.finding.convicts() && !honest => {
                let about = (verdict.host, verdict.id);
                self.lied.entry(about).or_default().insert(node);
            }
            _ => {}
        }
    }

    fn deceived(&self, facts: &Facts, buyer: NodeIx, host: NodeIx) -> bool {
        let key = facts.participants[host].key;
        facts.index.of_node(buyer).any(|(_, book)| {
            let lied = self.lied.get(&(key, book.id)).map_or(0, BTreeSet::len);
            (book.buyer, book.host) == (buyer, host) && lied >= LIARS
        })
    }
}

/// Orders between the two that were paid, and whose payment nothing that the host signed covers.
pub(super) fn unserved(facts: &Facts, buyer: NodeIx, host: NodeIx) -> usize {
    let orders = facts.index.of_node(buyer);
    let between = orders.filter(|(_, book)| (book.buyer, book.host) == (buyer, host));
    between
        .filter(|(_, book)| book.settled > book.vouched() + book.carried)
        .count()
}

impl Checker for Customers {
    fn name(&self) -> &'static str {
        "customers-kept"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        let (node, shunned) = match seen {
            Seen::Emitted {
                node,
                effect: AnyEffect::Validator(Effect::Answer { frame, .. }),
                ..
            } => {
                self.said(facts, *node, frame);
                return None;
            }
            Seen::Knows { node, shunned, .. } => (node, shunned),
            _ => return None,
        };
        if !facts.participants.get(*node)?.honest() {
            return None;
        }
        let mut hosts = shunned.iter().filter_map(|key| facts.by_key(key));
        let host = hosts.find(|host| {
            facts.participants[*host].honest()
                && unserved(facts, *node, *host) < UNSERVED
                && !self.deceived(facts, *node, *host)
        })?;
        Some(format!("node {node} shuns honest host {host}"))
    }
}
