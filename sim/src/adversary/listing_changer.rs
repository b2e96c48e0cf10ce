//! An honest host that changes its prices, its numerics and its wallet (H5): buyers meet it with
//! the listing of before.

use super::{Adversary, Hand, Strategy};
use crate::crypto::lightning_id;
use crate::dice::Dice;
use crate::engine::NUMERICS;
use crate::node::Person;
use protocol::ids::NodeKey;

/// Pause between two changes. Milliseconds.
const PACE_MS: u64 = 90_000;

struct ListingChanger;

pub(super) fn begin(_: Strategy, _: &mut Dice, _: &mut Person) -> impl Adversary + use<> {
    ListingChanger
}

impl Adversary for ListingChanger {
    fn pace_ms(&self) -> Option<u64> {
        Some(PACE_MS)
    }

    fn act(&mut self, hand: &mut Hand<'_>) {
        let (which, wallet) = (hand.dice().below(4), hand.dice().bytes());
        let (up, idle) = (hand.dice().chance(500_000), hand.idle());
        let person = &mut hand.own_mut().person;
        match which {
            0 | 1 => {
                for price in person
                    .served
                    .iter_mut()
                    .flat_map(|model| &mut model.offer.prices.0)
                {
                    let before = price.msat_per_million;
                    price.msat_per_million = if up { before * 5 / 4 } else { before * 4 / 5 };
                }
            }
            // Nobody changes the engine or the wallet under an answer.
            _ if !idle => return,
            2 => {
                for model in &mut person.served {
                    let numerics = &mut model.offer.numerics;
                    *numerics = match numerics {
                        Some(_) => None,
                        None => Some(NUMERICS.to_owned()),
                    };
                }
            }
            _ => person.lightning = lightning_id(&NodeKey(wallet)),
        }
        hand.relist();
    }
}
