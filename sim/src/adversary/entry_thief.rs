//! A host that takes the entry payment and serves nothing.

use super::{Adversary, Hand, Strategy};
use crate::dice::Dice;
use crate::node::{AnyEffect, Person};
use protocol::inference::io::Effect;

struct EntryThief;

pub(super) fn begin(_: Strategy, _: &mut Dice, _: &mut Person) -> impl Adversary + use<> {
    EntryThief
}

impl Adversary for EntryThief {
    fn effect(&mut self, _hand: &mut Hand<'_>, effect: AnyEffect) -> Vec<AnyEffect> {
        match effect {
            AnyEffect::Inference(Effect::StartEngine { .. }) => Vec::new(),
            effect => vec![effect],
        }
    }
}
