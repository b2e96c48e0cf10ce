//! An honest host that changes its prices, its numerics and its wallet (H5), also under orders:
//! buyers meet it with the listing of before. Engine and wallet are parts of the
//! node: other ones come with a restart, which is a fault, and so not in the healed phase.

use super::{Adversary, Hand, Strategy};
use crate::crypto::lightning_id;
use crate::dice::Dice;
use crate::engine::NUMERICS;
use crate::node::Participant;
use protocol::ids::NodeKey;

/// Pause between two changes. Milliseconds.
const PACE_MS: u64 = 90_000;

struct ListingChanger;

pub(super) fn begin(_: Strategy, _: &mut Dice, _: &mut Participant) -> impl Adversary + use<> {
    ListingChanger
}

impl Adversary for ListingChanger {
    fn pace_ms(&self) -> Option<u64> {
        Some(PACE_MS)
    }

    fn act(&mut self, hand: &mut Hand<'_>) {
        let (which, wallet) = (hand.dice().below(4), hand.dice().bytes());
        let (up, healed) = (hand.dice().chance(500_000), hand.healed());
        let participant = &mut hand.own_mut().participant;
        match which {
            0 | 1 => {
                for price in participant
                    .served
                    .iter_mut()
                    .flat_map(|model| &mut model.offer.prices.0)
                {
                    let before = price.msat_per_million;
                    price.msat_per_million = if up { before * 5 / 4 } else { before * 4 / 5 };
                }
            }
            _ if healed => return,
            2 => {
                for model in &mut participant.served {
                    let numerics = &mut model.offer.numerics;
                    *numerics = match numerics {
                        Some(_) => None,
                        None => Some(NUMERICS.to_owned()),
                    };
                }
            }
            _ => participant.lightning = lightning_id(&NodeKey(wallet)),
        }
        match which {
            0 | 1 => hand.relist(),
            _ => hand.restart(),
        }
    }
}
