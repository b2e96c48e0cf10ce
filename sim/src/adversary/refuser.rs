//! A cheap host that answers every order with a refusal, with every code in turn (H4).

use super::{Adversary, Hand, Strategy};
use crate::dice::Dice;
use crate::node::{AnyEffect, Person};
use protocol::inference::io::Effect;
use protocol::order::wire::Frame;
use protocol::refusal::{Code, Refusal};

/// The codes.
const CODES: [Code; 22] = [
    Code::BadOrder,
    Code::BadEnvelope,
    Code::UnknownModel,
    Code::TooLong,
    Code::Busy,
    Code::OwnerActive,
    Code::CapTooLow,
    Code::BudgetExhausted,
    Code::NoHost,
    Code::WalletCannotPay,
    Code::PaymentFailed,
    Code::PaymentUnknown,
    Code::NotPaid,
    Code::Disconnected,
    Code::Timeout,
    Code::ProtocolViolation,
    Code::Cancelled,
    Code::EngineFailed,
    Code::Interrupted,
    Code::ShuttingDown,
    Code::NoInvoice,
    Code::ModeUnsupported,
];

struct Refuser(usize);

pub(super) fn begin(_: Strategy, dice: &mut Dice, person: &mut Person) -> impl Adversary + use<> {
    person.undercut();
    Refuser(dice.below(CODES.len()))
}

impl Adversary for Refuser {
    fn effect(&mut self, _hand: &mut Hand<'_>, mut effect: AnyEffect) -> Vec<AnyEffect> {
        if let AnyEffect::Inference(Effect::Send { frame, .. }) = &mut effect
            && matches!(**frame, Frame::Terms(_))
        {
            let code = CODES[self.0 % CODES.len()];
            self.0 += 1;
            **frame = Frame::Refusal(Refusal::new(code, "not today"));
        }
        vec![effect]
    }
}
