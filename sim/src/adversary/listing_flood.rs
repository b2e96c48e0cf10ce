//! Listings of fresh keys without number, at a price that nobody can beat (H3).

use super::{Adversary, Hand, Strategy};
use crate::dice::Dice;
use crate::node::Participant;
use protocol::ids::StreamId;
use protocol::wire::order::Frame;

/// Listings of one adversary: more than are considered for an order.
const LISTINGS: usize = 40;
/// Pause before they are listed again. Milliseconds.
const PACE_MS: u64 = 500_000;

struct ListingFlood {
    secrets: Vec<[u8; 32]>,
    price: u64,
}

pub(super) fn begin(
    strategy: Strategy,
    dice: &mut Dice,
    _: &mut Participant,
) -> impl Adversary + use<> {
    let price = u64::from(strategy == Strategy::ListingFloodCheap);
    ListingFlood {
        secrets: (0..LISTINGS).map(|_| dice.bytes()).collect(),
        price,
    }
}

impl Adversary for ListingFlood {
    fn pace_ms(&self) -> Option<u64> {
        Some(PACE_MS)
    }

    fn act(&mut self, hand: &mut Hand<'_>) {
        for secret in &self.secrets {
            hand.list(secret, self.price, self.price);
        }
    }

    fn takes_streams(&self) -> bool {
        true
    }

    fn listed(&self) -> usize {
        self.secrets.len()
    }

    fn arrived(&mut self, hand: &mut Hand<'_>, stream: StreamId, _frame: Frame) {
        hand.close(stream);
    }
}
