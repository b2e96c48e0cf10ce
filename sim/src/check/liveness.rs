//! What must happen in the end: every purchase has an end, and everybody honest is served.

use super::customers::{UNSERVED, unserved};
use super::{Checker, Facts, Seen};
use crate::event::NodeIx;
use protocol::ids::NodeKey;
use std::collections::BTreeSet;

/// The judge of endless purchases.
pub struct Ends;

impl Checker for Ends {
    fn name(&self) -> &'static str {
        "purchases-end"
    }

    fn see(&mut self, _facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        match seen {
            Seen::Bought {
                node,
                request,
                purchase,
            } if purchase.end.is_none() => {
                let since_s = purchase.since / 1_000 / crate::dice::MS;
                Some(format!(
                    "purchase {} of node {node}, begun at {since_s} s, never ended",
                    request.0
                ))
            }
            _ => None,
        }
    }
}

/// The judge of answers after healing.
///
/// A node that paid every honest host twice for what did not come has nobody left for an hour.
#[derive(Default)]
pub struct Answers {
    hosts: BTreeSet<NodeKey>,
}

impl Answers {
    fn has_a_host(&self, facts: &Facts, node: NodeIx) -> bool {
        let mut hosts = self.hosts.iter().filter_map(|key| facts.by_key(key));
        hosts.any(|host| {
            host != node
                && facts.participants[host].honest()
                && unserved(facts, node, host) < UNSERVED
        })
    }
}

impl Checker for Answers {
    fn name(&self) -> &'static str {
        "all-served"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        match seen {
            Seen::Knows { expected, .. } => {
                self.hosts = expected.iter().copied().collect();
                None
            }
            Seen::Served {
                node,
                answered: false,
                why,
            } if facts.participants.get(*node)?.honest() && self.has_a_host(facts, *node) => Some(
                format!("node {node} got no answer although all faults had ended: {why}"),
            ),
            _ => None,
        }
    }
}
