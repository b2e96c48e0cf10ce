//! Bounds are never exceeded: slots, mailboxes, candidates.

use super::{Checker, Facts, Seen};
use protocol::route::Message;

/// Inputs that may wait for one machine, as the driver has it.
const MAILBOX: usize = 16_384;
/// Candidates for one order.
const CANDIDATES: usize = 32;

/// The judge.
pub struct Bounds;

impl Checker for Bounds {
    fn name(&self) -> &'static str {
        "bounds-kept"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        match seen {
            Seen::Running { node, model, count } => {
                let served = &facts.people.get(*node)?.served;
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
                _ => None,
            },
            _ => None,
        }
    }
}
