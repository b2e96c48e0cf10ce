//! A host that is paid token by token, behind a channel that takes nearly three sats each time (C3).

use super::{Adversary, Hand, Strategy};
use crate::dice::Dice;
use crate::node::Participant;
use protocol::message::inference::Input;
use protocol::money::Msat;
use protocol::route::Delivery;

/// Its machine never believes in a larger window than this. Msat.
const WINDOW: u64 = 500;
/// What its last channel takes for each payment. Msat. Buyers accept three sats for any of them.
const BASE_FEE: u64 = 2_900;

struct InvoiceSplitter;

pub(super) fn begin(
    _: Strategy,
    _: &mut Dice,
    participant: &mut Participant,
) -> impl Adversary + use<> {
    participant.quantum = participant.unit();
    participant.base_fee = BASE_FEE;
    InvoiceSplitter
}

impl Adversary for InvoiceSplitter {
    fn input(&mut self, _hand: &mut Hand<'_>, mut delivery: Delivery) -> Vec<Delivery> {
        if let Delivery::Inference(Input::CreditGranted { window, .. }) = &mut delivery {
            *window = Msat(WINDOW);
        }
        vec![delivery]
    }
}
