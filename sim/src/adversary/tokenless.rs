//! A host that sends chunks without tokens: nothing to pay for, and no end of it (M1).

use super::{Adversary, Hand, Strategy};
use crate::dice::Dice;
use crate::node::Participant;
use protocol::message::inference::Input;
use protocol::route::Delivery;

/// Chunks without tokens before each one with them.
const CHUNKS: usize = 12;

struct Tokenless;

pub(super) fn begin(_: Strategy, _: &mut Dice, _: &mut Participant) -> impl Adversary + use<> {
    Tokenless
}

impl Adversary for Tokenless {
    fn input(&mut self, _hand: &mut Hand<'_>, delivery: Delivery) -> Vec<Delivery> {
        let Delivery::Inference(Input::Produced { order, .. }) = &delivery else {
            return vec![delivery];
        };
        let empty = Delivery::Inference(Input::Produced {
            order: *order,
            tokens: Vec::new(),
            finish: None,
            attached: Default::default(),
        });
        let mut all = vec![empty; CHUNKS];
        all.push(delivery);
        all
    }
}
