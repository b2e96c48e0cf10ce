//! Bounds are never exceeded: slots, mailboxes, candidates, evidence.

use super::{Checker, Facts, Seen};
use protocol::message::sibling::Message;

/// Inputs that may wait for one machine, as the driver has it.
const MAILBOX: usize = 16_384;
/// Candidates for one order.
const CANDIDATES: usize = 32;
/// Bytes of one invoice that a buyer keeps: a BOLT 11 string, odd records, and the rest.
const INVOICE: usize = 12 << 10;
/// Invoices of one order.
const INVOICES: usize = 4_096;

/// The judge.
pub struct Bounds;

impl Checker for Bounds {
    fn name(&self) -> &'static str {
        "bounds-kept"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        match seen {
            Seen::Running { node, model, count } => {
                let served = &facts.participants.get(*node)?.served;
                let slots = served
                    .iter()
                    .find(|one| one.offer.digest == *model)
                    .map_or(0, |one| one.limits.concurrent_orders as usize);
                (*count > slots)
                    .then(|| format!("host {node} runs {count} orders of a model in {slots} slots"))
            }
            Seen::Mail { node, count } if *count > MAILBOX => {
                Some(format!("a mailbox of node {node} holds {count} inputs"))
            }
            Seen::Emitted { node, effect, .. } => match effect.tell() {
                Some(Message::CandidatesFound { hosts, .. }) if hosts.len() > CANDIDATES => {
                    Some(format!("node {node} considers {} candidates", hosts.len()))
                }
                Some(Message::OrderEnded(evidence)) => {
                    let invoices = &evidence.bundle.invoices;
                    let longest = invoices.iter().map(|one| one.bytes.len()).max();
                    let count = invoices.len();
                    (longest.unwrap_or(0) > INVOICE || count > INVOICES).then(|| {
                        format!("node {node} keeps {count} invoices, the longest {longest:?} bytes")
                    })
                }
                _ => None,
            },
            _ => None,
        }
    }
}
