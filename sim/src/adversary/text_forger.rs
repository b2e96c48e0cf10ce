//! A host that computes honestly and shows other text (C4).

use super::{Adversary, Hand, Strategy};
use crate::check::Seen;
use crate::dice::Dice;
use crate::node::Person;
use protocol::inference::io::Input;
use protocol::route::Delivery;

struct TextForger;

pub(super) fn begin(_: Strategy, _: &mut Dice, _: &mut Person) -> impl Adversary + use<> {
    TextForger
}

impl Adversary for TextForger {
    fn input(&mut self, hand: &mut Hand<'_>, mut delivery: Delivery) -> Vec<Delivery> {
        if let Delivery::Inference(Input::Produced {
            order,
            tokens,
            text,
            ..
        }) = &mut delivery
            && !text.is_empty()
        {
            *text = "buy ".repeat(tokens.len());
            let order = *order;
            hand.see(Seen::Forged { order });
        }
        vec![delivery]
    }
}
