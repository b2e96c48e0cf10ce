//! Listings: nobody is offered a host whose listing is dead, and in the end everybody knows everybody.

use super::{Checker, Facts, Seen};
use crate::event::NodeIx;
use protocol::ids::NodeKey;
use protocol::message::sibling::Message;
use std::collections::BTreeMap;

/// Candidates wait for their scores this long at most. Milliseconds.
const SCORES_MS: u64 = 3_000;

/// The judge of ghosts.
#[derive(Default)]
pub struct Ghosts {
    lives: BTreeMap<NodeKey, u64>,
    set: BTreeMap<NodeIx, u64>,
}

impl Checker for Ghosts {
    fn name(&self) -> &'static str {
        "no-ghosts"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        match seen {
            Seen::Listed { author, expires } => {
                let life = self.lives.entry(*author).or_default();
                *life = (*life).max(expires.0);
                None
            }
            Seen::ClockSet { node, .. } => {
                self.set.insert(*node, facts.now_ms);
                None
            }
            Seen::Emitted { node, wall, effect } => {
                // Its clock was another when the listings were looked through.
                let set = self.set.get(node).copied();
                if set.is_some_and(|set| set + SCORES_MS >= facts.now_ms) {
                    return None;
                }
                let Some(Message::CandidatesFound { hosts, .. }) = effect.tell() else {
                    return None;
                };
                let dead = hosts.iter().find(|host| {
                    self.lives
                        .get(&host.host)
                        .is_none_or(|life| life + SCORES_MS < wall.0)
                })?;
                let who = facts.by_key(&dead.host);
                Some(format!(
                    "node {node} is offered host {who:?}, whose last listing expired"
                ))
            }
            _ => None,
        }
    }
}

/// The judge of convergence.
pub struct Converges;

impl Checker for Converges {
    fn name(&self) -> &'static str {
        "market-converges"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        let Seen::Knows {
            node,
            hosts,
            expected,
            ..
        } = seen
        else {
            return None;
        };
        let missing = expected
            .iter()
            .find(|key| hosts.binary_search(key).is_err())?;
        Some(format!(
            "node {node} does not know of live host {:?}",
            facts.by_key(missing)
        ))
    }
}
