//! Adversaries: nodes that sign, pay and frame everything well, and attack all the same.
//!
//! One file per strategy. A strategy stands between a node's machines and the world: it may
//! change what they are given and what they want done, act on its own (under keys of its own,
//! on streams of its own), or both. Not faults (`faults`), and not the malformed frames of
//! the peer faults (`world::faults`). They go on in the healed phase: honest nodes must be served
//! beside them.

pub mod busy_sybil;
pub mod client;
pub mod deadbeat;
pub mod dear_input;
pub mod entry_thief;
pub mod free_audits;
pub mod hand;
pub mod input_inflator;
pub mod invoice_splitter;
pub mod listing_changer;
pub mod listing_flood;
pub mod lying_validator;
pub mod refuser;
pub mod same_id;
pub mod slot_squatter;
pub mod text_forger;
pub mod tokenless;
pub mod truncator;
pub mod window_pump;

pub use hand::Hand;

use crate::dice::Dice;
use crate::node::{AnyEffect, Participant};
use protocol::ids::{PaymentHash, StreamId};
use protocol::route::Delivery;
use protocol::wire::order::Frame;

/// Where every world has its first adversary, and every how manieth node is one after it.
const FIRST: usize = 6;
const EVERY: usize = 4;
/// Strategies at work in one seed, at most.
const AT_ONCE: usize = 3;

/// What a node does beside or instead of its machines. Everything has a default: do nothing.
pub trait Adversary {
    /// Pause between two calls of [`Adversary::act`]; `None`: it never acts by itself. Milliseconds.
    fn pace_ms(&self) -> Option<u64> {
        None
    }

    /// Acts by itself.
    fn act(&mut self, _hand: &mut Hand<'_>) {}

    /// What its own machines get in place of an input.
    fn input(&mut self, _hand: &mut Hand<'_>, delivery: Delivery) -> Vec<Delivery> {
        vec![delivery]
    }

    /// What is carried out in place of an effect of its own machines.
    fn effect(&mut self, _hand: &mut Hand<'_>, effect: AnyEffect) -> Vec<AnyEffect> {
        vec![effect]
    }

    /// Whether it takes streams that others open to it, in place of its machines.
    fn takes_streams(&self) -> bool {
        false
    }

    /// Keys that it lists beside its own node's.
    fn listed(&self) -> usize {
        0
    }

    /// A frame on one of its own streams.
    fn arrived(&mut self, _hand: &mut Hand<'_>, _stream: StreamId, _frame: Frame) {}

    /// One of its own streams is gone.
    fn closed(&mut self, _hand: &mut Hand<'_>, _stream: StreamId) {}

    /// A payment of its own has its fate.
    fn paid(&mut self, _hand: &mut Hand<'_>, _hash: PaymentHash, _settled: bool) {}
}

macro_rules! strategies {
    ($($name:ident $module:ident $kind:ident $state:ident $text:literal $checker:literal $what:literal)*) => {
        /// A well-formed attack.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Strategy {
            $(#[doc = $what] $name,)*
        }

        /// Every strategy.
        pub const ALL: &[Label] = &[$(Label {
            strategy: Strategy::$name, name: $text, checker: $checker, what: $what,
            kind: Kind::$kind, state: State::$state,
        }),*];

        impl Strategy {
            /// Makes the adversary of a node, and what must be so about the node for it.
            pub fn begin(self, dice: &mut Dice, participant: &mut Participant) -> Box<dyn Adversary> {
                match self {
                    $(Strategy::$name => Box::new($module::begin(self, dice, participant)),)*
                }
            }
        }
    };
}

/// What an adversary needs to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A client with keys of its own.
    Buyer,
    /// A host that its machines list.
    Host,
    /// A host that keeps to the protocol.
    Honest,
    /// It lists itself, or nothing.
    Other,
}

/// A strategy's name, what it does, and who trips where it succeeds.
pub struct Label {
    /// The strategy.
    pub strategy: Strategy,
    /// For `--adversary`.
    pub name: &'static str,
    /// The checker that trips where the attack succeeds.
    pub checker: &'static str,
    /// One sentence.
    pub what: &'static str,
    /// What it needs to be.
    pub kind: Kind,
    /// Whether it succeeds.
    pub state: State,
}

/// Whether an attack succeeds today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No checker trips: it is drawn by lot with the others.
    Held,
    /// It trips its checker in some seeds; `sim/README.md` says why. Not drawn by lot.
    Open,
}

strategies! {
    SameId same_id Buyer Held "same-id" "loss-bounded" "sends a signed order again, for its credit"
    WindowPump window_pump Buyer Held "window-pump" "loss-bounded" "pays many tiny orders, then takes a large one unpaid, with fresh keys"
    Deadbeat deadbeat Buyer Held "deadbeat" "loss-bounded" "pays one order, uses the window that it opened, and leaves"
    SlotSquatter slot_squatter Buyer Held "slot-squatter" "all-served" "orders, takes the terms, and neither pays nor leaves"
    NonceFlood slot_squatter Buyer Held "nonce-flood" "strangers-bounded" "sends signed orders that no model or no cap is there for, with fresh keys"
    FreeAudits free_audits Buyer Held "free-audits" "strangers-bounded" "has bundles of its own making judged, without end"
    InvoiceSplitter invoice_splitter Host Held "invoice-splitter" "cost-capped" "asks for payment token by token, and earns at routing"
    TextForger text_forger Host Held "text-forger" "fair-verdicts" "shows other text than its tokens say"
    InputInflator input_inflator Host Held "input-inflator" "input-true" "counts three times the prompt"
    Truncator truncator Host Held "truncator" "fair-verdicts" "ends answers early, with every word for the end in turn"
    EntryThief entry_thief Host Held "entry-thief" "theft-bounded" "takes the entry payment and serves nothing, or refuses with every code in turn"
    Tokenless tokenless Host Held "tokenless" "text-bounded" "sends chunks without tokens, without end"
    Refuser refuser Host Held "refuser" "all-served" "is cheap and refuses every order, with every code in turn"
    DearInput dear_input Host Held "dear-input" "bounds-kept" "lists a price of input a thousand times the usual, and pads its invoices"
    BusySybil busy_sybil Other Held "busy-sybil" "all-served" "lists fresh keys that are cheap and always full"
    ListingFloodFree listing_flood Other Held "listing-flood-0" "all-served" "lists fresh keys without number at price 0"
    ListingFloodCheap listing_flood Other Held "listing-flood-1" "all-served" "lists fresh keys without number at price 1"
    ListingChanger listing_changer Honest Held "listing-changer" "fair-blame" "is honest, and changes prices, numerics and wallet"
    LyingValidator lying_validator Host Held "lying-validator" "customers-kept" "convicts honest hosts that others ask it about"
}

impl Strategy {
    /// Finds a strategy by name.
    pub fn named(name: &str) -> Option<Strategy> {
        let label = ALL.iter().find(|label| label.name == name)?;
        Some(label.strategy)
    }

    fn kind(self) -> Option<Kind> {
        let label = ALL.iter().find(|label| label.strategy == self)?;
        Some(label.kind)
    }

    /// Whether it sells with the machines of its node.
    pub fn sells(self) -> bool {
        matches!(self.kind(), Some(Kind::Host | Kind::Honest))
    }

    /// Whether it keeps to the protocol, so that nothing may be held against it.
    pub fn is_honest(self) -> bool {
        self.kind() == Some(Kind::Honest)
    }
}

/// Which strategies are at work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Choice {
    /// None in half of the seeds, up to three of them in the others.
    #[default]
    ByLot,
    /// None.
    Nobody,
    /// This one, in about a sixth of the nodes.
    Only(Strategy),
}

impl Choice {
    /// Draws the strategies of a seed.
    pub fn draw(self, dice: &mut Dice) -> Vec<Strategy> {
        match self {
            Choice::Nobody => Vec::new(),
            Choice::Only(strategy) => vec![strategy],
            Choice::ByLot if dice.chance(500_000) => Vec::new(),
            Choice::ByLot => (0..1 + dice.below(AT_ONCE))
                .map(|_| &ALL[dice.below(ALL.len())])
                .filter(|label| label.state == State::Held)
                .map(|label| label.strategy)
                .collect(),
        }
    }
}

/// The strategy of one node. Two in three of the places that there are for adversaries are taken,
/// the first always.
pub fn drawn(dice: &mut Dice, strategies: &[Strategy], index: usize) -> Option<Strategy> {
    let place = index >= FIRST && (index - FIRST).is_multiple_of(EVERY);
    let taken = dice.chance(667_000) || index == FIRST;
    let which = dice.below(strategies.len());
    strategies.get(which).copied().filter(|_| place && taken)
}
