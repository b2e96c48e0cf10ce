//! Planted bugs: wrappers around the machines' inputs, effects, records and settings.
//!
//! One at a time, by name. They prove that the checkers are awake; each must be
//! caught within a few seeds. Never cargo features, which unify across a
//! workspace, and never changes to the machines themselves.

mod wrap;

pub use wrap::{crashed, effects, inputs, limits, recovered, synced};

use protocol::chain::ChainedToken;
use protocol::ids::{EffectId, NodeKey, PaymentHash};
use protocol::inference::io::Candidate;
use protocol::machine::Record;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A bug that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plant {
    /// Every payment is sent twice.
    PayTwice,
    /// The engine's allowance does not follow the credit window.
    ServeUnpaid,
    /// A payment that the wallet is unsure of is never looked up.
    ForgetUnknown,
    /// "Unknown" is read as "failed".
    ReplaceUnknown,
    /// Nonces are forgotten at a restart.
    AcceptReplay,
    /// The validator's engine differs in one token.
    ConvictHonest,
    /// The validator believes what it is to check.
    AcquitCheat,
    /// The last writes before a crash are lost although they were acknowledged.
    LosePersist,
    /// Hosts charge twice their listing and buyers do not compare.
    Overcharge,
    /// Hosts once seen stay candidates for ever.
    GhostListingKept,
    /// Invoices are paid without a look at what was delivered.
    SkipInvoiceCheck,
    /// Limits of the day and of the key do not hold.
    BudgetIgnored,
    /// More orders run at once than there are slots.
    Overcommit,
    /// Payments do not extend the engine's allowance.
    StallCredit,
    /// Debts that hosts claim are paid without a look into the books.
    BelieveDebt,
}

/// A bug's name, what it does, and who must catch it.
pub struct Label {
    /// The bug.
    pub plant: Plant,
    /// For `--plant`.
    pub name: &'static str,
    /// One sentence.
    pub what: &'static str,
    /// The checker that must trip.
    pub checker: &'static str,
}

macro_rules! labels {
    ($($plant:ident $name:literal $checker:literal $what:literal)*) => {
        /// Every bug that can be planted.
        pub const ALL: &[Label] = &[$(Label {
            plant: Plant::$plant, name: $name, what: $what, checker: $checker,
        }),*];
    };
}

labels! {
    PayTwice "pay-twice" "paid-once" "every payment is sent to the wallet twice"
    ServeUnpaid "serve-unpaid" "credit-window" "the engine runs ahead of what was paid"
    ForgetUnknown "forget-unknown" "books-agree" "a payment of unknown fate is never looked up"
    ReplaceUnknown "replace-unknown" "unknown-kept" "an unknown payment is read as failed"
    AcceptReplay "accept-replay" "no-replay" "nonces are forgotten at a restart"
    ConvictHonest "convict-honest" "fair-verdicts" "the validator's engine differs in one token"
    AcquitCheat "acquit-cheat" "fair-verdicts" "the validator believes the answer that it checks"
    LosePersist "lose-persist" "books-agree" "acknowledged writes are lost in a crash"
    Overcharge "overcharge" "no-prepayment" "hosts charge twice their listing, buyers do not compare"
    GhostListingKept "ghost-listing-kept" "no-ghosts" "hosts once seen stay candidates for ever"
    SkipInvoiceCheck "skip-invoice-check" "no-prepayment" "invoices are paid unchecked"
    BudgetIgnored "budget-ignored" "budgets-kept" "limits of the day and of the key do not hold"
    Overcommit "overcommit" "bounds-kept" "more orders run than there are slots"
    BelieveDebt "believe-debt" "no-prepayment" "debts that hosts claim are paid without a look into the books"
    StallCredit "stall-credit" "all-served" "payments do not extend the engine's allowance"
}

impl Plant {
    /// Finds a bug by name.
    pub fn named(name: &str) -> Option<Plant> {
        ALL.iter()
            .find(|label| label.name == name)
            .map(|label| label.plant)
    }
}

/// What a wrapper remembers at one node.
#[derive(Debug, Default)]
pub struct Memory {
    pub(super) forgotten: BTreeSet<PaymentHash>,
    pub(super) ghosts: BTreeMap<NodeKey, Candidate>,
    pub(super) asked: BTreeMap<EffectId, Vec<ChainedToken>>,
    pub(super) journal: VecDeque<Vec<Record>>,
}
