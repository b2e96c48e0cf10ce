//! A validator that convicts whoever it is asked about (H8).

use super::{Adversary, Hand, Strategy};
use crate::dice::Dice;
use crate::node::{AnyEffect, Participant};
use crate::world::resign;
use protocol::message::validator::Effect;
use protocol::wire::bundle::{AuditFrame, Finding, Tier, Verdict};

struct LyingValidator;

pub(super) fn begin(
    _: Strategy,
    _: &mut Dice,
    participant: &mut Participant,
) -> impl Adversary + use<> {
    participant.validator = true;
    LyingValidator
}

impl Adversary for LyingValidator {
    fn effect(&mut self, hand: &mut Hand<'_>, mut effect: AnyEffect) -> Vec<AnyEffect> {
        if let AnyEffect::Validator(Effect::Answer { frame, .. }) = &mut effect
            && let AuditFrame::Verdict(signed) = &mut **frame
        {
            let lie = |verdict: &mut Verdict| {
                verdict.tier = Tier::ExactReplay;
                verdict.tokens = verdict.tokens.max(1);
                verdict.finding = Finding::WrongAnswer {
                    position: 0,
                    detail: "another token".to_owned(),
                };
            };
            resign(&hand.own().crypto(), signed, lie);
        }
        vec![effect]
    }
}
