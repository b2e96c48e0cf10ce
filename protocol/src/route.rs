//! Who talks to whom: the only place that knows.
//!
//! A machine emits a [`Message`] without an address; [`deliver`] names the
//! sibling and the input. The actix driver and the simulator both call it, so
//! the simulator tests the system that runs.

#[cfg(test)]
mod tests;

use crate::message;
use crate::message::sibling::{Actor, Message};

/// An input together with the machine it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// To Discovery.
    Discovery(message::discovery::Input),
    /// To Payment.
    Payment(message::payment::Input),
    /// To Inference.
    Inference(message::inference::Input),
    /// To Validator.
    Validator(message::validator::Input),
    /// To Reputation.
    Reputation(message::reputation::Input),
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
    use message::discovery::Input as D;
    use message::inference::Input as I;
    use message::payment::Input as P;
    use message::reputation::Input as R;
    use message::validator::Input as V;
    match message {
        Message::FindCandidates { request, query } => {
            Delivery::Discovery(D::FindCandidates { request, query })
        }
        Message::HostsScored { id, cards } => Delivery::Discovery(D::HostsScored { id, cards }),
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
        Message::FindValidators { id, model } => {
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
        Message::CloseOrder { account, unpaid } => {
            Delivery::Payment(P::CloseOrder { account, unpaid })
        }
        Message::CandidatesFound { request, hosts } => {
            Delivery::Inference(I::CandidatesFound { request, hosts })
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
        Message::ValidatorsFound { id, hosts } => {
            Delivery::Validator(V::ValidatorsFound { id, hosts })
        }
        Message::ScoreHosts { id, subjects } => {
            Delivery::Reputation(R::ScoreHosts { id, subjects })
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
