//! ReputationActor: nothing but storage.

use super::Shared;
use crate::driver::{Driver, Fatal, Performed, Ports};
use protocol::reputation::Reputation;
use protocol::reputation::io::Effect;

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
}
