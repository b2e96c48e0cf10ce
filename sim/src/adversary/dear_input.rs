//! A host with an absurd price of input and a usual one of output, some of them in the smallest
//! steps, whose invoices are padded with records that anybody may ignore (M5).

use super::{Adversary, Hand, Strategy};
use crate::check::index::{body, envelope};
use crate::dice::Dice;
use crate::node::{AnyEffect, Participant};
use protocol::codec::Extension;
use protocol::limits::{MAX_EXTENSION_BYTES, MAX_EXTENSIONS};
use protocol::message::inference::Effect;
use protocol::money::{Meter, Prices};
use protocol::wire::order::{Frame, Invoice};

/// Msat for a million tokens: a thousand times the usual, and the usual.
const INPUT: u64 = 100_000_000_000;
const OUTPUT: u64 = 100_000_000;

struct DearInput;

pub(super) fn begin(
    _: Strategy,
    dice: &mut Dice,
    participant: &mut Participant,
) -> impl Adversary + use<> {
    for model in &mut participant.served {
        if !model.offer.prices.lists(Meter::Item) {
            model.offer.prices = Prices::chat(INPUT, OUTPUT);
        }
    }
    if dice.chance(500_000) {
        participant.quantum = 1;
    }
    DearInput
}

impl Adversary for DearInput {
    fn effect(&mut self, hand: &mut Hand<'_>, mut effect: AnyEffect) -> Vec<AnyEffect> {
        if let AnyEffect::Inference(Effect::Send { frame, .. }) = &mut effect
            && let Frame::Invoice(signed) = frame.as_mut()
            && let (Some(mut invoice), Some(around)) = (body::<Invoice>(signed), envelope(signed))
        {
            let odd = Extension {
                kind: 1,
                value: vec![0; MAX_EXTENSION_BYTES],
            };
            invoice.extensions = vec![odd; MAX_EXTENSIONS];
            let secret = hand.secret();
            *signed = hand.seal(&secret, around.to, &invoice);
        }
        vec![effect]
    }
}
