//! Setting money aside for a request, once the limits and the wallet allow it.
//!
//! Not a promise of the wallet: what it can spend is asked once, when the request
//! begins. Sums and limits are in `budget`.

use super::Payment;
use super::budget::{DAY_MS, Reservation, Sums, day};
use super::turn::{TimerKind, Turn};
use crate::ids::{EffectId, RequestId};
use crate::limits;
use crate::message::payment::Effect;
use crate::message::sibling::Message;
use crate::money::Msat;
use crate::refusal::{Code, Refusal};
use crate::time::WallTime;
use std::collections::BTreeMap;

/// Suggested wait where the wallet is away. Milliseconds. Peers are called every half minute.
const AWAY_RETRY_MS: u64 = 30_000;

impl Payment {
    /// Sets money aside if the limits allow, and asks the wallet whether it is there.
    pub(super) fn reserve(
        &mut self,
        turn: &mut Turn,
        request: RequestId,
        budget: String,
        max_cost: Msat,
    ) {
        if let Some(known) = self.budgets.reservations.get(&request) {
            // Asked twice: one answer is on its way, or is given again.
            if known.check.is_none() {
                let result = Ok(());
                turn.tell(Message::Reserved { request, result });
            }
            return;
        }
        if let Err(refusal) = self.may_reserve(turn.now.wall, &budget, max_cost) {
            let result = Err(refusal);
            turn.tell(Message::Reserved { request, result });
            return;
        }
        let id = self.ids.fresh();
        let timeout = turn.now.tick.after_ms(self.config.wallet_timeout_ms);
        self.timers.set(TimerKind::Balance(id), timeout);
        self.budgets.checks.insert(id, request);
        let reservation = Reservation {
            budget,
            max_cost,
            sums: Sums::default(),
            check: Some(id),
            orders: BTreeMap::new(),
        };
        self.budgets.reservations.insert(request, reservation);
        turn.then(Effect::CheckBalance { id });
    }

    fn may_reserve(&self, wall: WallTime, budget: &str, max_cost: Msat) -> Result<(), Refusal> {
        if max_cost == Msat::ZERO {
            let text = "a cap of 0.000 sat pays for nothing";
            return Err(Refusal::new(Code::CapTooLow, text));
        }
        if max_cost > self.config.per_order {
            let text = format!(
                "this order may cost up to {max_cost}, and the limit for one order is {}",
                self.config.per_order
            );
            return Err(Refusal::new(Code::BudgetExhausted, text));
        }
        if self.budgets.reservations.len() >= limits::MAX_ORDERS {
            let text = format!("{} orders are open, which is the most", limits::MAX_ORDERS);
            return Err(Refusal::new(Code::Busy, text));
        }
        let left = self.budgets.left(&self.config, day(wall), budget);
        if left.over || max_cost > left.msat {
            let mut refusal = left.refusal(max_cost, "this order may cost up to");
            refusal.retry_after_ms = Some(DAY_MS - wall.0 % DAY_MS);
            return Err(refusal);
        }
        Ok(())
    }

    /// The wallet said what it can spend, or did not answer in time.
    pub(super) fn balance_checked(
        &mut self,
        turn: &mut Turn,
        id: EffectId,
        spendable: Option<Msat>,
    ) {
        self.timers.clear(TimerKind::Balance(id));
        let Some(request) = self.budgets.checks.remove(&id) else {
            return; // Released, or given up.
        };
        let wanted = self
            .budgets
            .reservations
            .values()
            .map(Reservation::left)
            .fold(Msat::ZERO, Msat::saturating_add);
        let Some(reservation) = self.budgets.reservations.get_mut(&request) else {
            return;
        };
        let max_cost = reservation.max_cost;
        let problem = match spendable {
            Some(spendable) if spendable >= wanted => None,
            Some(spendable) => {
                let text = format!(
                    "the wallet can spend {spendable}, and this order may cost up to {max_cost} (all open orders together {wanted})"
                );
                Some(Refusal::new(Code::WalletCannotPay, text))
            }
            None => {
                let text = "the wallet does not say what it can spend";
                let mut refusal = Refusal::new(Code::WalletAway, text);
                refusal.retry_after_ms = Some(AWAY_RETRY_MS);
                Some(refusal)
            }
        };
        let result = match problem {
            None => {
                reservation.check = None;
                Ok(())
            }
            Some(refusal) => {
                self.budgets.reservations.remove(&request);
                Err(refusal)
            }
        };
        turn.tell(Message::Reserved { request, result });
    }

    /// The request is over: what was not spent is free again. Payments under way stay counted.
    pub(super) fn release(&mut self, request: RequestId) {
        let Some(reservation) = self.budgets.reservations.remove(&request) else {
            return;
        };
        if let Some(id) = reservation.check {
            self.budgets.checks.remove(&id);
            self.timers.clear(TimerKind::Balance(id));
        }
        for order in reservation.orders.keys() {
            self.budgets.requests.remove(order);
        }
    }
}
