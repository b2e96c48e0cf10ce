//! What the machines of a node tell each other.
//!
//! A message bears no address: `route` alone knows who hears it.

#![allow(missing_docs)] // the fields of messages are named for what they are

use super::inference::Evidence;
use super::payment::{Credit, Side};
use super::reputation::ScoreCard;
use crate::ids::{
    Caller, EffectId, ModelDigest, NodeKey, OrderId, PaymentHash, Preimage, RequestId,
};
use crate::message::discovery::{Candidate, Subject};
use crate::message::inference::{OrderAccount, Outcome, PayRequest, Query};
use crate::message::validator::Witness;
use crate::money::Msat;
use crate::offence::Offence;
use crate::refusal::Refusal;
use crate::wire::bundle::{Finding, Tier};

/// A message between sibling machines of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Inference asks Discovery for hosts.
    FindCandidates { request: RequestId, query: Query },
    /// Discovery answers Inference.
    CandidatesFound {
        request: RequestId,
        hosts: Vec<Candidate>,
    },
    /// Discovery asks Reputation.
    ScoreHosts {
        id: EffectId,
        subjects: Vec<Subject>,
    },
    /// Reputation answers Discovery.
    HostsScored { id: EffectId, cards: Vec<ScoreCard> },
    /// Inference tells Discovery the load of a model.
    LoadChanged {
        model: ModelDigest,
        running: u32,
        queued: u32,
        slots: u32,
    },
    /// Inference asks Payment to set money aside.
    Reserve {
        request: RequestId,
        budget: String,
        max_cost: Msat,
    },
    /// Payment answers Inference.
    Reserved {
        request: RequestId,
        result: Result<(), Refusal>,
    },
    /// Inference tells Payment which order a request became.
    Bind {
        request: RequestId,
        order: OrderId,
        host: NodeKey,
    },
    /// Inference tells Payment that a request is over.
    Release { request: RequestId },
    /// Inference asks Payment to pay.
    Pay(Box<PayRequest>),
    /// Payment answers Inference: paid.
    Settled {
        order: OrderId,
        seq: u32,
        hash: PaymentHash,
        preimage: Option<Preimage>,
        msat: Msat,
        fee: Msat,
        ms: u64,
    },
    /// Payment answers Inference: not paid, or not known.
    NotSettled {
        order: OrderId,
        seq: u32,
        refusal: Refusal,
    },
    /// Inference asks Payment how far a buyer is trusted.
    OpenCredit {
        order: OrderId,
        buyer: NodeKey,
        caller: Caller,
        quantum: Msat,
    },
    /// Payment answers Inference.
    CreditOpened {
        order: OrderId,
        result: Result<Credit, Refusal>,
    },
    /// Inference asks Payment for an invoice.
    MakeInvoice {
        order: OrderId,
        seq: u32,
        msat: Msat,
        description_hash: [u8; 32],
        expiry_s: u32,
    },
    /// Payment answers Inference.
    InvoiceMade {
        order: OrderId,
        seq: u32,
        result: Result<(String, PaymentHash), Refusal>,
    },
    /// Payment tells Inference that an invoice was paid.
    CreditGranted {
        order: OrderId,
        seq: u32,
        hash: PaymentHash,
        msat: Msat,
        window: Msat,
    },
    /// Inference tells Payment that an order is over.
    CloseOrder {
        account: Box<OrderAccount>,
        unpaid: Msat,
    },
    /// Payment answers Inference: the account of that order is in the books, durably.
    OrderClosed { order: OrderId, side: Side },
    /// Inference hands Validator the evidence of an order.
    OrderEnded(Box<Evidence>),
    /// Validator asks Discovery for other validators.
    FindValidators { id: EffectId, model: ModelDigest },
    /// Discovery answers Validator.
    ValidatorsFound { id: EffectId, hosts: Vec<Candidate> },
    /// Inference tells Reputation how an order went.
    Happened(Outcome),
    /// Inference tells Reputation that a host took a payment after its order had failed.
    PaymentTaken {
        /// The host.
        host: NodeKey,
    },
    /// Anybody tells Reputation of misbehaviour.
    Offended(Offence),
    /// Validator tells Reputation of a verdict.
    Judged {
        /// The host.
        host: NodeKey,
        /// The model.
        model: ModelDigest,
        /// The order.
        order: OrderId,
        /// How far the check went.
        tier: Tier,
        /// What it found.
        finding: Finding,
        /// Who checked.
        witness: Witness,
    },
}
