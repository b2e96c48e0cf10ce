//! The wallets' side of effects: invoices, payments, their fates and their events.

use super::{Via, World};
use crate::check::Seen;
use crate::crypto::write_invoice;
use crate::dice::MS;
use crate::event::{Event, NodeIx};
use crate::wallet::{Fate, NoWay};
use protocol::crypto::InvoiceFacts;
use protocol::ids::{EffectId, PaymentHash};
use protocol::message::payment::{Input, PayOutcome};
use protocol::money::Msat;
use protocol::route::Delivery;

/// Pause before an event that was not acknowledged is repeated. Milliseconds.
const REPEAT_MS: u64 = 15_000;

impl World {
    pub(super) fn create_invoice(
        &mut self,
        node: NodeIx,
        id: EffectId,
        msat: Msat,
        description_hash: [u8; 32],
        expiry_s: u32,
    ) {
        let life_ms = u64::from(expiry_s) * 1_000;
        let expires = self.nodes[node].now(self.now).wall.after_ms(life_ms);
        let until = self.now + life_ms * MS;
        let hash = self.wallets.issue(node, msat, expires, until);
        let facts = InvoiceFacts {
            payee: self.nodes[node].participant.lightning,
            hash,
            msat: Some(msat),
            description_hash: Some(description_hash),
            expires,
        };
        let result = Ok((write_invoice(&facts), hash));
        let wait = self.dice.ms(1, 20);
        self.post(
            node,
            Via::Wallet,
            Delivery::Payment(Input::InvoiceCreated { id, result }),
            wait,
        );
    }

    pub(super) fn pay(
        &mut self,
        node: NodeIx,
        id: EffectId,
        bolt11: &str,
        hash: PaymentHash,
        msat: Msat,
        max_fee: Msat,
    ) {
        let agrees = crate::crypto::read_invoice(bolt11).is_some_and(|facts| facts.hash == hash);
        let late = self.dice.chance(self.plan.pay_late_ppm);
        let recorded = self.now + if late { self.dice.ms(1_000, 90_000) } else { 0 };
        let begun = if agrees {
            self.wallets.begin(node, hash, msat, max_fee, recorded)
        } else {
            Err(NoWay::CannotPay)
        };
        let epoch = self.nodes[node].epoch;
        match begun {
            // LDK knows a hash that it was asked to pay before; its fate is that of the first.
            Err(NoWay::AskedBefore) => self.pay_done(node, id, hash, PayOutcome::Unknown, 10 * MS),
            Err(NoWay::CannotPay) => {
                self.see(Seen::PayFailed { payer: node, hash });
                let outcome = PayOutcome::Failed {
                    reason: "insufficient balance".to_owned(),
                };
                self.pay_done(node, id, hash, outcome, 10 * MS);
            }
            Ok(()) => {
                let doomed = self.dice.chance(self.plan.pay_fail_ppm);
                let unknown = self.dice.chance(self.plan.pay_unknown_ppm);
                let silent = self.dice.chance(self.plan.pay_silent_ppm);
                let quick = self.dice.ms(40, 250);
                let slow = self.dice.ms(1_000, 150_000);
                let when = if unknown || silent || late {
                    slow
                } else {
                    quick
                };
                if let Some(out) = self.wallets.of[node].outgoing.get_mut(&hash) {
                    out.doomed = doomed;
                    out.answer = (!unknown && !silent).then_some((epoch, id));
                }
                if unknown {
                    self.pay_done(node, id, hash, PayOutcome::Unknown, quick);
                }
                self.queue
                    .push(self.now + when, Event::Resolve { payer: node, hash });
            }
        }
    }

    fn pay_done(
        &mut self,
        node: NodeIx,
        id: EffectId,
        hash: PaymentHash,
        outcome: PayOutcome,
        wait: u64,
    ) {
        let done = Delivery::Payment(Input::PayDone { id, hash, outcome });
        self.post(node, Via::Wallet, done, wait);
    }

    pub(super) fn resolve(&mut self, payer: NodeIx, hash: PaymentHash) {
        let Some(payee) = self.wallets.payee(&hash) else {
            return;
        };
        let payee_wall = self.nodes[payee].now(self.now).wall;
        let payee_up = self.up(payee);
        let Some(fate) = self.wallets.resolve(payer, &hash, payee_up, payee_wall) else {
            return;
        };
        let out = self.wallets.of[payer].outgoing.get(&hash);
        let (msat, fee, answer) = out.map_or((Msat::ZERO, Msat::ZERO, None), |out| {
            (out.msat, out.fee, out.answer)
        });
        self.trace.bytes(&hash.0);
        self.trace
            .numbers(&[u64::from(fate == Fate::Settled), msat.0, fee.0]);
        if fate == Fate::Settled {
            self.tally.payments += 1;
            self.see(Seen::Settled {
                payer,
                payee,
                hash,
                msat: msat.0,
                fee: fee.0,
            });
            let received = self
                .wallets
                .event(payee, |event| Input::Received { event, hash, msat });
            self.tell_wallet(payee, received);
        } else {
            self.see(Seen::PayFailed { payer, hash });
        }
        self.watch_total();
        if self.own_payments.remove(&hash) {
            let settled = fate == Fate::Settled;
            return self.adversary(payer, |adversary, hand| adversary.paid(hand, hash, settled));
        }
        let outcome = self.wallets.outcome(payer, &hash);
        if let Some((epoch, id)) = answer
            && self.is_run(payer, epoch)
        {
            self.pay_done(payer, id, hash, outcome.clone(), 0);
        }
        let sent = self.wallets.event(payer, |event| Input::Sent {
            event,
            hash,
            outcome,
        });
        self.tell_wallet(payer, sent);
    }

    /// An event of the wallet reaches the node now, if it is up, and again until acknowledged.
    fn tell_wallet(&mut self, node: NodeIx, input: Input) {
        if self.up(node) {
            let wait = self.dice.ms(1, 60);
            self.post(node, Via::Wallet, Delivery::Payment(input), wait);
        }
        if !self.wallets.of[node].repeating {
            self.wallets.of[node].repeating = true;
            self.queue
                .push(self.now + REPEAT_MS * MS, Event::Repeat { node });
        }
    }

    pub(super) fn repeat(&mut self, node: NodeIx) {
        let events: Vec<Input> = self.wallets.of[node].events.values().cloned().collect();
        self.wallets.of[node].repeating = false;
        if events.is_empty() || !self.up(node) {
            return; // Repeated at the next start.
        }
        for input in events {
            self.post(node, Via::Wallet, Delivery::Payment(input), 0);
        }
        self.wallets.of[node].repeating = true;
        self.queue
            .push(self.now + REPEAT_MS * MS, Event::Repeat { node });
    }
}
