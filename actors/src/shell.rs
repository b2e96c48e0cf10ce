//! What the five actors share: addresses of each other, the runtime for their
//! effects, and the switch that stops the node.
//!
//! The only file that knows all five. Who gets which message is decided by
//! `protocol::route` alone.

pub mod ask;
pub mod discovery;
pub mod inference;
pub mod payment;
pub mod reputation;
pub mod streams;
mod turns;
pub mod validator;

use crate::driver::{Deliver, Fatal, Performed, Room};
use crate::ports::storage::Storage;
use actix::Recipient;
use futures::FutureExt;
use protocol::machine::Record;
use protocol::message::sibling::Message;
use protocol::route::{Delivery, deliver};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// The mailboxes of the five actors.
#[derive(Clone)]
pub struct Addresses {
    /// Listings and candidates.
    pub discovery: Recipient<Deliver<protocol::message::discovery::Input>>,
    /// Budgets, sagas, ledger.
    pub payment: Recipient<Deliver<protocol::message::payment::Input>>,
    /// Orders.
    pub inference: Recipient<Deliver<protocol::message::inference::Input>>,
    /// Checks.
    pub validator: Recipient<Deliver<protocol::message::validator::Input>>,
    /// Scores.
    pub reputation: Recipient<Deliver<protocol::message::reputation::Input>>,
}

/// Who waits for room in which mailbox.
#[derive(Debug, Default)]
pub struct Rooms {
    /// Discovery's.
    pub discovery: Room,
    /// Payment's.
    pub payment: Room,
    /// Inference's.
    pub inference: Room,
    /// Validator's.
    pub validator: Room,
    /// Reputation's.
    pub reputation: Room,
}

/// What every actor's ports hold.
#[derive(Clone)]
pub struct Shared {
    addresses: Arc<OnceLock<Addresses>>,
    /// Who waits for room in which mailbox.
    pub rooms: Arc<Rooms>,
    /// The node is being stopped: parts that end now are no accident.
    stopping: Arc<AtomicBool>,
    /// Where effects run.
    pub runtime: Handle,
    /// The machines' records.
    pub storage: Storage,
    stopped: Arc<watch::Sender<Option<Fatal>>>,
}

/// A full mailbox is a node that cannot keep up; a closed one is a node that stops, and what
/// was not persisted is found open at its restart.
fn is_full<T>(sent: Result<(), actix::dev::SendError<T>>) -> bool {
    matches!(sent, Err(actix::dev::SendError::Full(_)))
}

impl Shared {
    /// Makes the shared part; addresses come with [`Shared::connect`].
    pub fn new(runtime: Handle, storage: Storage) -> Self {
        Shared {
            addresses: Arc::default(),
            rooms: Arc::default(),
            stopping: Arc::default(),
            runtime,
            storage,
            stopped: Arc::new(watch::Sender::new(None)),
        }
    }

    /// Names the five mailboxes. Before it, nothing is delivered, so no driver begins before it.
    pub fn connect(&self, addresses: Addresses) {
        let _ = self.addresses.set(addresses);
    }

    /// Tells when the node must stop, and why.
    pub fn fatal(&self) -> watch::Receiver<Option<Fatal>> {
        self.stopped.subscribe()
    }

    /// The node is being stopped: from now on parts may end.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether the node is being stopped.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Runs a task that must last as long as the node. One that panics, or returns before the
    /// node is stopped, stops it.
    pub fn supervise(&self, part: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let shared = self.clone();
        self.supervise_panics(part, async move {
            task.await;
            if !shared.is_stopping() {
                shared.part_stopped(part);
            }
        });
    }

    /// Runs a task that may return at any time. One that panics stops the node.
    pub fn supervise_panics(
        &self,
        part: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let (shared, task) = (self.clone(), self.runtime.spawn(task));
        self.runtime.spawn(async move {
            if task.await.is_err_and(|error| error.is_panic()) {
                shared.part_stopped(part);
            }
        });
    }

    fn part_stopped(&self, part: &str) {
        self.stop(Fatal {
            what: format!("a part of the node stopped by itself: {part}"),
            fix:
                "restart the node; nothing that was agreed is lost. The log has the cause; please \
                  report it"
                    .to_owned(),
        });
    }

    /// Stops the node for a reason.
    pub fn stop(&self, fatal: Fatal) {
        tracing::error!(what = %fatal.what, fix = %fatal.fix, "the node stops");
        self.stopped.send_if_modified(|current| {
            let first = current.is_none();
            current.get_or_insert(fatal);
            first
        });
    }

    /// Delivers a message between siblings, at once.
    pub fn tell(&self, message: Message) -> Performed {
        let Some(addresses) = self.addresses.get() else {
            return Performed::Done;
        };
        let full = match deliver(message) {
            Delivery::Discovery(input) => {
                is_full(addresses.discovery.try_send(Deliver::new(input)))
            }
            Delivery::Payment(input) => is_full(addresses.payment.try_send(Deliver::new(input))),
            Delivery::Inference(input) => {
                is_full(addresses.inference.try_send(Deliver::new(input)))
            }
            Delivery::Validator(input) => {
                is_full(addresses.validator.try_send(Deliver::new(input)))
            }
            Delivery::Reputation(input) => {
                is_full(addresses.reputation.try_send(Deliver::new(input)))
            }
        };
        if full {
            Performed::Stop(Fatal {
                what: "a mailbox between two parts of the node is full".to_owned(),
                fix: "restart the node; nothing is lost. If it happens again, lower its limits"
                    .to_owned(),
            })
        } else {
            Performed::Done
        }
    }

    /// Writes records; what follows waits for it.
    pub fn persist(&self, records: Vec<Record>) -> Performed {
        let storage = self.storage.clone();
        Performed::Wait(
            async move {
                storage.commit(records).await.map_err(|error| Fatal {
                    what: error.to_string(),
                    fix: "nothing behind it was done; start again once it is mended".to_owned(),
                })
            }
            .boxed_local(),
        )
    }

    /// Delivers a completion or an outside event to Inference; waits for room.
    pub async fn to_inference(&self, input: protocol::message::inference::Input) {
        if let Some(addresses) = self.addresses.get() {
            self.rooms.inference.send(&addresses.inference, input).await;
        }
    }

    /// Delivers to Payment; waits for room, as the others below.
    pub async fn to_payment(&self, input: protocol::message::payment::Input) {
        if let Some(addresses) = self.addresses.get() {
            self.rooms.payment.send(&addresses.payment, input).await;
        }
    }

    /// Delivers to Discovery; waits for room.
    pub async fn to_discovery(&self, input: protocol::message::discovery::Input) {
        if let Some(addresses) = self.addresses.get() {
            self.rooms.discovery.send(&addresses.discovery, input).await;
        }
    }

    /// Delivers to Discovery what may be lost, where there is room at once.
    pub fn offer_discovery(&self, input: protocol::message::discovery::Input) {
        if let Some(addresses) = self.addresses.get() {
            self.rooms.discovery.offer(&addresses.discovery, input);
        }
    }

    /// Delivers to Validator; waits for room.
    pub async fn to_validator(&self, input: protocol::message::validator::Input) {
        if let Some(addresses) = self.addresses.get() {
            self.rooms.validator.send(&addresses.validator, input).await;
        }
    }

    /// Delivers to Reputation; waits for room.
    pub async fn to_reputation(&self, input: protocol::message::reputation::Input) {
        if let Some(addresses) = self.addresses.get() {
            self.rooms
                .reputation
                .send(&addresses.reputation, input)
                .await;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
