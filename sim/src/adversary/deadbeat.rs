//! Pays one order, uses the window that it opened with several at once, and leaves.

use super::client::{Client, Conduct, Plan};
use super::{Adversary, Hand, Strategy};
use crate::dice::Dice;
use crate::node::Participant;
use protocol::ids::StreamId;
use protocol::wire::order::Frame;

/// Pause between two orders. Milliseconds.
const PACE_MS: u64 = 12_000;
/// Unpaid orders for each paid one, at once: they share what there is of a window.
const UNPAID: usize = 3;
/// Rounds with one key: who owes may come again.
const ROUNDS: u32 = 3;

struct Deadbeat {
    client: Client,
    plan: Option<Plan>,
    rounds: u32,
}

pub(super) fn begin(_: Strategy, _: &mut Dice, _: &mut Participant) -> impl Adversary + use<> {
    Deadbeat {
        client: Client::default(),
        plan: None,
        rounds: 0,
    }
}

impl Adversary for Deadbeat {
    fn pace_ms(&self) -> Option<u64> {
        Some(PACE_MS)
    }

    fn act(&mut self, hand: &mut Hand<'_>) {
        if self.client.open() > 0 {
            return;
        }
        if let Some(plan) = self.plan.take() {
            for _ in 0..UNPAID {
                let unpaid = Plan {
                    again: None,
                    max_output: 300,
                    conduct: Conduct::Leaves(0),
                    ..plan.clone()
                };
                self.client.order(hand, unpaid);
            }
            self.rounds += 1;
            self.plan = (self.rounds < ROUNDS).then_some(plan);
            return;
        }
        let Some((host, model)) = hand.host() else {
            return;
        };
        self.rounds = 0;
        let plan = Plan {
            secret: hand.dice().bytes(),
            again: None,
            host,
            model,
            max_output: 60,
            words: 8,
            max_cost: 60_000,
            conduct: Conduct::Pays,
        };
        self.client.order(hand, plan);
    }

    fn arrived(&mut self, hand: &mut Hand<'_>, stream: StreamId, frame: Frame) {
        if let Some(over) = self.client.arrived(hand, stream, frame)
            && over.done
            && over.plan.conduct == Conduct::Pays
        {
            self.plan = Some(over.plan);
        }
    }

    fn closed(&mut self, hand: &mut Hand<'_>, stream: StreamId) {
        self.client.closed(hand, stream);
    }
}
