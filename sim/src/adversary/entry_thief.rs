//! A host that takes the entry payment and serves nothing: it falls silent, or refuses once the
//! terms are accepted or the entry is paid, with every code in turn.

use super::refuser::refusal;
use super::{Adversary, Hand, Strategy};
use crate::check::index::body;
use crate::dice::Dice;
use crate::node::{AnyEffect, Participant};
use protocol::ids::{OrderId, StreamId};
use protocol::message::inference::{Effect, Input};
use protocol::route::Delivery;
use protocol::wire::order::{Frame, Terms};
use std::collections::BTreeMap;

#[derive(Default)]
struct EntryThief {
    /// Where each order goes on that has its terms.
    streams: BTreeMap<OrderId, StreamId>,
    /// Orders robbed, and codes said.
    turn: usize,
    code: usize,
}

pub(super) fn begin(_: Strategy, dice: &mut Dice, _: &mut Participant) -> impl Adversary + use<> {
    EntryThief {
        turn: dice.below(3),
        code: dice.below(100),
        ..EntryThief::default()
    }
}

impl Adversary for EntryThief {
    fn input(&mut self, hand: &mut Hand<'_>, delivery: Delivery) -> Vec<Delivery> {
        if let Delivery::Inference(Input::Received { stream, frame }) = &delivery
            && matches!(**frame, Frame::Accept(_))
        {
            self.turn += 1;
            if self.turn.is_multiple_of(3) {
                hand.send(*stream, &refusal(&mut self.code));
                return Vec::new();
            }
        }
        vec![delivery]
    }

    fn effect(&mut self, _hand: &mut Hand<'_>, effect: AnyEffect) -> Vec<AnyEffect> {
        match effect {
            AnyEffect::Inference(Effect::StartEngine { order, .. }) => {
                let stream = self.streams.remove(&order);
                let refuses = stream.filter(|_| self.turn % 3 == 1);
                let frame = refuses.map(|stream| Effect::Send {
                    stream,
                    frame: Box::new(refusal(&mut self.code)),
                });
                frame.map(AnyEffect::Inference).into_iter().collect()
            }
            effect => {
                if let AnyEffect::Inference(Effect::Send { stream, frame }) = &effect
                    && let Frame::Terms(signed) = frame.as_ref()
                    && let Some(terms) = body::<Terms>(signed)
                {
                    self.streams.insert(OrderId::of(&terms.order), *stream);
                }
                vec![effect]
            }
        }
    }
}
