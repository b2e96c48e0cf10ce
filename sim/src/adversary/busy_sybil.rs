//! A few fresh keys that are cheap, and always full: refusals for which nobody is blamed (H4).

use super::{Adversary, Hand, Strategy};
use crate::dice::Dice;
use crate::node::Participant;
use protocol::ids::StreamId;
use protocol::refusal::{Code, Refusal};
use protocol::wire::order::Frame;

/// Keys: as many as a buyer tries.
const KEYS: usize = 4;
/// Pause before they are listed again. Milliseconds.
const PACE_MS: u64 = 500_000;
/// Msat for a million tokens.
const PRICE: u64 = 10_000;

struct BusySybil {
    secrets: Vec<[u8; 32]>,
}

pub(super) fn begin(_: Strategy, dice: &mut Dice, _: &mut Participant) -> impl Adversary + use<> {
    BusySybil {
        secrets: (0..KEYS).map(|_| dice.bytes()).collect(),
    }
}

impl Adversary for BusySybil {
    fn pace_ms(&self) -> Option<u64> {
        Some(PACE_MS)
    }

    fn act(&mut self, hand: &mut Hand<'_>) {
        for secret in &self.secrets {
            hand.list(secret, PRICE, PRICE);
        }
    }

    fn takes_streams(&self) -> bool {
        true
    }

    fn listed(&self) -> usize {
        self.secrets.len()
    }

    fn arrived(&mut self, hand: &mut Hand<'_>, stream: StreamId, frame: Frame) {
        if matches!(frame, Frame::Order(_)) {
            let busy = Refusal::new(Code::Busy, "all slots and the queue are full");
            hand.send(stream, &Frame::Refusal(busy));
        }
        hand.close(stream);
    }
}
