//! What the actors share: addresses of each other, the runtime for their
//! effects, and the switch that stops the node.
//!
//! Which machines there are and who gets which message is said by `protocol::route` alone. Each
//! machine has its ports by [`Carried`], most in a file of their own here.

pub mod ask;
pub mod discovery;
pub mod inference;
pub mod payment;
pub mod streams;
mod turns;
pub mod validator;

use crate::driver::{Deliver, Fatal, Performed, Ports, Room, join_records};
use crate::ports::blob::Vocabularies;
use crate::ports::compute::Compute;
use crate::ports::network::{self, Multiaddr, NetworkHandle};
use crate::ports::relay::{RelayHandle, SecretSigner};
use crate::ports::storage::Storage;
use crate::ports::wallet::Wallet;
use actix::Recipient;
use ask::Asks;
use discovery::Withdrawal;
use futures::FutureExt;
use inference::{Clients, Counts};
use protocol::machine::Record;
use protocol::message;
use protocol::message::discovery::HostRow;
use protocol::message::payment::Report;
use protocol::message::sibling::Message;
use protocol::reputation::Reputation;
use protocol::route::{self, Common, Delivery, Routed, SharedEffect, deliver};
use protocol::wire::bundle::Verdict;
use protocol::wire::envelope::Network;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use streams::Streams;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, watch};
use validator::VerdictNote;

/// What the ports of any actor are made of.
pub struct Parts {
    /// Addresses, runtime, storage.
    pub shared: Shared,
    /// The network that money moves on.
    pub network: Network,
    /// Nostr relays.
    pub relays: Option<RelayHandle>,
    /// Signs events on relays with the node key.
    pub signer: Arc<SecretSigner>,
    /// The swarm that is dialled from.
    pub dialer: NetworkHandle,
    /// How to start another one.
    pub dial: network::Config,
    /// The swarm that listens, if any.
    pub serving: Option<NetworkHandle>,
    /// Addresses to list in place of those that it listens on.
    pub announce: Vec<Multiaddr>,
    /// The wallet.
    pub wallet: Arc<dyn Wallet>,
    /// The engine.
    pub compute: Compute,
    /// Vocabularies of models that are bought from others.
    pub vocabularies: Vocabularies,
    /// Open order streams and audit streams.
    pub streams: Streams,
    /// Local clients.
    pub clients: Clients,
    /// Prompts that are counted.
    pub counts: Counts,
    /// Operators that wait for the books.
    pub reports: Asks<Report>,
    /// Operators that wait for the list of hosts.
    pub lists: Asks<Vec<HostRow>>,
    /// Operators that wait for a judgement.
    pub judgements: Asks<Verdict>,
    /// Where verdicts are shown.
    pub notes: broadcast::Sender<VerdictNote>,
    /// The withdrawal of our listing under way.
    pub withdrawal: Withdrawal,
}

/// What carries out the effects of one machine. The rest of its [`Ports`] is [`ActorPorts`].
pub trait Perform<M: Routed>: Unpin + Send + 'static {
    /// Carries out one effect.
    fn perform(&mut self, effect: M::Effect) -> Performed;

    /// What it shares with the other actors.
    fn shared(&self) -> &Shared;

    /// The node must stop: ends what would wait for this actor.
    fn abort(&mut self) {}
}

/// The ports of an actor: what every machine of a node has in common, around what one has alone.
pub struct ActorPorts<P>(pub P);

impl<M: Routed, P: Perform<M>> Ports<M> for ActorPorts<P> {
    fn perform(&mut self, effect: M::Effect) -> Performed {
        self.0.perform(effect)
    }

    fn fatal(&mut self, fatal: Fatal) {
        self.0.abort();
        self.0.shared().stop(fatal);
    }

    fn join(earlier: &mut M::Effect, next: M::Effect) -> Option<M::Effect> {
        join_writes(earlier, next)
    }

    fn room(&self) -> Option<&Room> {
        Some(self.0.shared().room(M::ACTOR))
    }
}

/// A machine with the ports that carry out its effects.
pub trait Carried: Routed {
    /// The ports.
    type Ports: Perform<Self>;

    /// Makes the ports.
    fn ports(parts: &Parts) -> Self::Ports;
}

/// The ports of a machine that writes and speaks to its siblings, and does nothing else.
pub struct SiblingPorts {
    shared: Shared,
}

impl SiblingPorts {
    /// Makes the ports.
    pub fn new(parts: &Parts) -> Self {
        SiblingPorts {
            shared: parts.shared.clone(),
        }
    }
}

impl<M: Routed> Perform<M> for SiblingPorts {
    fn perform(&mut self, effect: M::Effect) -> Performed {
        match effect.into_common() {
            Ok(Common::Persist(records)) => self.shared.persist(records),
            Ok(Common::Tell(message)) => self.shared.tell(message),
            Err(_) => Performed::Stop(Fatal {
                what: format!("nothing carries out what {} decided", M::ACTOR.name()),
                fix: "install another release of freehold, and report it".to_owned(),
            }),
        }
    }

    fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl Carried for Reputation {
    type Ports = SiblingPorts;

    fn ports(parts: &Parts) -> SiblingPorts {
        SiblingPorts::new(parts)
    }
}

/// Makes one write of two that are neighbours; gives `next` back where they are not both writes,
/// or too long together.
pub fn join_writes<E: SharedEffect>(earlier: &mut E, mut next: E) -> Option<E> {
    if let (Some(earlier), Some(later)) = (earlier.records_mut(), next.records_mut())
        && join_records(earlier, later)
    {
        return None;
    }
    Some(next)
}

macro_rules! define {
    ($(
        $(#[$doc:meta])*
        $machine:ident: $module:ident hears $heard:tt
    )*) => {
        /// The mailboxes of the actors.
        #[derive(Clone)]
        pub struct Addresses {
            $($(#[$doc])* pub $module: Recipient<Deliver<message::$module::Input>>,)*
        }

        impl Addresses {
            /// Delivers at once; says whether the mailbox is full.
            fn is_full(&self, delivery: Delivery) -> bool {
                match delivery {
                    $(Delivery::$machine(input) => {
                        is_full(self.$module.try_send(Deliver::new(input)))
                    })*
                }
            }

            /// Delivers once there is room.
            async fn send(&self, room: &Room, delivery: Delivery) {
                match delivery {
                    $(Delivery::$machine(input) => room.send(&self.$module, input).await,)*
                }
            }

            /// Delivers if there is room now.
            fn offer(&self, room: &Room, delivery: Delivery) {
                match delivery {
                    $(Delivery::$machine(input) => room.offer(&self.$module, input),)*
                }
            }
        }
    };
}

protocol::machines!(define);

/// What every actor's ports hold.
#[derive(Clone)]
pub struct Shared {
    addresses: Arc<OnceLock<Addresses>>,
    /// Who waits for room in which mailbox, by the place of its machine in the list.
    rooms: Arc<[Room; route::Actor::COUNT]>,
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

    /// Names the mailboxes. Before it, nothing is delivered, so no driver begins before it.
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
        if addresses.is_full(deliver(message)) {
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

    /// Who waits for room in a machine's mailbox.
    pub fn room(&self, machine: route::Actor) -> &Room {
        &self.rooms[machine.index()]
    }

    /// Delivers a completion or an outside event to the machine whose input it is; waits for room.
    pub async fn send(&self, input: impl Into<Delivery>) {
        let delivery = input.into();
        if let Some(addresses) = self.addresses.get() {
            addresses.send(self.room(delivery.to()), delivery).await;
        }
    }

    /// Delivers what may be lost, where there is room at once.
    pub fn offer(&self, input: impl Into<Delivery>) {
        let delivery = input.into();
        if let Some(addresses) = self.addresses.get() {
            addresses.offer(self.room(delivery.to()), delivery);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
