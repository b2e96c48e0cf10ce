//! The machines of a node and the actors around them, one of each per line of
//! [`protocol::machines!`].
//!
//! [`super::Node::start`] recovers them, runs them and connects them. Not their ports: those lie
//! in [`crate::shell`].

use super::NodeError;
use crate::clock::SystemClock;
use crate::driver::{Begin, Deliver, Driver, Flush, Halt};
use crate::keys::NodeKeys;
use crate::ports::storage::Storage;
use crate::shell::{ActorPorts, Addresses, Carried, Parts};
use actix::{Actor, Addr, Arbiter, Recipient};
use protocol::crypto::{DerivedOrderKeys, Secp};
use protocol::machine::Secrets;
use protocol::route::{self, Configs, Routed};
use protocol::time::Now;

/// What the machines of a node have in common at a start.
pub struct MachineStart<'a> {
    /// The node's secrets.
    pub keys: &'a NodeKeys,
    /// Where their records are.
    pub storage: &'a Storage,
    /// When it starts.
    pub now: Now,
}

impl MachineStart<'_> {
    /// A machine as it comes out of its records. One that knows half of its past must not act
    /// on it.
    fn recover<M: Routed>(&self, config: M::Config) -> Result<M, NodeError> {
        let secrets = Secrets {
            node: Box::new(Secp::from_secret(&self.keys.node).ok_or(NodeError::Keys)?),
            orders: Box::new(DerivedOrderKeys::new(self.keys.order)),
            seed: seed(),
        };
        let mut unread = None;
        let records = self.storage.records(M::TABLES, &mut unread);
        let machine = M::recover(config, secrets, records, self.now);
        unread.map_or(Ok(machine), |error| Err(error.into()))
    }
}

macro_rules! define {
    ($(
        $(#[$doc:meta])*
        $machine:ident: $module:ident hears $heard:tt
    )*) => {
        /// The machines of a node, each with its ports, before they run.
        pub struct Machines {
            $($module: (
                protocol::$module::$machine,
                <protocol::$module::$machine as Carried>::Ports,
            ),)*
        }

        impl Machines {
            /// Recovers all of them.
            ///
            /// # Errors
            /// When a key is unusable or records cannot be read.
            pub fn recover(
                start: &MachineStart<'_>,
                configs: Configs,
                parts: &Parts,
            ) -> Result<Self, NodeError> {
                Ok(Machines {
                    $($module: (
                        start.recover(configs.$module)?,
                        protocol::$module::$machine::ports(parts),
                    ),)*
                })
            }

            /// Starts an actor around each, in the actix system of this thread.
            pub fn run(self, clock: SystemClock) -> Actors {
                Actors {
                    $($module: {
                        let (machine, ports) = self.$module;
                        on_arbiter(Driver::new(machine, ActorPorts(ports), clock))
                    },)*
                }
            }
        }

        /// The actors.
        pub struct Actors {
            $($(#[$doc])* pub $module: Addr<Driver<
                protocol::$module::$machine,
                ActorPorts<<protocol::$module::$machine as Carried>::Ports>,
            >>,)*
        }

        impl Actors {
            /// The mailboxes.
            pub fn addresses(&self) -> Addresses {
                Addresses {
                    $($module: self.$module.clone().recipient::<Deliver<_>>(),)*
                }
            }

            /// Lets all of them recover and take their inputs, in any order: what comes to one before
            /// it begins waits there.
            pub fn begin(&self) {
                // The mailboxes are new, so there is room; an actor that is gone is noticed
                // elsewhere.
                $(let _ = self.$module.try_send(Begin);)*
            }

            /// Where each is asked to carry out what is pending.
            pub fn flushes(&self) -> [Recipient<Flush>; route::Actor::COUNT] {
                [$(self.$module.clone().recipient::<Flush>(),)*]
            }

            /// Where each is told to end. Inference first: it takes work from outside, and the
            /// others hear of it.
            pub fn halts(&self) -> Vec<Recipient<Halt>> {
                let all = [$((
                    route::Actor::$machine,
                    self.$module.clone().recipient::<Halt>(),
                ),)*];
                let (mut halts, rest): (Vec<_>, Vec<_>) = all
                    .into_iter()
                    .partition(|(machine, _)| *machine == route::Actor::Inference);
                halts.extend(rest);
                halts.into_iter().map(|(_, halt)| halt).collect()
            }
        }
    };
}

protocol::machines!(define);

/// Starts one actor on an arbiter (thread) of its own.
fn on_arbiter<A>(actor: A) -> Addr<A>
where
    A: Actor<Context = actix::Context<A>> + Send,
{
    A::start_in_arbiter(&Arbiter::new().handle(), move |_| actor)
}

/// A seed of this run alone: nonces of two runs must never be the same.
fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    rand::RngCore::fill_bytes(&mut rand::rngs::OsRng, &mut seed);
    seed
}
