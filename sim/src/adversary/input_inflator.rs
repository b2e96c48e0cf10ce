//! A host that bills three times the prompt (H7).

use super::{Adversary, Hand, Strategy};
use crate::dice::Dice;
use crate::node::Participant;
use protocol::message::inference::Input;
use protocol::route::Delivery;

/// How often it counts each token: buyers who cannot count believe up to one token a byte.
const TIMES: u64 = 3;

struct InputInflator;

pub(super) fn begin(_: Strategy, _: &mut Dice, _: &mut Participant) -> impl Adversary + use<> {
    InputInflator
}

impl Adversary for InputInflator {
    fn input(&mut self, _hand: &mut Hand<'_>, mut delivery: Delivery) -> Vec<Delivery> {
        if let Delivery::Inference(Input::Counted {
            result: Ok(facts), ..
        }) = &mut delivery
        {
            facts.tokens *= TIMES;
            facts.cached = 0;
        }
        vec![delivery]
    }
}
