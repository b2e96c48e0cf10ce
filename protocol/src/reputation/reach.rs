//! Dials that nobody answered: whose fault they are.
//!
//! Not history: nothing here is stored. A node without a network reaches no host, and
//! that is no host's fault. So an unanswered dial is entered in the book only where another
//! host was reached less than [`CONTACT_MS`] before or after it. Until any host is reached
//! it weighs in the scores as if it were entered: the same silent hosts are not dialled
//! first for ever. What is older than that at the next contact is forgiven.

use crate::ids::{NodeKey, OrderId};
use crate::time::{Now, Tick, WallTime};

/// How near to an unanswered dial another host must have been reached. Milliseconds.
const CONTACT_MS: u64 = 60_000;
/// Most unanswered dials remembered; the oldest is dropped. A minute of one purchase after
/// the other, each with a handful of candidates.
const MAX_DIALS: usize = 64;

/// An unanswered dial.
#[derive(Debug)]
struct Dial {
    host: NodeKey,
    order: Option<OrderId>,
    at: Now,
    /// Entered in the book, or forgiven.
    done: bool,
}

/// Which hosts were reached of late, and which were not.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// The last contact, and the last one with any other host.
    contacts: [Option<(NodeKey, Tick)>; 2],
    dials: Vec<Dial>,
}

impl Reach {
    /// A host was reached; returns those whose unanswered dials of the last minute count now.
    pub fn reached(&mut self, host: NodeKey, now: Tick) -> Vec<NodeKey> {
        if self.contacts[0].is_some_and(|(last, _)| last != host) {
            self.contacts[1] = self.contacts[0];
        }
        self.contacts[0] = Some((host, now));
        let mut silent = Vec::new();
        for dial in &mut self.dials {
            let near = now.ms_since(dial.at.tick) < CONTACT_MS;
            if near && !dial.done && dial.host != host {
                silent.push(dial.host);
            }
            dial.done = true;
        }
        silent
    }

    /// When a host left dials unanswered that are neither entered nor forgiven.
    pub fn pending(&self, host: NodeKey) -> impl Iterator<Item = WallTime> {
        let open = move |dial: &&Dial| !dial.done && dial.host == host;
        self.dials.iter().filter(open).map(|dial| dial.at.wall)
    }

    /// Nobody answered a dial; returns whether it counts at once.
    pub fn silent(&mut self, host: NodeKey, order: Option<OrderId>, now: Now) -> bool {
        let counts = self
            .contacts
            .iter()
            .flatten()
            .any(|(other, at)| *other != host && now.tick.ms_since(*at) < CONTACT_MS);
        if self.dials.len() >= MAX_DIALS {
            self.dials.remove(0);
        }
        self.dials.push(Dial {
            host,
            order,
            at: now,
            done: counts,
        });
        counts
    }

    /// Returns whether this order ended in an unanswered dial.
    pub fn is_dial(&self, order: &OrderId) -> bool {
        self.dials.iter().any(|dial| dial.order == Some(*order))
    }
}
