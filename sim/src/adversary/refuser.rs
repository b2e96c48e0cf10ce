//! A cheap host that answers every order with a refusal, with every code in turn (H4).

use super::{Adversary, Hand, Strategy};
use crate::dice::Dice;
use crate::node::{AnyEffect, Participant};
use protocol::message::inference::Effect;
use protocol::refusal::{Code, Refusal};
use protocol::wire::order::Frame;

struct Refuser(usize);

pub(super) fn begin(
    _: Strategy,
    dice: &mut Dice,
    participant: &mut Participant,
) -> impl Adversary + use<> {
    participant.undercut();
    Refuser(dice.below(Code::ALL.len()))
}

impl Adversary for Refuser {
    fn effect(&mut self, _hand: &mut Hand<'_>, mut effect: AnyEffect) -> Vec<AnyEffect> {
        if let AnyEffect::Inference(Effect::Send { frame, .. }) = &mut effect
            && matches!(**frame, Frame::Terms(_))
        {
            **frame = refusal(&mut self.0);
        }
        vec![effect]
    }
}

/// A refusal with the next code.
pub(super) fn refusal(turn: &mut usize) -> Frame {
    let code = Code::ALL[*turn % Code::ALL.len()];
    *turn += 1;
    Frame::Refusal(Refusal::new(code, "not today"))
}
