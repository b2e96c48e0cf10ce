//! What goes into and comes out of the payment machine.

#![allow(missing_docs)] // the fields of inputs and effects are named for what they are

use crate::ids::{Caller, EffectId, NodeKey, OrderId, PaymentHash, Preimage, RequestId};
use crate::machine::Record;
use crate::message::inference::{OrderAccount, PayRequest};
use crate::message::sibling::Message;
use crate::money::Msat;
use crate::time::WallTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which side of an order this node is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// We pay.
    Buyer,
    /// We are paid.
    Host,
}

/// What the wallet says of an attempt to pay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PayOutcome {
    /// Paid.
    Settled { preimage: Preimage, fee: Msat },
    /// Not paid, and never will be by this attempt.
    Failed { reason: String },
    /// Nobody knows yet: a timeout, a crash, a silent wallet.
    Unknown,
}

/// What the wallet says of a hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookupOutcome {
    /// Paid (outgoing) or received (incoming). The preimage of an incoming one may be withheld.
    Settled {
        preimage: Option<Preimage>,
        msat: Msat,
        fee: Msat,
    },
    /// Still under way.
    Pending,
    /// Failed for good.
    Failed,
    /// The wallet never heard of it.
    NotFound,
    /// The wallet did not answer.
    Unavailable,
}

/// How far the buyer of an order is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credit {
    /// What may be delivered and unpaid, debt included.
    pub window: Msat,
    /// Nothing: the order is paid for before it begins.
    pub prepay: bool,
    /// Debt from earlier orders that this one is to collect.
    pub debt: Msat,
}

/// Inputs of the payment machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// From Inference, buyer: set `max_cost` of a budget aside, or refuse.
    Reserve {
        request: RequestId,
        budget: String,
        max_cost: Msat,
    },
    /// From Inference, buyer: the request became this order.
    Bind {
        request: RequestId,
        order: OrderId,
        host: NodeKey,
    },
    /// From Inference, buyer: the request is over; what was not spent is free again.
    Release { request: RequestId },
    /// From Inference, buyer: pay an invoice.
    Pay(Box<PayRequest>),
    /// From Inference, host: how far is this buyer trusted? Refused where an order with this id
    /// is in the books, on either way to its end: ids are drawn by buyers. `caller` sent it:
    /// keys are free, and free quotas are counted for callers. `quantum` is the
    /// least credit that carries the stream: the least invoice, or the price of one unit of
    /// output where that is more.
    OpenCredit {
        order: OrderId,
        buyer: NodeKey,
        caller: Caller,
        quantum: Msat,
    },
    /// From Inference, host: make an invoice.
    MakeInvoice {
        order: OrderId,
        seq: u32,
        msat: Msat,
        description_hash: [u8; 32],
        expiry_s: u32,
    },
    /// From Inference: the order is over on this side. `unpaid` is all that the buyer owes
    /// (host side), what is left of the debt in [`Credit`] included. Sent for every order that
    /// was given credit, also when nothing was delivered. Each is answered with
    /// [`Message::OrderClosed`] once it is durable, so that it can be sent again until it is;
    /// the first account of an order stands.
    CloseOrder {
        account: Box<OrderAccount>,
        unpaid: Msat,
    },

    /// [`Effect::CheckBalance`] is done; `None` where the wallet did not answer.
    BalanceChecked {
        id: EffectId,
        spendable: Option<Msat>,
    },
    /// [`Effect::CreateInvoice`] is done.
    InvoiceCreated {
        id: EffectId,
        result: Result<(String, PaymentHash), String>,
    },
    /// [`Effect::Pay`] is done.
    PayDone {
        id: EffectId,
        hash: PaymentHash,
        outcome: PayOutcome,
    },
    /// [`Effect::Lookup`] is done.
    LookedUp {
        id: EffectId,
        hash: PaymentHash,
        outcome: LookupOutcome,
    },
    /// The wallet received a payment. Repeated until acknowledged.
    Received {
        event: u64,
        hash: PaymentHash,
        msat: Msat,
    },
    /// The wallet finished a payment of ours. Repeated until acknowledged.
    Sent {
        event: u64,
        hash: PaymentHash,
        outcome: PayOutcome,
    },
    /// Of [`Effect::ForgetPayments`]: the wallet needs this record for so much longer.
    /// Milliseconds.
    StillNeeded { hash: PaymentHash, wait_ms: u64 },
    /// An operator asks for the books.
    Report { id: EffectId },
}

/// Effects of the payment machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make durable before anything behind it starts.
    Persist(Vec<Record>),
    /// To a sibling machine.
    Tell(Message),
    /// Ask the wallet what it can spend.
    CheckBalance { id: EffectId },
    /// Make an invoice.
    CreateInvoice {
        id: EffectId,
        msat: Msat,
        description_hash: [u8; 32],
        expiry_s: u32,
    },
    /// Pay. Sent at most once per hash, ever.
    Pay {
        id: EffectId,
        bolt11: String,
        hash: PaymentHash,
        msat: Msat,
        max_fee: Msat,
    },
    /// Ask the wallet about a hash.
    Lookup {
        id: EffectId,
        hash: PaymentHash,
        side: Side,
    },
    /// The wallet's event is in our books; it need not be repeated.
    Acknowledge { event: u64 },
    /// These ended long ago: the wallet may delete what it keeps of them. They stay in the books.
    ForgetPayments { hashes: Vec<PaymentHash> },
    /// Answers [`Input::Report`].
    Reply { id: EffectId, report: Box<Report> },
}

/// State of one payment or invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryState {
    /// On disk, about to be sent (buyer).
    Planned,
    /// Sent, no answer yet (buyer).
    Sent,
    /// Fate unknown; looked up until known (buyer).
    Unknown,
    /// Settled on either side.
    Settled,
    /// Failed for good (buyer).
    Failed,
    /// Waiting to be paid (host).
    Invoiced,
    /// Never paid (host).
    Expired,
}

impl EntryState {
    /// Whether nothing more is expected to become of it.
    pub fn is_done(self) -> bool {
        matches!(self, Self::Settled | Self::Failed | Self::Expired)
    }
}

/// One payment or invoice in the books.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// The order.
    pub order: OrderId,
    /// Which invoice of it.
    pub seq: u32,
    /// Our side.
    pub side: Side,
    /// The other side, where known.
    pub counterparty: Option<NodeKey>,
    /// Payment hash.
    pub hash: PaymentHash,
    /// Amount without fee.
    pub msat: Msat,
    /// Routing fee we paid.
    #[serde(rename = "fee_msat")]
    pub fee: Msat,
    /// State.
    pub state: EntryState,
    /// Preimage, once we know it.
    pub preimage: Option<Preimage>,
    /// First written.
    pub created: WallTime,
    /// Last changed.
    pub changed: WallTime,
    /// When the invoice expires.
    pub expires: WallTime,
    /// Why it is where it is, for a person.
    pub note: String,
}

/// The books, for an operator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Payments and invoices, oldest first: the newest rows of the ledger and
    /// every open one, or all of them.
    pub entries: Vec<LedgerEntry>,
    /// Closed orders, oldest first.
    pub orders: Vec<OrderAccount>,
    /// Sum received.
    #[serde(rename = "earned_msat")]
    pub earned: Msat,
    /// Sum paid, without fees.
    #[serde(rename = "spent_msat")]
    pub spent: Msat,
    /// Sum of routing fees.
    #[serde(rename = "fees_msat")]
    pub fees: Msat,
    /// Debts of buyers to us: remainders too small to invoice.
    #[serde(rename = "owed_to_us_msat")]
    pub owed_to_us: Msat,
    /// Spent today (UTC) per budget, routing fees included.
    #[serde(rename = "spent_today_msat")]
    pub spent_today: BTreeMap<String, Msat>,
    /// Money and records that belong to no order, oldest first.
    #[serde(default)]
    pub notes: Vec<Note>,
}

/// Something the books must say that is no payment of an order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// When it was seen.
    pub at: WallTime,
    /// The payment hash, where it is about one.
    pub hash: Option<PaymentHash>,
    /// The amount, where it is about one.
    pub msat: Msat,
    /// What happened, for a person.
    pub text: String,
}
