//! Signed orders for a model that nobody has, each with a fresh key: nonces for nothing (M4).

use super::client::{Client, Conduct, Plan};
use super::{Adversary, Hand, Strategy};
use crate::dice::Dice;
use crate::node::Person;
use protocol::ids::{ModelDigest, StreamId};
use protocol::order::wire::Frame;

/// Pause between two orders. Milliseconds.
const PACE_MS: u64 = 500;

struct NonceFlood(Client);

pub(super) fn begin(_: Strategy, _: &mut Dice, _: &mut Person) -> impl Adversary + use<> {
    NonceFlood(Client::default())
}

impl Adversary for NonceFlood {
    fn pace_ms(&self) -> Option<u64> {
        Some(PACE_MS)
    }

    fn act(&mut self, hand: &mut Hand<'_>) {
        let Some((host, _)) = hand.host() else {
            return;
        };
        let plan = Plan {
            secret: hand.dice().bytes(),
            again: None,
            host,
            model: ModelDigest([0xff; 32]),
            max_output: 1,
            words: 1,
            max_cost: 1,
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
