//! Budgets: what is set aside, what is under way, what is spent, and what that leaves.
//!
//! Not persistent by itself: spending is found again in the ledger, and a
//! reservation ends with the run that made it. A payment counts against the UTC
//! day in which it was planned, with its fee limit while it is under way and its
//! true fee afterwards; what is set aside and not yet used counts against today.
//! Called by `reserve` and `saga`.
//!
//! # Fees
//! A reservation bounds cost and routing fees together: of its payments, those settled count
//! with their true fee and those under way with their fee limit. All of them share one fee
//! budget ([`crate::money::Fees`]), and a payment gets at most half of what is left of it, so
//! that one under way leaves something to the next. A host may be told of no more than
//! [`crate::money::Fees::cost_within`] leaves of the cap, or its last invoice finds no room.

use super::Config;
use crate::ids::{EffectId, NodeKey, OrderId, PaymentHash, RequestId};
use crate::limits;
use crate::message::inference::PayRequest;
use crate::money::Msat;
use crate::refusal::{Code, Refusal};
use crate::time::WallTime;
use std::collections::BTreeMap;

/// Milliseconds of a day; UTC has no others that matter here.
pub(super) const DAY_MS: u64 = 86_400_000;

/// Days of spending remembered: enough for a clock that was set wrong and back.
const DAYS_KEPT: u64 = 40;

/// Returns the UTC day of a time, counted from 1970.
pub(super) fn day(time: WallTime) -> u64 {
    time.0 / DAY_MS
}

/// Money set aside for a request.
#[derive(Debug)]
pub(super) struct Reservation {
    pub budget: String,
    pub max_cost: Msat,
    pub sums: Sums,
    /// The balance check that must end before it counts as granted.
    pub check: Option<EffectId>,
    pub orders: BTreeMap<OrderId, Bound>,
}

impl Reservation {
    /// What is not used of it.
    pub fn left(&self) -> Msat {
        self.max_cost.saturating_sub(self.sums.used)
    }
}

/// What is settled and under way of a reservation.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    /// With fees, and with fee limits where it is under way.
    used: Msat,
    /// Of that, fees and fee limits.
    fees: Msat,
}

impl Sums {
    fn take(&mut self, msat: Msat, fee: Msat) {
        self.used = self.used.saturating_add(msat).saturating_add(fee);
        self.fees = self.fees.saturating_add(fee);
    }
}

/// An order that a request became.
#[derive(Debug)]
pub(super) struct Bound {
    host: NodeKey,
    /// Invoices paid or under way, by number.
    seqs: BTreeMap<u32, PaymentHash>,
    in_flight: usize,
}

/// Permission to send one payment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SpendGrant {
    /// The budget it is charged to.
    pub budget: String,
    /// Its fee limit: as asked for, or what the order has left.
    pub max_fee: Msat,
}

/// A payment that counts against a budget and whose outcome is not final.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PendingSpend {
    /// The order.
    pub order: OrderId,
    /// Which invoice.
    pub seq: u32,
    /// The budget it is charged to.
    pub budget: String,
    /// The UTC day it is charged to.
    pub day: u64,
    /// Amount.
    pub msat: Msat,
    /// Fee limit.
    pub max_fee: Msat,
}

impl PendingSpend {
    /// What it takes at most.
    fn most(&self) -> Msat {
        self.msat.saturating_add(self.max_fee)
    }
}

/// All reservations and sums.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    pub reservations: BTreeMap<RequestId, Reservation>,
    pub checks: BTreeMap<EffectId, RequestId>,
    pub requests: BTreeMap<OrderId, RequestId>,
    held: BTreeMap<(u64, String), Msat>,
    spent: BTreeMap<(u64, String), Msat>,
}

impl Budgets {
    /// A request became an order. Ignored where nothing was reserved.
    pub fn bind(&mut self, request: RequestId, order: OrderId, host: NodeKey) {
        if let Some(reservation) = self.reservations.get_mut(&request)
            && !self.requests.contains_key(&order)
        {
            self.requests.insert(order, request);
            let seqs = BTreeMap::new();
            let in_flight = 0;
            let bound = Bound {
                host,
                seqs,
                in_flight,
            };
            reservation.orders.insert(order, bound);
        }
    }

    /// Checks every cap for a payment.
    pub fn allow(
        &self,
        config: &Config,
        today: u64,
        pay: &PayRequest,
    ) -> Result<SpendGrant, Refusal> {
        let found = self.requests.get(&pay.order).and_then(|request| {
            let reservation = self.reservations.get(request)?;
            let reservation = reservation.check.is_none().then_some(reservation)?;
            Some((reservation, reservation.orders.get(&pay.order)?))
        });
        let Some((reservation, bound)) = found else {
            return Err(Refusal::new(
                Code::BudgetExhausted,
                format!("nothing is set aside for order {}", pay.order.short()),
            ));
        };
        let max_fee = allow_invoice(config, reservation, bound, pay)?;
        let budget = reservation.budget.clone();
        let left = self.left(config, today, &budget);
        // What is set aside, fees included, is already in `left`.
        if left.over {
            return Err(left.refusal(pay.msat, "this payment takes"));
        }
        Ok(SpendGrant { budget, max_fee })
    }

    /// A payment allowed before is under way.
    pub fn hold(&mut self, hold: &PendingSpend, hash: PaymentHash) {
        add(&mut self.held, hold, hold.most());
        if let Some((sums, bound)) = self.order(&hold.order) {
            sums.take(hold.msat, hold.max_fee);
            bound.seqs.insert(hold.seq, hash);
            bound.in_flight += 1;
        }
    }

    /// A payment under way ended: it cost that fee, or was not made.
    pub fn end(&mut self, hold: &PendingSpend, fee: Option<Msat>) {
        let key = (hold.day, hold.budget.clone());
        if let Some(held) = self.held.get_mut(&key) {
            *held = held.saturating_sub(hold.most());
            if *held == Msat::ZERO {
                self.held.remove(&key);
            }
        }
        if let Some((sums, bound)) = self.order(&hold.order) {
            bound.in_flight = bound.in_flight.saturating_sub(1);
            sums.used = sums.used.saturating_sub(hold.most());
            sums.fees = sums.fees.saturating_sub(hold.max_fee);
            match fee {
                Some(fee) => sums.take(hold.msat, fee),
                None => drop(bound.seqs.remove(&hold.seq)),
            }
        }
        if let Some(fee) = fee {
            let paid = hold.msat.saturating_add(fee);
            self.spend(hold.day, hold.budget.clone(), paid);
        }
    }

    /// A payment that had failed was paid after all.
    pub fn revive(&mut self, hold: &PendingSpend, hash: PaymentHash, fee: Msat) {
        if let Some((sums, bound)) = self.order(&hold.order) {
            sums.take(hold.msat, fee);
            bound.seqs.insert(hold.seq, hash);
        }
        let paid = hold.msat.saturating_add(fee);
        self.spend(hold.day, hold.budget.clone(), paid);
    }

    /// Counts a payment that is settled.
    pub fn spend(&mut self, day: u64, budget: String, paid: Msat) {
        let sum = self.spent.entry((day, budget)).or_default();
        *sum = sum.saturating_add(paid);
        let newest = self.spent.last_key_value().map_or(0, |((day, _), _)| *day);
        let oldest = (newest.saturating_sub(DAYS_KEPT), String::new());
        self.spent = self.spent.split_off(&oldest);
    }

    /// Returns what every budget spent on a day, by name.
    pub fn spent_on(&self, today: u64) -> BTreeMap<String, Msat> {
        self.spent
            .iter()
            .filter(|((day, _), _)| *day == today)
            .map(|((_, budget), sum)| (budget.clone(), *sum))
            .collect()
    }

    /// Holds for a payment found in the ledger at start.
    pub fn resume(&mut self, hold: &PendingSpend) {
        add(&mut self.held, hold, hold.most());
    }

    fn order(&mut self, order: &OrderId) -> Option<(&mut Sums, &mut Bound)> {
        let request = self.requests.get(order)?;
        let Reservation { sums, orders, .. } = self.reservations.get_mut(request)?;
        Some((sums, orders.get_mut(order)?))
    }

    /// Returns what today leaves of the day's limit and of the budget's own.
    pub fn left(&self, config: &Config, today: u64, budget: &str) -> Left {
        let day = Left::of("the day", config.per_day, self.taken(today, None));
        match config.per_key.get(budget) {
            Some(limit) => {
                let name = format!("budget \"{budget}\"");
                let key = Left::of(&name, *limit, self.taken(today, Some(budget)));
                if key.over || (!day.over && key.msat < day.msat) {
                    key
                } else {
                    day
                }
            }
            None => day,
        }
    }

    /// Spent, under way and set aside, of one budget or of all.
    fn taken(&self, today: u64, budget: Option<&str>) -> Taken {
        let matches = |name: &str| budget.is_none_or(|budget| budget == name);
        let sum = |sums: &BTreeMap<(u64, String), Msat>| {
            sums.iter()
                .filter(|((day, name), _)| *day == today && matches(name))
                .fold(Msat::ZERO, |sum, (_, part)| sum.saturating_add(*part))
        };
        let reserved = self
            .reservations
            .values()
            .filter(|reservation| matches(&reservation.budget))
            .map(Reservation::left)
            .fold(Msat::ZERO, Msat::saturating_add);
        Taken {
            spent: sum(&self.spent),
            reserved: reserved.saturating_add(sum(&self.held)),
        }
    }
}

/// Checks an invoice against its order; returns the fee limit that the order leaves to it.
fn allow_invoice(
    config: &Config,
    reservation: &Reservation,
    bound: &Bound,
    pay: &PayRequest,
) -> Result<Msat, Refusal> {
    if bound.host != pay.host {
        let text = "the invoice is not from the host that the order was bound to";
        return Err(Refusal::new(Code::ProtocolViolation, text));
    }
    if bound.seqs.contains_key(&pay.seq) {
        let text = format!(
            "invoice {} of this order is paid or under way, and is never paid by another",
            pay.seq
        );
        return Err(Refusal::new(Code::PaymentUnknown, text));
    }
    let in_flight = config
        .max_in_flight_per_order
        .min(limits::MAX_PAYMENTS_IN_FLIGHT);
    if bound.in_flight >= in_flight {
        let text = format!("{in_flight} payments of this order are under way, which is the most");
        return Err(Refusal::new(Code::Busy, text));
    }
    let left = reservation.left();
    let Some(beside) = left.0.checked_sub(pay.msat.0) else {
        let text = format!(
            "{} more would pass the cap of {} for this order, of which {} are paid or under way, routing fees included",
            pay.msat, reservation.max_cost, reservation.sums.used
        );
        return Err(Refusal::new(Code::CapTooLow, text));
    };
    let budget = config.fees.within(reservation.max_cost);
    let share = Msat(budget.saturating_sub(reservation.sums.fees).0.div_ceil(2));
    Ok(pay.max_fee.min(share).min(Msat(beside)))
}

/// What counts against a limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    spent: Msat,
    reserved: Msat,
}

/// What a limit leaves.
#[derive(Debug)]
pub(super) struct Left {
    name: String,
    limit: Msat,
    taken: Taken,
    pub msat: Msat,
    pub over: bool,
}

impl Left {
    fn of(name: &str, limit: Msat, taken: Taken) -> Left {
        let sum = taken.spent.saturating_add(taken.reserved);
        Left {
            name: name.to_owned(),
            limit,
            taken,
            msat: limit.saturating_sub(sum),
            over: sum > limit,
        }
    }

    /// Says so, with the figures.
    pub fn refusal(&self, wanted: Msat, what: &str) -> Refusal {
        let Taken { spent, reserved } = self.taken;
        let text = format!(
            "{what} {wanted}, and {} of the limit of {} for {} are left: {spent} spent today, {reserved} set aside",
            self.msat, self.limit, self.name
        );
        Refusal::new(Code::BudgetExhausted, text)
    }
}

fn add(sums: &mut BTreeMap<(u64, String), Msat>, hold: &PendingSpend, part: Msat) {
    let sum = sums.entry((hold.day, hold.budget.clone())).or_default();
    *sum = sum.saturating_add(part);
}
