//! A host that computes honestly and shows other text (C4).

use super::{Adversary, Hand, Strategy};
use crate::check::Seen;
use crate::dice::Dice;
use crate::node::Participant;
use protocol::message::inference::Input;
use protocol::route::Delivery;
use protocol::wire::chain::Piece;

struct TextForger;

pub(super) fn begin(_: Strategy, _: &mut Dice, _: &mut Participant) -> impl Adversary + use<> {
    TextForger
}

impl Adversary for TextForger {
    fn input(&mut self, hand: &mut Hand<'_>, mut delivery: Delivery) -> Vec<Delivery> {
        if let Delivery::Inference(Input::Produced {
            order,
            tokens,
            attached,
            ..
        }) = &mut delivery
            && attached.vectors.is_empty()
        {
            for token in tokens {
                token.piece = Piece::text("buy ");
            }
            let order = *order;
            hand.see(Seen::Forged { order });
        }
        vec![delivery]
    }
}
