//! The contract between a pure machine and whoever drives it.
//!
//! Not a runtime. The actix driver and the simulator are the two drivers; both
//! read the clocks once per turn, feed one input, carry out the outbox in
//! order, and call [`Machine::expire`] no later than [`Machine::deadline`].
//!
//! A driver makes a machine by [`Machine::recover`] from the records of its [`Machine::TABLES`];
//! a first start is one without records.

use crate::crypto::{Crypto, OrderKeys};
use crate::ids::EffectId;
use crate::time::{Now, Tick};
use serde::{Deserialize, Serialize};

/// A deterministic state machine: every input is an argument, every output is in `out`.
pub trait Machine: Sized {
    /// Closed enum: frames, messages of sibling machines, completions, operator commands.
    type Input;
    /// Closed enum: the things only a driver can do.
    type Effect;
    /// What the operator may set.
    type Config;

    /// The tables whose records [`Machine::recover`] reads. It may write others.
    const TABLES: &'static [Table];

    /// Rebuilds the machine from the records of its tables. What it must do about what they
    /// hold waits for the first [`Machine::expire`].
    fn recover(
        config: Self::Config,
        secrets: Secrets,
        records: impl Iterator<Item = Record>,
        now: Now,
    ) -> Self;

    /// Applies one input. `now.tick` never goes backwards.
    fn handle(&mut self, now: Now, input: Self::Input, out: &mut Outbox<Self::Effect>);

    /// Runs everything due at or before `now`.
    fn expire(&mut self, now: Now, out: &mut Outbox<Self::Effect>);

    /// Returns when [`Machine::expire`] must next be called.
    fn deadline(&self) -> Option<Tick>;
}

/// What a node gives each of its machines at a start and no record holds.
pub struct Secrets {
    /// Signs with the node key.
    pub node: Box<dyn Crypto>,
    /// Gives the keys that orders are signed with.
    pub orders: Box<dyn OrderKeys>,
    /// Seed of the machine's randomness. Differs from that of every earlier run, or nonces
    /// would repeat.
    pub seed: [u8; 32],
}

#[cfg(test)]
impl Secrets {
    /// Those of a machine under test.
    pub(crate) fn for_test(node: impl Crypto + 'static, seed: [u8; 32]) -> Self {
        Secrets {
            node: Box::new(node),
            orders: Box::new(crate::crypto::DerivedOrderKeys::new(seed)),
            seed,
        }
    }
}

/// The effects of one turn, in the order in which they must be carried out.
///
/// Nothing behind a persist effect starts before it is durable.
#[derive(Debug)]
pub struct Outbox<E> {
    effects: Vec<E>,
}

impl<E> Default for Outbox<E> {
    fn default() -> Self {
        Outbox {
            effects: Vec::new(),
        }
    }
}

impl<E> Outbox<E> {
    /// Appends an effect.
    pub fn push(&mut self, effect: E) {
        self.effects.push(effect);
    }

    /// Takes every effect, oldest first.
    pub fn drain(&mut self) -> std::vec::Drain<'_, E> {
        self.effects.drain(..)
    }

    /// Returns whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.effects.is_empty()
    }
}

/// Hands out effect ids; one per machine, so an id is unique per (machine, run).
#[derive(Debug, Default)]
pub struct EffectIds {
    next: u64,
}

impl EffectIds {
    /// Returns a fresh id.
    pub fn fresh(&mut self) -> EffectId {
        self.next += 1;
        EffectId(self.next)
    }
}

/// Writes down the tables: one line for each, with its tag on disk.
macro_rules! tables {
    ($($(#[$doc:meta])* $table:ident = $tag:literal $name:literal,)*) => {
        /// The key-value table a record belongs to; each machine owns its tables.
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub enum Table {
            $($(#[$doc])* #[serde(rename = $name)] $table = $tag,)*
        }

        impl Table {
            /// Every table, in the order of their tags.
            pub const ALL: [Table; [$($tag),*].len()] = [$(Table::$table),*];

            /// Returns the name under which the table is shown.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Table::$table => $name,)*
                }
            }

            /// Returns the first byte of the table's keys on disk. Never changed and never given
            /// to another table.
            pub const fn tag(self) -> u8 {
                self as u8
            }
        }
    };
}

tables! {
    /// Envelope nonces within the replay window (Inference).
    Nonces = 1 "nonces",
    /// Finished orders of either side, with their evidence (Inference).
    Orders = 2 "orders",
    /// Payments we make: the saga (Payment).
    Outgoing = 3 "outgoing",
    /// Invoices we issued (Payment).
    Incoming = 4 "incoming",
    /// Append-only accounting entries (Payment).
    Ledger = 5 "ledger",
    /// Credit windows and debts per counterparty (Payment).
    Credit = 6 "credit",
    /// Verified listings (Discovery).
    Listings = 7 "listings",
    /// Bundles waiting for a check, and verdicts (Validator).
    Verdicts = 8 "verdicts",
    /// First-party history per (host, model) (Reputation).
    History = 9 "history",
    /// Orders that are not over, in parts (Inference).
    OpenOrders = 10 "open_orders",
    /// How old and how large finished orders are (Inference).
    Retained = 11 "retained",
    /// Orders that are over, with payments that may still settle (Inference).
    Late = 12 "late",
}

/// One write to the machine's durable tables; `value: None` deletes the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Where it belongs.
    pub table: Table,
    /// Key within the table; byte order is the order of iteration.
    pub key: Vec<u8>,
    /// Encoded value, or `None` to delete.
    pub value: Option<Vec<u8>>,
}
