//! A host that ends answers early and says that the model did, or whatever else an end can be
//! (M13).

use super::{Adversary, Hand, Strategy};
use crate::check::Seen;
use crate::dice::Dice;
use crate::node::Participant;
use protocol::message::inference::Input;
use protocol::route::Delivery;
use protocol::wire::order::Finish;

/// What it says of the end, in turn.
const ENDS: [Finish; 4] = [
    Finish::Stop,
    Finish::Length,
    Finish::Budget,
    Finish::Stopped,
];

struct Truncator(usize);

pub(super) fn begin(_: Strategy, dice: &mut Dice, _: &mut Participant) -> impl Adversary + use<> {
    Truncator(dice.below(ENDS.len()))
}

impl Adversary for Truncator {
    fn input(&mut self, hand: &mut Hand<'_>, mut delivery: Delivery) -> Vec<Delivery> {
        // Of embeddings a buyer sees that some are missing.
        if let Delivery::Inference(Input::Produced {
            order,
            finish,
            attached,
            ..
        }) = &mut delivery
            && finish.is_none()
            && attached.vectors.is_empty()
            && hand
                .running(order)
                .is_some_and(|run| run.produced < run.answer.length)
        {
            *finish = Some(ENDS[self.0 % ENDS.len()]);
            self.0 += 1;
            let order = *order;
            hand.own_mut().engine.running.remove(&order);
            hand.see(Seen::Cut { order });
        }
        vec![delivery]
    }
}
