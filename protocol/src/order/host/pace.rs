//! How much output a host gives ahead of payment, and when it asks for more: windows, steps and
//! allowances. Pure arithmetic over what an order came to so far.

use crate::money::{Counts, Meter, Msat, Prices};
use crate::wire::manifest::PaymentMode;

/// What an order may cost, what came of it, and what was paid: all that the pace depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace<'a> {
    // As ordered and offered.
    /// The prices of the terms.
    pub prices: &'a Prices,
    /// What one delivered unit is.
    pub meter: Meter,
    /// Units that the job may be delivered.
    pub ordered: u64,
    /// The order's cap, without routing fees.
    pub max_cost: Msat,
    /// Smallest amount that the buyer's wallet can pay, and a divisor of all that it can.
    pub grain: Msat,
    /// One step of payment, as it is listed.
    pub quantum: Msat,

    // As it went.
    /// The input, and the output delivered so far.
    pub counts: Counts,
    /// Output that may be unpaid at once.
    pub window: Msat,
    /// Debt of earlier orders that this one takes up.
    pub carried: Msat,
    /// Paid so far.
    pub paid: Msat,
    /// Sum of the invoices so far.
    pub invoiced: Msat,
}

impl Pace<'_> {
    fn cost_with(&self, units: u64) -> Msat {
        let counts = self.counts.with_delivered(self.meter, units);
        self.prices.cost_or_max(&counts)
    }

    /// Returns what the input and the output so far cost.
    pub fn cost(&self) -> Msat {
        self.prices.cost_or_max(&self.counts)
    }

    /// Returns what everything ordered would cost.
    pub fn ceiling(&self) -> Msat {
        self.cost_with(self.ordered)
    }

    /// Returns what one unit of output costs.
    pub fn unit(&self) -> Msat {
        self.cost_with(1).saturating_sub(self.cost_with(0))
    }

    /// Returns one step of payment: the listing's, in amounts that the buyer's wallet can pay.
    pub fn step(&self) -> Msat {
        self.rounded_up(self.quantum)
    }

    /// Returns the least window that carries a stream: a step, or one unit where that is dearer.
    pub fn least_window(&self) -> Msat {
        self.step().max(self.unit())
    }

    /// Rounds up to what the buyer's wallet can pay.
    pub fn rounded_up(&self, amount: Msat) -> Msat {
        let grain = self.grain.0.max(1);
        Msat(amount.0.div_ceil(grain).saturating_mul(grain))
    }

    /// Rounds down to what the buyer's wallet can pay.
    pub fn rounded_down(&self, amount: Msat) -> Msat {
        Msat(amount.0 - amount.0 % self.grain.0.max(1))
    }

    /// Returns the credit before anything is paid: the window without the carried debt.
    pub fn free(&self) -> Msat {
        self.window.saturating_sub(self.carried)
    }

    /// Returns the entry payment: the input, the carried debt, and a step of output or all of it.
    pub fn entry(&self, mode: PaymentMode) -> Msat {
        let input = self.cost();
        let all = self.ceiling().saturating_sub(input);
        // At least one token: an order that can never begin takes no money.
        let output = match mode {
            PaymentMode::Before => all,
            PaymentMode::Metered | PaymentMode::After => all.min(self.least_window()),
        };
        let sum = input.saturating_add(output).saturating_add(self.carried);
        let entry = self.rounded_up(sum);
        match mode {
            // The cap ends the output where it does not reach for all of it.
            PaymentMode::Before => entry.min(self.rounded_down(self.max_cost)),
            PaymentMode::Metered | PaymentMode::After => entry,
        }
    }

    /// Returns the units of output that `paid + window` and the order's cap allow in total.
    pub fn allowance(&self) -> u64 {
        let credit = self
            .paid
            .saturating_add(self.window)
            .saturating_sub(self.carried);
        self.affordable(credit).min(self.most_output())
    }

    /// Returns the units of output that the job and the buyer's cap allow.
    pub fn most_output(&self) -> u64 {
        let cap = self.max_cost.saturating_sub(self.carried);
        self.affordable(cap).min(self.ordered)
    }

    /// Returns the largest n with cost(input + n units of output) <= `credit`; 0 where the input
    /// alone costs more.
    pub fn affordable(&self, credit: Msat) -> u64 {
        let per_unit = u128::from(self.prices.of(self.meter));
        if per_unit == 0 {
            return u64::MAX;
        }
        let part = |meter, count| u128::from(self.prices.of(meter)) * u128::from(count);
        let input = part(Meter::InputToken, self.counts.input_tokens)
            + part(Meter::CachedInputToken, self.counts.cached_input_tokens);
        let room = ((u128::from(credit.0) + 1) * 1_000_000 - 1).saturating_sub(input);
        u64::try_from(room / per_unit).unwrap_or(u64::MAX)
    }

    /// Returns what can be invoiced of `due` now.
    pub fn open(&self, due: Msat) -> Msat {
        self.rounded_down(due.saturating_sub(self.invoiced))
    }

    /// Returns the amount of the invoice that is to be made while output goes on, if any: half a
    /// window and no less than a step. Where output `stands` still until something is paid,
    /// whatever is open is invoiced. It may be less than a unit short of a step.
    pub fn next_invoice(&self, due: Msat, stands: bool) -> Option<Msat> {
        let open = self.open(due);
        let half = Msat(self.window.0 / 2);
        let is_due = open >= half.max(self.step()) || (stands && open > Msat::ZERO);
        is_due.then_some(open)
    }

    /// Returns the window after a payment, where Payment grants `granted`: at least a step of
    /// what this very order paid, so that its stream can go on.
    pub fn window_with(&self, granted: Msat) -> Msat {
        granted.max(self.least_window().min(self.paid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Millionths of a msat for a token: from nothing to two sats, dear ones seldom.
    fn price() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), 0..1_000_000u64, 0..2_000_000_000u64]
    }

    fn grain() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), Just(1), Just(1_000), 2..5_000u64]
    }

    fn amount() -> impl Strategy<Value = u64> {
        prop_oneof![0..10u64, 0..10_000u64, 0..100_000_000u64, Just(u64::MAX)]
    }

    prop_compose! {
        fn terms()(input in price(), output in price(), cached in price())(
            prices in Just(Prices(
                [(Meter::InputToken, input), (Meter::OutputToken, output),
                    (Meter::CachedInputToken, cached)]
                .map(|(meter, msat_per_million)| crate::money::Price { meter, msat_per_million })
                .to_vec(),
            ))
        ) -> Prices { prices }
    }

    prop_compose! {
        fn sums()(window in amount(), carried in 0..20_000u64, paid in amount()) -> [Msat; 3] {
            [window, carried, paid].map(Msat)
        }
    }

    prop_compose! {
        fn job()(
            prompt in 0..50_000u64, cached in 0..50_000u64, ordered in 0..20_000u64,
            max_cost in amount(), grain in grain(), quantum in 1..5_000u64,
        ) -> (Counts, u64, [Msat; 3]) {
            let counts = Counts {
                input_tokens: prompt, cached_input_tokens: cached, ..Counts::default()
            };
            (counts, ordered, [max_cost, grain, quantum].map(Msat))
        }
    }

    fn pace<'a>(
        prices: &'a Prices,
        (counts, ordered, [max_cost, grain, quantum]): (Counts, u64, [Msat; 3]),
        [window, carried, paid]: [Msat; 3],
    ) -> Pace<'a> {
        Pace {
            prices,
            meter: Meter::OutputToken,
            ordered,
            max_cost,
            grain,
            quantum,
            counts,
            window,
            carried,
            paid,
            invoiced: Msat::ZERO,
        }
    }

    proptest! {
        #[test]
        fn as_much_is_affordable_as_the_credit_covers_and_not_one_unit_more(
            prices in terms(), job in job(), sums in sums(), credit in amount(),
        ) {
            let pace = pace(&prices, job, sums);
            let (units, credit) = (pace.affordable(Msat(credit)), Msat(credit));
            if prices.of(Meter::OutputToken) == 0 {
                prop_assert_eq!(units, u64::MAX);
            } else if pace.cost() > credit {
                prop_assert_eq!(units, 0);
            } else {
                prop_assert!(pace.cost_with(units) <= credit);
                let more = pace.counts.with_delivered(Meter::OutputToken, units.saturating_add(1));
                prop_assert!(units == u64::MAX || prices.cost(&more).is_none_or(|cost| cost > credit));
            }
        }

        #[test]
        fn an_allowance_is_within_payment_and_window_the_cap_and_the_order(
            prices in terms(), job in job(), sums in sums(),
        ) {
            let pace = pace(&prices, job, sums);
            let allowed = pace.allowance();
            prop_assert!(allowed <= pace.most_output() && pace.most_output() <= pace.ordered);
            // Free output is no risk, whatever the input costs.
            if allowed > 0 && prices.of(Meter::OutputToken) > 0 {
                let cost = pace.cost_with(allowed);
                let credit = pace.paid.saturating_add(pace.window);
                prop_assert!(cost <= credit.saturating_sub(pace.carried), "{cost} is delivered");
                prop_assert!(cost <= pace.max_cost.saturating_sub(pace.carried));
            }
        }

        #[test]
        fn a_payment_never_takes_output_away(
            prices in terms(), job in job(), sums in sums(), more in amount(), granted in amount(),
        ) {
            let before = pace(&prices, job, sums);
            let mut after = Pace { paid: before.paid.saturating_add(Msat(more)), ..before };
            prop_assert!(after.allowance() >= before.allowance());
            let window = after.window_with(Msat(granted));
            prop_assert!(window >= Msat(granted));
            prop_assert!(window <= Msat(granted).max(after.paid), "no more is lent than was paid");
            after.window = window;
            prop_assert!(after.window_with(window) == window);
        }

        #[test]
        fn amounts_are_multiples_of_what_the_wallet_can_pay(
            prices in terms(), job in job(), sums in sums(), due in 0..1_000_000_000u64,
            stands in any::<bool>(),
        ) {
            let pace = pace(&prices, job, sums);
            let grain = pace.grain.0.max(1);
            let due = Msat(due);
            prop_assert_eq!(pace.step().0 % grain, 0);
            prop_assert!(pace.step() >= pace.quantum && pace.step().0 < pace.quantum.0 + grain);
            prop_assert!(pace.open(due) <= due && due.0 - pace.open(due).0 < grain);
            if let Some(amount) = pace.next_invoice(due, stands) {
                prop_assert_eq!(amount.0 % grain, 0);
                prop_assert!(amount > Msat::ZERO && amount <= due);
                prop_assert!(stands || amount >= pace.step());
            }
        }

        #[test]
        fn an_entry_is_what_its_mode_says(prices in terms(), job in job(), sums in sums()) {
            let pace = pace(&prices, job, sums);
            let grain = pace.grain.0.max(1);
            let least = pace.cost().saturating_add(pace.carried);
            let most = pace.ceiling().saturating_add(pace.carried);
            let step = pace.entry(PaymentMode::Metered);
            let all = pace.entry(PaymentMode::Before);
            prop_assert!(step >= least && step.0 < most.0 + grain);
            let output = pace.least_window();
            prop_assert!(step.0 < least.saturating_add(output).0.saturating_add(grain));
            prop_assert!(all <= pace.max_cost && all.0 < most.0 + grain);
            prop_assert!(all >= step || all.0.saturating_add(grain) > pace.max_cost.0);
        }

        #[test]
        fn a_stream_that_is_paid_goes_on_to_its_end_and_is_never_overdrawn(
            prices in terms(), job in job(), carried in 0..2_000u64, more in 0..20_000u64,
            speeds in prop::collection::vec((1..500u64, any::<bool>()), 1..40),
        ) {
            let (counts, ordered, [_, grain, quantum]) = job;
            let job = (counts, ordered % 2_000, [Msat(u64::MAX), grain, quantum]);
            let mut pace = pace(&prices, job, [Msat::ZERO, Msat(carried), Msat::ZERO]);
            // Room for one more unit beside what no invoice can say.
            let enough = pace.unit().0 + pace.grain.0.max(1);
            let granted = Msat(pace.least_window().0.max(enough) + more);
            pace.paid = pace.entry(PaymentMode::Metered);
            pace.invoiced = pace.paid;
            pace.window = granted;
            let (mut speeds, mut unpaid) = (speeds.into_iter().cycle(), Vec::new());
            for _ in 0..10_000 {
                let (speed, pays) = speeds.next().unwrap();
                let (allowed, delivered) = (pace.allowance(), pace.counts.delivered());
                if delivered >= pace.most_output() {
                    break;
                }
                let delivered = (delivered + speed).min(allowed);
                pace.counts = pace.counts.with_delivered(Meter::OutputToken, delivered);
                let due = pace.cost().saturating_add(pace.carried);
                if prices.of(Meter::OutputToken) > 0 {
                    prop_assert!(due.saturating_sub(pace.paid) <= pace.window);
                }
                let stands = delivered >= allowed && unpaid.is_empty();
                if let Some(amount) = pace.next_invoice(due, stands) {
                    pace.invoiced = pace.invoiced.saturating_add(amount);
                    prop_assert!(pace.invoiced <= due.max(pace.paid));
                    unpaid.push(amount);
                }
                if pays || delivered >= allowed {
                    pace.paid = unpaid.drain(..).fold(pace.paid, Msat::saturating_add);
                    pace.window = pace.window_with(granted);
                }
            }
            prop_assert_eq!(pace.counts.delivered(), pace.most_output(), "it stands still");
        }
    }
}
