//! What must happen in the end: every purchase has an end, and everybody honest is served.

use super::{Checker, Facts, Seen};

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
pub struct Answers;

impl Checker for Answers {
    fn name(&self) -> &'static str {
        "all-served"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        match seen {
            Seen::Served {
                node,
                answered: false,
                why,
            } if facts.people.get(*node)?.honest() => Some(format!(
                "node {node} got no answer although all faults had ended: {why}"
            )),
            _ => None,
        }
    }
}
