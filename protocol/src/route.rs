//! The machines of a node, and who talks to whom: the only place that knows.
//!
//! A machine emits a [`Message`] without an address; [`deliver`] names the
//! sibling and the input. The actix driver and the simulator both call it, so
//! the simulator tests the system that runs.
//!
//! `machines!` is the list of machines. What there is of each of them comes from it: here
//! [`Actor`], [`Delivery`] and [`Configs`]; lanes in the simulator; mailboxes, actors and their
//! start and end in the driver.

#[cfg(test)]
mod tests;

use crate::machine::{Machine, Record, Table};
use crate::message;
use crate::message::sibling::Message;
use crate::wire::envelope::Network;

/// Calls the macro `$then` with the list of machines: the type of each, its module here and in
/// `message`, and the messages of siblings that it hears. Such a message and the input that it
/// becomes have one name and the same fields.
#[macro_export]
macro_rules! machines {
    ($then:ident) => {
        $then! {
            /// Listings and candidates.
            Discovery: discovery hears {
                FindCandidates { request, query },
                HostsScored { id, cards },
                LoadChanged { model, running, queued, slots },
                FindValidators { id, model },
            }
            /// Budgets, sagas, ledger.
            Payment: payment hears {
                Reserve { request, budget, max_cost },
                Bind { request, order, host },
                Release { request },
                Pay(request),
                OpenCredit { order, buyer, caller, quantum },
                MakeInvoice { order, seq, msat, description_hash, expiry_s },
                CloseOrder { account, unpaid },
            }
            /// Orders on both sides.
            Inference: inference hears {
                CandidatesFound { request, hosts },
                Reserved { request, result },
                Settled { order, seq, hash, preimage, msat, fee, ms },
                NotSettled { order, seq, refusal },
                CreditOpened { order, result },
                InvoiceMade { order, seq, result },
                CreditGranted { order, seq, hash, msat, window },
                OrderClosed { order, side },
            }
            /// Checks.
            Validator: validator hears {
                OrderEnded(evidence),
                ValidatorsFound { id, hosts },
            }
            /// Scores.
            Reputation: reputation hears {
                ScoreHosts { id, subjects },
                Happened(outcome),
                PaymentTaken { host },
                Offended(offence),
                Judged { host, model, order, tier, finding, witness },
            }
        }
    };
}

/// A machine of the list.
pub trait Routed: Machine<Input: Into<Delivery>, Effect: SharedEffect> {
    /// Its name.
    const ACTOR: Actor;
}

/// An effect that every machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Common {
    /// A write that must be durable before anything behind it starts.
    Persist(Vec<Record>),
    /// A message to a sibling.
    Tell(Message),
}

/// The effects of a machine of the list.
pub trait SharedEffect: Sized {
    /// Returns the records of a write.
    fn records(&self) -> Option<&Vec<Record>>;
    /// Returns the records of a write, to be added to.
    fn records_mut(&mut self) -> Option<&mut Vec<Record>>;
    /// Returns the message to a sibling.
    fn message(&self) -> Option<&Message>;
    /// Returns what every machine has, or the effect itself.
    ///
    /// # Errors
    /// Where it is an effect of this machine alone.
    fn into_common(self) -> Result<Common, Self>;
}

macro_rules! define {
    ($(
        $(#[$doc:meta])*
        $machine:ident: $module:ident hears { $($heard:ident $fields:tt,)* }
    )*) => {
        /// A machine of a node, by name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Actor {
            $($(#[$doc])* $machine,)*
        }

        impl Actor {
            /// How many there are.
            pub const COUNT: usize = [$(Actor::$machine),*].len();
            /// All of them, in the order of the list.
            pub const ALL: [Actor; Actor::COUNT] = [$(Actor::$machine),*];

            /// Returns its place in [`Actor::ALL`].
            pub const fn index(self) -> usize {
                self as usize
            }

            /// Returns the name of its module.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Actor::$machine => stringify!($module),)*
                }
            }

            /// Returns the tables that its start reads.
            pub const fn tables(self) -> &'static [Table] {
                match self {
                    $(Actor::$machine => <crate::$module::$machine as Machine>::TABLES,)*
                }
            }
        }

        /// An input together with the machine it is for.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Delivery {
            $(
                #[doc = concat!("To ", stringify!($machine), ".")]
                $machine(message::$module::Input),
            )*
        }

        impl Delivery {
            /// Returns the machine it is for.
            pub const fn to(&self) -> Actor {
                match self {
                    $(Delivery::$machine(_) => Actor::$machine,)*
                }
            }
        }

        /// Addresses a message.
        pub fn deliver(message: Message) -> Delivery {
            match message {
                $($(
                    Message::$heard $fields => {
                        Delivery::$machine(message::$module::Input::$heard $fields)
                    }
                )*)*
            }
        }

        /// What the operator may set of each machine.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Configs {
            $(
                #[doc = concat!("Of ", stringify!($machine), ".")]
                pub $module: crate::$module::Config,
            )*
        }

        impl Configs {
            /// The usual settings for a network.
            pub fn new(network: Network) -> Self {
                Configs {
                    $($module: crate::$module::Config::new(network),)*
                }
            }
        }

        $(
            impl Routed for crate::$module::$machine {
                const ACTOR: Actor = Actor::$machine;
            }

            impl From<message::$module::Input> for Delivery {
                fn from(input: message::$module::Input) -> Self {
                    Delivery::$machine(input)
                }
            }

            impl SharedEffect for message::$module::Effect {
                fn records(&self) -> Option<&Vec<Record>> {
                    match self {
                        Self::Persist(records) => Some(records),
                        _ => None,
                    }
                }

                fn records_mut(&mut self) -> Option<&mut Vec<Record>> {
                    match self {
                        Self::Persist(records) => Some(records),
                        _ => None,
                    }
                }

                fn message(&self) -> Option<&Message> {
                    match self {
                        Self::Tell(message) => Some(message),
                        _ => None,
                    }
                }

                fn into_common(self) -> Result<Common, Self> {
                    match self {
                        Self::Persist(records) => Ok(Common::Persist(records)),
                        Self::Tell(message) => Ok(Common::Tell(message)),
                        #[allow(unreachable_patterns)] // where a machine has no others
                        other => Err(other),
                    }
                }
            }
        )*
    };
}

machines!(define);
