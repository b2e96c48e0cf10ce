//! Who talks to whom: the only place that knows.
//!
//! A machine emits a [`Message`] without an address; [`deliver`] names the
//! sibling and the input. The actix driver and the simulator both call it, so
//! the simulator tests the system that runs.

#![allow(missing_docs)] // the fields of messages are named for what they are

use crate::ids::{
    Caller, EffectId, ModelDigest, NodeKey, OrderId, PaymentHash, Preimage, RequestId,
};
use crate::inference::io::{Candidate, Evidence};
use crate::money::Msat;
use crate::offence::Offence;
use crate::payment::io::{Credit, OrderAccount, PayRequest, Side};
use crate::refusal::Refusal;
use crate::reputation::ScoreCard;
use crate::wire::bundle;
use crate::{discovery, inference, payment, reputation, validator};

/// One of the five machines of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Actor {
    /// Listings and candidates.
    Discovery,
    /// Budgets, sagas, ledger.
    Payment,
    /// Orders on both sides.
    Inference,
    /// Checks.
    Validator,
    /// Scores.
    Reputation,
}

impl Actor {
    /// All five, in a fixed order.
    pub const ALL: [Actor; 5] = [
        Actor::Discovery,
        Actor::Payment,
        Actor::Inference,
        Actor::Validator,
        Actor::Reputation,
    ];
}

/// A message between sibling machines of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Inference asks Discovery for hosts.
    CandidatesWanted {
        request: RequestId,
        query: discovery::io::Query,
    },
    /// Discovery answers Inference.
    CandidatesFound {
        request: RequestId,
        hosts: Vec<Candidate>,
    },
    /// Discovery asks Reputation.
    ScoresWanted {
        ticket: EffectId,
        subjects: Vec<reputation::io::Subject>,
    },
    /// Reputation answers Discovery.
    ScoresGiven {
        ticket: EffectId,
        cards: Vec<ScoreCard>,
    },
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
    ValidatorsWanted { id: EffectId, model: ModelDigest },
    /// Discovery answers Validator.
    ValidatorsFound { id: EffectId, hosts: Vec<Candidate> },
    /// Inference tells Reputation how an order went.
    Happened(reputation::io::Outcome),
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
        tier: bundle::Tier,
        /// What it found.
        finding: bundle::Finding,
        /// Who checked.
        witness: reputation::io::Witness,
    },
}

/// An input together with the machine it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// To Discovery.
    Discovery(discovery::io::Input),
    /// To Payment.
    Payment(payment::io::Input),
    /// To Inference.
    Inference(inference::io::Input),
    /// To Validator.
    Validator(validator::io::Input),
    /// To Reputation.
    Reputation(reputation::io::Input),
}

impl Delivery {
    /// Returns the machine it is for.
    pub const fn to(&self) -> Actor {
        match self {
            Delivery::Discovery(_) => Actor::Discovery,
            Delivery::Payment(_) => Actor::Payment,
            Delivery::Inference(_) => Actor::Inference,
            Delivery::Validator(_) => Actor::Validator,
            Delivery::Reputation(_) => Actor::Reputation,
        }
    }
}

/// Addresses a message.
pub fn deliver(message: Message) -> Delivery {
    use discovery::io::Input as D;
    use inference::io::Input as I;
    use payment::io::Input as P;
    use reputation::io::Input as R;
    use validator::io::Input as V;
    match message {
        Message::CandidatesWanted { request, query } => {
            Delivery::Discovery(D::Find { request, query })
        }
        Message::ScoresGiven { ticket, cards } => Delivery::Discovery(D::Scores { ticket, cards }),
        Message::LoadChanged {
            model,
            running,
            queued,
            slots,
        } => Delivery::Discovery(D::LoadChanged {
            model,
            running,
            queued,
            slots,
        }),
        Message::ValidatorsWanted { id, model } => {
            Delivery::Discovery(D::FindValidators { id, model })
        }
        Message::Reserve {
            request,
            budget,
            max_cost,
        } => Delivery::Payment(P::Reserve {
            request,
            budget,
            max_cost,
        }),
        Message::Bind {
            request,
            order,
            host,
        } => Delivery::Payment(P::Bind {
            request,
            order,
            host,
        }),
        Message::Release { request } => Delivery::Payment(P::Release { request }),
        Message::Pay(pay) => Delivery::Payment(P::Pay(pay)),
        Message::OpenCredit {
            order,
            buyer,
            caller,
            quantum,
        } => Delivery::Payment(P::OpenCredit {
            order,
            buyer,
            caller,
            quantum,
        }),
        Message::MakeInvoice {
            order,
            seq,
            msat,
            description_hash,
            expiry_s,
        } => Delivery::Payment(P::MakeInvoice {
            order,
            seq,
            msat,
            description_hash,
            expiry_s,
        }),
        Message::CloseOrder { account, unpaid } => Delivery::Payment(P::Close { account, unpaid }),
        Message::CandidatesFound { request, hosts } => {
            Delivery::Inference(I::Candidates { request, hosts })
        }
        Message::Reserved { request, result } => {
            Delivery::Inference(I::Reserved { request, result })
        }
        Message::Settled {
            order,
            seq,
            hash,
            preimage,
            msat,
            fee,
            ms,
        } => Delivery::Inference(I::Settled {
            order,
            seq,
            hash,
            preimage,
            msat,
            fee,
            ms,
        }),
        Message::NotSettled {
            order,
            seq,
            refusal,
        } => Delivery::Inference(I::NotSettled {
            order,
            seq,
            refusal,
        }),
        Message::CreditOpened { order, result } => {
            Delivery::Inference(I::CreditOpened { order, result })
        }
        Message::InvoiceMade { order, seq, result } => {
            Delivery::Inference(I::InvoiceMade { order, seq, result })
        }
        Message::CreditGranted {
            order,
            seq,
            hash,
            msat,
            window,
        } => Delivery::Inference(I::CreditGranted {
            order,
            seq,
            hash,
            msat,
            window,
        }),
        Message::OrderClosed { order, side } => Delivery::Inference(I::OrderClosed { order, side }),
        Message::OrderEnded(evidence) => Delivery::Validator(V::OrderEnded(evidence)),
        Message::ValidatorsFound { id, hosts } => Delivery::Validator(V::Validators { id, hosts }),
        Message::ScoresWanted { ticket, subjects } => {
            Delivery::Reputation(R::ScoresWanted { ticket, subjects })
        }
        Message::Happened(outcome) => Delivery::Reputation(R::Happened(outcome)),
        Message::PaymentTaken { host } => Delivery::Reputation(R::PaymentTaken { host }),
        Message::Offended(offence) => Delivery::Reputation(R::Offended(offence)),
        Message::Judged {
            host,
            model,
            order,
            tier,
            finding,
            witness,
        } => Delivery::Reputation(R::Judged {
            host,
            model,
            order,
            tier,
            finding,
            witness,
        }),
    }
}
