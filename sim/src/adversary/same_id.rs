//! A signed order used again (C1): the first use is paid, the others take its credit again.

use super::client::{Client, Conduct, Plan};
use super::{Adversary, Hand, Strategy};
use crate::dice::Dice;
use crate::node::Participant;
use protocol::ids::StreamId;
use protocol::wire::order::Frame;

/// Pause between two orders. Milliseconds.
const PACE_MS: u64 = 20_000;
/// Uses of one order before the next.
const USES: u32 = 8;

struct SameId {
    client: Client,
    plan: Option<Plan>,
    uses: u32,
}

pub(super) fn begin(_: Strategy, _: &mut Dice, _: &mut Participant) -> impl Adversary + use<> {
    SameId {
        client: Client::default(),
        plan: None,
        uses: 0,
    }
}

impl Adversary for SameId {
    fn pace_ms(&self) -> Option<u64> {
        Some(PACE_MS)
    }

    fn act(&mut self, hand: &mut Hand<'_>) {
        if self.client.open() > 0 {
            return;
        }
        let plan = match self.plan.take().filter(|_| self.uses < USES) {
            Some(plan) => plan,
            None => {
                let Some((host, model)) = hand.host() else {
                    return;
                };
                self.uses = 0;
                Plan {
                    secret: hand.dice().bytes(),
                    again: None,
                    host,
                    model,
                    max_output: 16,
                    words: 4,
                    max_cost: 60_000,
                    conduct: Conduct::Pays,
                }
            }
        };
        self.uses += 1;
        if self.client.order(hand, plan).is_none() {
            self.plan = None;
        }
    }

    fn arrived(&mut self, hand: &mut Hand<'_>, stream: StreamId, frame: Frame) {
        if let Some(over) = self.client.arrived(hand, stream, frame) {
            // Signed once, by whoever it was: nothing in it says that it is used up.
            self.plan = Some(Plan {
                conduct: Conduct::Leaves(0),
                ..over.plan
            });
        }
    }

    fn closed(&mut self, hand: &mut Hand<'_>, stream: StreamId) {
        self.client.closed(hand, stream);
    }
}
