//! Orders everywhere, takes the terms, and neither accepts nor pays nor leaves (H2); or orders,
//! each time with a fresh key, a model that nobody has, or with a cap that pays for nothing:
//! nonces for nothing (M4). For a minute out of five it floods one host.

use super::client::{Client, Conduct, Plan};
use super::{Adversary, Hand, Strategy};
use crate::dice::Dice;
use crate::event::NodeIx;
use crate::node::Participant;
use protocol::ids::{ModelDigest, StreamId};
use protocol::wire::order::Frame;

/// Pause between two orders. Milliseconds.
const PACE_MS: u64 = 1_000;
/// The same where nothing is bought.
const FLOOD_PACE_MS: u64 = 500;
/// One minute of so many is a flood of one host.
const ROUND: u64 = 5;
/// Orders of a flood in a second.
const A_SECOND: u64 = 8;

struct SlotSquatter {
    client: Client,
    /// The host that is flooded, and in which minute.
    flooded: Option<(u64, NodeIx, ModelDigest)>,
    /// For nonces alone.
    floods: bool,
}

pub(super) fn begin(
    strategy: Strategy,
    _: &mut Dice,
    _: &mut Participant,
) -> impl Adversary + use<> {
    SlotSquatter {
        client: Client::default(),
        flooded: None,
        floods: strategy == Strategy::NonceFlood,
    }
}

impl SlotSquatter {
    fn pace(&self) -> u64 {
        if self.floods { FLOOD_PACE_MS } else { PACE_MS }
    }

    fn order(&mut self, hand: &mut Hand<'_>, host: NodeIx, model: ModelDigest) {
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
}

impl Adversary for SlotSquatter {
    fn pace_ms(&self) -> Option<u64> {
        Some(self.pace())
    }

    fn act(&mut self, hand: &mut Hand<'_>) {
        let minute = hand.now_ms() / 60_000;
        if !minute.is_multiple_of(ROUND) {
            if let Some((host, model)) = hand.host() {
                self.order(hand, host, model);
            }
            return;
        }
        if self.flooded.is_none_or(|(begun, ..)| begun != minute) {
            let found = hand.host();
            self.flooded = found.map(|(host, model)| (minute, host, model));
        }
        if let Some((_, host, model)) = self.flooded {
            for _ in 0..A_SECOND * self.pace() / 1_000 {
                self.order(hand, host, model);
            }
        }
    }

    fn arrived(&mut self, hand: &mut Hand<'_>, stream: StreamId, frame: Frame) {
        self.client.arrived(hand, stream, frame);
    }

    fn closed(&mut self, hand: &mut Hand<'_>, stream: StreamId) {
        self.client.closed(hand, stream);
    }
}
