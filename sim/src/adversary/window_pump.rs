//! Tiny payments open a large window (C2): then one large order, unpaid, and a fresh key.

use super::client::{Client, Conduct, Plan};
use super::{Adversary, Hand, Strategy};
use crate::dice::Dice;
use crate::event::NodeIx;
use crate::node::Participant;
use protocol::ids::{ModelDigest, StreamId};
use protocol::wire::order::Frame;

/// Pause between two orders. Milliseconds.
const PACE_MS: u64 = 8_000;
/// Orders that are paid before the one that is not.
const PAID: u32 = 6;

struct WindowPump {
    client: Client,
    secret: [u8; 32],
    target: Option<(NodeIx, ModelDigest)>,
    paid: u32,
}

pub(super) fn begin(_: Strategy, dice: &mut Dice, _: &mut Participant) -> impl Adversary + use<> {
    WindowPump {
        client: Client::default(),
        secret: dice.bytes(),
        target: None,
        paid: 0,
    }
}

impl Adversary for WindowPump {
    fn pace_ms(&self) -> Option<u64> {
        Some(PACE_MS)
    }

    fn act(&mut self, hand: &mut Hand<'_>) {
        if self.client.open() > 0 {
            return;
        }
        let Some((host, model)) = self.target.or_else(|| hand.host()) else {
            return;
        };
        self.target = Some((host, model));
        let takes = self.paid >= PAID;
        let plan = Plan {
            secret: self.secret,
            again: None,
            host,
            model,
            max_output: if takes { 512 } else { 1 },
            words: if takes { 400 } else { 1 },
            max_cost: 500_000,
            conduct: if takes {
                Conduct::Leaves(0)
            } else {
                Conduct::Pays
            },
        };
        if takes || self.client.order(hand, plan.clone()).is_none() {
            self.target = None;
            self.paid = 0;
            self.secret = hand.dice().bytes();
        }
        if takes {
            self.client.order(hand, plan);
        }
    }

    fn arrived(&mut self, hand: &mut Hand<'_>, stream: StreamId, frame: Frame) {
        if let Some(over) = self.client.arrived(hand, stream, frame)
            && over.plan.secret == self.secret
        {
            self.paid = if over.done { self.paid + 1 } else { 0 };
        }
    }

    fn closed(&mut self, hand: &mut Hand<'_>, stream: StreamId) {
        self.client.closed(hand, stream);
    }
}
