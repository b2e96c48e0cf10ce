//! Events of ours that wait for one relay's OK.
//!
//! Not the socket. The table outlives connections: what was not answered when one broke
//! is sent again on the next, until its deadline; an event id makes that harmless.

use super::reason::Reason;
use nostr::event::{Event, EventId};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// One relay's answer to one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It took the event, or had it already.
    Accepted,
    /// It did not.
    Refused(Reason),
}

/// An event to send to one relay, and where its answer goes.
#[derive(Debug, Clone)]
pub struct Publish {
    /// The event.
    pub event: Arc<Event>,
    /// The websocket message, `["EVENT", …]`.
    pub message: Arc<str>,
    /// When nobody waits for the answer any more.
    pub deadline: Instant,
    /// The relay's number in the pool, part of the answer.
    pub relay: usize,
    /// Takes the answer; has room for one per relay.
    pub reply: mpsc::Sender<(usize, Outcome)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Due,
    Sent,
    NeedsAuth,
}

#[derive(Debug)]
struct Pending {
    publish: Publish,
    state: State,
    auth_tried: bool,
}

/// The events that wait for one relay.
#[derive(Debug, Default)]
pub struct Outbox {
    pending: HashMap<EventId, Pending>,
}

impl Outbox {
    /// Adds one, due at once; refuses it when `max` are waiting. The same event again
    /// replaces the earlier one, whose waiter is told so.
    pub fn add(&mut self, publish: Publish, max: usize) {
        self.expire(Instant::now());
        if self.pending.len() >= max && !self.pending.contains_key(&publish.event.id) {
            let reason = format!("{max} events wait for this relay already; publish more slowly");
            answer(publish, Outcome::Refused(Reason::local(reason)));
            return;
        }
        let pending = Pending {
            publish,
            state: State::Due,
            auth_tried: false,
        };
        if let Some(earlier) = self.pending.insert(pending.publish.event.id, pending) {
            let reason = Reason::local("the same event was published again meanwhile");
            answer(earlier.publish, Outcome::Refused(reason));
        }
    }

    /// Makes everything due: a new connection has seen none of it.
    pub fn connection_opened(&mut self) {
        for pending in self.pending.values_mut() {
            pending.state = State::Due;
            pending.auth_tried = false;
        }
    }

    /// Takes the next event to send.
    pub fn next_due(&mut self) -> Option<Publish> {
        let pending = self.pending.values_mut().find(|p| p.state == State::Due)?;
        pending.state = State::Sent;
        Some(pending.publish.clone())
    }

    /// Puts an event aside until AUTH; false if it had its chance already or is unknown.
    pub fn needs_auth(&mut self, id: &EventId) -> bool {
        let Some(pending) = self.pending.get_mut(id).filter(|p| !p.auth_tried) else {
            return false;
        };
        pending.state = State::NeedsAuth;
        pending.auth_tried = true;
        true
    }

    /// Makes what waited for AUTH due.
    pub fn auth_succeeded(&mut self) {
        for pending in self.pending.values_mut() {
            if pending.state == State::NeedsAuth {
                pending.state = State::Due;
            }
        }
    }

    /// Refuses what waited for AUTH.
    pub fn auth_failed(&mut self, reason: &Reason) {
        let waiting = self
            .pending
            .iter()
            .filter(|(_, p)| p.state == State::NeedsAuth);
        let waiting: Vec<_> = waiting.map(|(id, _)| *id).collect();
        for id in waiting {
            self.finish(&id, Outcome::Refused(reason.clone()));
        }
    }

    /// Passes a relay's answer on; false if nobody waited for it.
    pub fn finish(&mut self, id: &EventId, outcome: Outcome) -> bool {
        let Some(pending) = self.pending.remove(id) else {
            return false;
        };
        answer(pending.publish, outcome);
        true
    }

    /// Forgets what nobody waits for any more.
    pub fn expire(&mut self, now: Instant) {
        self.pending
            .retain(|_, pending| pending.publish.deadline > now);
    }
}

fn answer(publish: Publish, outcome: Outcome) {
    // The waiter may have left; its channel has room for one answer of each relay.
    let _ = publish.reply.try_send((publish.relay, outcome));
}
