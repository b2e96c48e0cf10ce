//! Orders everywhere, takes the terms, and neither accepts nor pays nor leaves (H2); or orders,
//! each time with a fresh key, a model that nobody has, or with a cap that pays for nothing:
//! nonces for nothing (M4).

use super::client::{Client, Conduct, Plan};
use super::{Adversary, Hand, Strategy};
use crate::dice::Dice;
use crate::node::Person;
use protocol::ids::{ModelDigest, StreamId};
use protocol::order::wire::Frame;

/// Pause between two orders. Milliseconds.
const PACE_MS: u64 = 1_000;
/// The same where nothing is bought.
const FLOOD_PACE_MS: u64 = 500;

struct SlotSquatter {
    client: Client,
    /// For nonces alone.
    floods: bool,
}

pub(super) fn begin(strategy: Strategy, _: &mut Dice, _: &mut Person) -> impl Adversary + use<> {
    SlotSquatter {
        client: Client::default(),
        floods: strategy == Strategy::NonceFlood,
    }
}

impl Adversary for SlotSquatter {
    fn pace_ms(&self) -> Option<u64> {
        Some(if self.floods { FLOOD_PACE_MS } else { PACE_MS })
    }

    fn act(&mut self, hand: &mut Hand<'_>) {
        let Some((host, model)) = hand.host() else {
            return;
        };
        let squats = Plan {
            secret: hand.dice().bytes(),
            again: None,
            host,
            model,
            max_output: 64,
            words: 8,
            max_cost: 60_000,
            conduct: Conduct::Squats,
        };
        let plan = match self.floods {
            true => Plan {
                model: match hand.dice().chance(500_000) {
                    true => model,
                    false => ModelDigest([0xff; 32]),
                },
                max_output: 1,
                words: 1,
                max_cost: 1,
                ..squats
            },
            false => squats,
        };
        self.client.order(hand, plan);
    }

    fn arrived(&mut self, hand: &mut Hand<'_>, stream: StreamId, frame: Frame) {
        self.client.arrived(hand, stream, frame);
    }

    fn closed(&mut self, hand: &mut Hand<'_>, stream: StreamId) {
        self.client.closed(hand, stream);
    }
}
