//! Bundles of its own making, each between two keys of its own, for a validator to judge (M8).

use super::client::job;
use super::{Adversary, Hand, Strategy};
use crate::dice::Dice;
use crate::node::{Participant, models};
use protocol::crypto::Crypto;
use protocol::ids::Digest;
use protocol::money::{Counts, Msat, Prices};
use protocol::wire::bundle::Bundle;
use protocol::wire::manifest::PaymentMode;
use protocol::wire::order::{Handling, Order, Path, Retention, Terms};

/// Pause between two questions. Milliseconds.
const PACE_MS: u64 = 1_000;

struct FreeAudits;

pub(super) fn begin(_: Strategy, _: &mut Dice, _: &mut Participant) -> impl Adversary + use<> {
    FreeAudits
}

impl Adversary for FreeAudits {
    fn pace_ms(&self) -> Option<u64> {
        Some(PACE_MS)
    }

    fn act(&mut self, hand: &mut Hand<'_>) {
        let Some(server) = hand.validator() else {
            return;
        };
        let (buyer, host) = (hand.dice().bytes(), hand.dice().bytes());
        let (buyer_key, host_key) = (hand.signer(&buyer).key(), hand.signer(&host).key());
        let order = Order {
            model: models()[0],
            job: job(4, 8, 1),
            max_cost: Msat(1_000),
            mode: PaymentMode::Metered,
            payment_grain: Msat(1),
            path: Path::Fast,
            retention: Retention::Keep,
            handling: Handling::Plain,
            salt: hand.id(),
            via: None,
            authority: Vec::new(),
            extensions: Vec::new(),
        };
        let signed = hand.seal(&buyer, Some(host_key), &order);
        let terms = Terms {
            order: signed.digest(),
            input: Counts::default(),
            prices: Prices::chat(1, 1),
            window: Msat(0),
            quantum: Msat(1),
            carried_debt: Msat(0),
            entry: None,
            starts_within_ms: 0,
            numerics: None,
            tokenizer: Digest([0; 32]),
            template: Digest([0; 32]),
            expires: hand.wall().after_ms(60_000),
            extensions: Vec::new(),
        };
        let terms = hand.seal(&host, Some(buyer_key), &terms);
        let bundle = Bundle {
            order: signed,
            terms,
            tokens: Vec::new(),
            invoices: Vec::new(),
            receipt: None,
            countersigned: None,
        };
        hand.audit(server, Box::new(bundle));
    }
}
