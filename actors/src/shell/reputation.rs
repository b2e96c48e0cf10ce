//! The reputation actor: writes down what the reputation machine remembers of hosts.
//!
//! - Started by [`crate::node::Node::start`] around a recovered machine; stops after its last write.
//! - Its inputs come from the other machines: outcomes, offences, verdicts, and questions for scores.
//! - It touches the disk alone.
//!
//! Decides nothing about hosts: scores and convictions are [`protocol::reputation`]'s.

use super::Shared;
use crate::driver::{Driver, Fatal, Performed, Ports, Room, join_records};
use protocol::message::reputation::Effect;
use protocol::reputation::Reputation;

/// The actor.
pub type ReputationActor = Driver<Reputation, ReputationPorts>;

/// What ReputationActor touches.
pub struct ReputationPorts {
    /// Addresses, runtime, storage.
    pub shared: Shared,
}

impl Ports<Reputation> for ReputationPorts {
    fn perform(&mut self, effect: Effect) -> Performed {
        match effect {
            Effect::Persist(records) => self.shared.persist(records),
            Effect::Tell(message) => self.shared.tell(message),
        }
    }

    fn fatal(&mut self, fatal: Fatal) {
        self.shared.stop(fatal);
    }

    fn join(earlier: &mut Effect, next: Effect) -> Option<Effect> {
        match (earlier, next) {
            (Effect::Persist(earlier), Effect::Persist(later)) => {
                join_records(earlier, later).err().map(Effect::Persist)
            }
            (_, next) => Some(next),
        }
    }

    fn room(&self) -> Option<&Room> {
        Some(&self.shared.rooms.reputation)
    }
}
