//! Planted bugs: wrappers around the machines' inputs, effects, records and settings.
//!
//! One at a time, by name. They prove that the checkers are awake; each must be
//! caught within a few seeds. Never cargo features, which unify across a
//! workspace, and never changes to the machines themselves.

mod credit;
mod frames;
mod wrap;

pub use wrap::{crashed, effects, inputs, limits, peer_fault, recovered, strategy, synced};

use protocol::ids::{EffectId, NodeKey, PaymentHash};
use protocol::machine::Record;
use protocol::message::discovery::Candidate;
use protocol::wire::chain::ChainedToken;
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
    /// Payments open eight times the window that they should.
    WideWindow,
    /// A key never seen before is trusted.
    StrangerCredit,
    /// What a buyer left unpaid is not written down.
    ForgiveDebt,
    /// More is written down as a debt than was left unpaid.
    InventDebt,
    /// An invoice counts as paid when it is made.
    CreditEarly,
    /// Routing fees are not booked.
    FeeForgotten,
    /// The wallet may take any routing fee.
    FeeUnbounded,
    /// Buyers order with four times the cap that was asked for.
    CapIgnored,
    /// Buyers order another model of the host that they chose.
    ModelMixup,
    /// What a host was found to do is not held against it.
    LiarForgiven,
    /// The receipt's cost is off by one.
    ReceiptCost,
    /// The receipt leaves a payment out.
    ReceiptPayments,
    /// The receipt has another head of the chain.
    ReceiptHead,
    /// Invoices have another head of the chain.
    InvoiceHead,
    /// A token is altered after it entered the chain.
    TokenAltered,
    /// A chunk is lost between the machine and the stream.
    ChunkLost,
    /// The prompt is counted twice.
    CountTwice,
    /// The user sees other words.
    WordsAltered,
    /// The user does not see all of the output.
    OutputLost,
    /// Nonces are never deleted.
    NoncesKept,
    /// Orders under way are forgotten at a restart.
    OrdersForgotten,
    /// Buyers pay in another mode than was asked for.
    ModeMixup,
    /// Callers are told apart by their peers alone.
    AddressDropped,
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
    WideWindow "wide-window" "loss-bounded" "payments open eight times the window that they should"
    StrangerCredit "stranger-credit" "loss-bounded" "a key never seen before is trusted"
    ForgiveDebt "forgive-debt" "loss-bounded" "what a buyer left unpaid is not written down"
    InventDebt "invent-debt" "debts-true" "more is written down as a debt than was left unpaid"
    CreditEarly "credit-early" "credit-window" "an invoice counts as paid when it is made"
    FeeForgotten "fee-forgotten" "books-agree" "routing fees are not booked"
    FeeUnbounded "fee-unbounded" "cost-capped" "the wallet may take any routing fee"
    CapIgnored "cap-ignored" "wish-kept" "buyers order with four times the cap that was asked for"
    ModelMixup "model-mixup" "wish-kept" "buyers order another model of the host that they chose"
    ModeMixup "mode-mixup" "wish-kept" "buyers pay in another mode than was asked for"
    LiarForgiven "liar-forgiven" "liars-shunned" "what a host was found to do is not held against it"
    ReceiptCost "receipt-cost" "fair-blame" "the receipt's cost is off by one"
    ReceiptPayments "receipt-payments" "fair-blame" "the receipt leaves a payment out"
    ReceiptHead "receipt-head" "fair-blame" "the receipt has another head of the chain"
    InvoiceHead "invoice-head" "fair-blame" "invoices have another head of the chain"
    TokenAltered "token-altered" "fair-blame" "a token is altered after it entered the chain"
    ChunkLost "chunk-lost" "fair-blame" "a chunk is lost between the machine and the stream"
    CountTwice "count-twice" "input-true" "everybody counts the prompt twice"
    WordsAltered "words-altered" "text-true" "the user sees other words"
    OutputLost "output-lost" "text-true" "the user does not see all of the output"
    NoncesKept "nonces-kept" "strangers-bounded" "nonces are never deleted"
    OrdersForgotten "orders-forgotten" "accounts-kept" "orders under way are forgotten at a restart"
    AddressDropped "address-dropped" "strangers-bounded" "callers are told apart by their peers alone"
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
    pub(super) count: u64,
}
