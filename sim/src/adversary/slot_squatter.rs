//! Orders everywhere, takes the terms, and neither accepts nor pays nor leaves (H2).

use super::client::{Client, Conduct, Plan};
use super::{Adversary, Hand, Strategy};
use crate::dice::Dice;
use crate::node::Person;
use protocol::ids::StreamId;
use protocol::order::wire::Frame;

/// Pause between two orders. Milliseconds.
const PACE_MS: u64 = 1_000;

struct SlotSquatter(Client);

pub(super) fn begin(_: Strategy, _: &mut Dice, _: &mut Person) -> impl Adversary + use<> {
    SlotSquatter(Client::default())
}

impl Adversary for SlotSquatter {
    fn pace_ms(&self) -> Option<u64> {
        Some(PACE_MS)
    }

    fn act(&mut self, hand: &mut Hand<'_>) {
        let Some((host, model)) = hand.host() else {
            return;
        };
        let plan = Plan {
            secret: hand.dice().bytes(),
            again: None,
            host,
            model,
            max_output: 64,
            words: 8,
            max_cost: 60_000,
            conduct: Conduct::Squats,
        };
        self.0.order(hand, plan);
    }

    fn arrived(&mut self, hand: &mut Hand<'_>, stream: StreamId, frame: Frame) {
        self.0.arrived(hand, stream, frame);
    }

    fn closed(&mut self, hand: &mut Hand<'_>, stream: StreamId) {
        self.0.closed(hand, stream);
    }
}
