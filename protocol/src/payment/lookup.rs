//! Asking the wallet what became of a payment, for as long as it takes.
//!
//! Not a state of its own: `saga` has the states and the table of failures.

use super::Payment;
use super::saga::{PaymentUpdate, UNPROVED};
use super::turn::{TimerKind, Turn};
use crate::ids::{EffectId, PaymentHash};
use crate::message::payment::{Effect, LookupOutcome, Side};
use crate::time::Now;

impl Payment {
    /// Asks the wallet for the outcome of `hash` and arms the next poll. A payment without a result
    /// after `pay_timeout_ms` is first marked `Unknown`.
    pub(super) fn poll_outgoing(&mut self, turn: &mut Turn, hash: PaymentHash) {
        let waited = self.config.pay_timeout_ms;
        let reason = format!("the wallet gave no result for {} s", waited / 1_000);
        self.apply_update(turn, &hash, PaymentUpdate::Unknown { reason });
        let id = self.ids.fresh();
        let Some(saga) = self.sagas.get_mut(&hash) else {
            return;
        };
        saga.asked = Some((id, turn.now));
        let pause = saga.pause_ms;
        saga.pause_ms = pause.saturating_mul(2).min(self.config.lookup_max_ms);
        let pause = self.with_jitter(pause);
        self.timers
            .set(TimerKind::Outgoing(hash), turn.now.tick.after_ms(pause));
        let side = Side::Buyer;
        turn.then(Effect::Lookup { id, hash, side });
    }

    /// The wallet answered a look-up, of either side.
    pub(super) fn looked_up(
        &mut self,
        turn: &mut Turn,
        id: EffectId,
        hash: PaymentHash,
        outcome: LookupOutcome,
    ) {
        let ours = self.sagas.get(&hash).map(|saga| saga.asked);
        let is_last = |asked: Option<(EffectId, Now)>| asked.is_some_and(|(last, _)| last == id);
        match ours {
            Some(asked) if is_last(asked) || !self.invoices.contains_key(&hash) => {
                let asked = asked.filter(|_| is_last(asked)).map(|(_, at)| at);
                self.found_outgoing(turn, &hash, asked, outcome);
            }
            _ => self.found_incoming(turn, id, hash, outcome),
        }
    }

    fn found_outgoing(
        &mut self,
        turn: &mut Turn,
        hash: &PaymentHash,
        asked: Option<Now>,
        outcome: LookupOutcome,
    ) {
        let Some((_, entry, _)) = self.ledger.find(Side::Buyer, hash) else {
            return;
        };
        let Some(saga) = self.sagas.get_mut(hash) else {
            return;
        };
        let life = entry.expires.ms_since(entry.created);
        let life = life.saturating_add(self.config.unknown_grace_ms);
        let believed = asked.is_some_and(|asked| saga.age(asked, entry) > life);
        let proved = match &outcome {
            LookupOutcome::Settled { preimage, .. } => {
                saga.unproved = saga.unproved.saturating_add(1);
                preimage.is_some() || saga.unproved >= UNPROVED
            }
            _ => false,
        };
        let news = match outcome {
            LookupOutcome::Settled { preimage, fee, .. } if proved => {
                PaymentUpdate::Settled { preimage, fee }
            }
            LookupOutcome::Failed => PaymentUpdate::Failed {
                reason: "the wallet says that it failed".to_owned(),
            },
            LookupOutcome::NotFound if believed => PaymentUpdate::Failed {
                reason: "the invoice has expired and the wallet never heard of it".to_owned(),
            },
            // Pending, not found yet, no answer, or paid without a proof yet: asked again.
            _ => return,
        };
        self.apply_update(turn, hash, news);
    }
}
