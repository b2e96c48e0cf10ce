//! Integer money: millisatoshi, prices per million units, and exact costs.
//!
//! Not a wallet and not a ledger. Every sum is checked: an overflow is an error,
//! never a wrapped number.

use serde::{Deserialize, Serialize};
use std::fmt;

/// An amount in millisatoshi (1 sat = 1,000 msat).
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Msat(pub u64);

impl Msat {
    /// Nothing.
    pub const ZERO: Msat = Msat(0);

    /// Returns the sum, or `None` on overflow.
    pub fn checked_add(self, other: Msat) -> Option<Msat> {
        self.0.checked_add(other.0).map(Msat)
    }

    /// Returns the sum, clamped at the largest amount.
    pub fn saturating_add(self, other: Msat) -> Msat {
        Msat(self.0.saturating_add(other.0))
    }

    /// Returns the difference, or zero where `other` is larger.
    pub fn saturating_sub(self, other: Msat) -> Msat {
        Msat(self.0.saturating_sub(other.0))
    }

    /// Returns the smaller amount.
    pub fn min(self, other: Msat) -> Msat {
        Msat(self.0.min(other.0))
    }

    /// Returns the larger amount.
    pub fn max(self, other: Msat) -> Msat {
        Msat(self.0.max(other.0))
    }
}

impl fmt::Display for Msat {
    /// Shows sats with msat precision: `12.345 sat`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} sat", self.0 / 1_000, self.0 % 1_000)
    }
}

/// What is counted when work is priced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meter {
    /// A prompt token that had to be computed.
    InputToken,
    /// A prompt token served from the host's prefix cache.
    CachedInputToken,
    /// A generated token that was delivered.
    OutputToken,
    /// One item: an embedding, a rerank pair, a classification.
    Item,
    /// One output pixel.
    Pixel,
    /// One second of audio or video.
    Second,
}

/// A price: msat for one million units of a meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// What is counted.
    pub meter: Meter,
    /// Msat for one million of them.
    pub msat_per_million: u64,
}

/// The prices of one model at one host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Prices(pub Vec<Price>);

impl Prices {
    /// Prices for a chat model, msat per million tokens.
    pub fn chat(input: u64, output: u64) -> Self {
        Prices(vec![
            Price {
                meter: Meter::InputToken,
                msat_per_million: input,
            },
            Price {
                meter: Meter::OutputToken,
                msat_per_million: output,
            },
        ])
    }

    /// The same with a price for one more meter.
    #[must_use]
    pub fn with(mut self, meter: Meter, msat_per_million: u64) -> Self {
        self.0.retain(|price| price.meter != meter);
        self.0.push(Price {
            meter,
            msat_per_million,
        });
        self
    }

    /// The same without a price for one meter.
    #[must_use]
    pub fn without(mut self, meter: Meter) -> Self {
        self.0.retain(|price| price.meter != meter);
        self
    }

    /// Returns the price of `meter`; an unlisted meter is free.
    pub fn of(&self, meter: Meter) -> u64 {
        self.0
            .iter()
            .find(|price| price.meter == meter)
            .map_or(0, |price| price.msat_per_million)
    }

    /// Returns whether `meter` has a price, be it nothing.
    pub fn lists(&self, meter: Meter) -> bool {
        self.0.iter().any(|price| price.meter == meter)
    }

    /// Returns the exact cost of `counts`, rounded down once at the end.
    ///
    /// Both sides compute the cost of running totals with this function, so
    /// they agree to the msat however the work was cut into invoices.
    pub fn cost(&self, counts: &Counts) -> Option<Msat> {
        let sum = [
            (Meter::InputToken, counts.input_tokens),
            (Meter::CachedInputToken, counts.cached_input_tokens),
            (Meter::OutputToken, counts.output_tokens),
            (Meter::Item, counts.items),
        ]
        .into_iter()
        .try_fold(0u128, |sum, (meter, count)| {
            let part = u128::from(self.of(meter)).checked_mul(u128::from(count))?;
            sum.checked_add(part)
        })?;
        u64::try_from(sum / 1_000_000).ok().map(Msat)
    }

    /// Returns the cost, clamped at the largest amount where it would overflow.
    pub fn cost_or_max(&self, counts: &Counts) -> Msat {
        self.cost(counts).unwrap_or(Msat(u64::MAX))
    }

    /// Returns the cost of `counts` with one unit of output more, clamped like the above.
    pub fn cost_with_next(&self, counts: &Counts, meter: Meter) -> Msat {
        let units = counts.delivered().saturating_add(1);
        self.cost_or_max(&counts.with_delivered(meter, units))
    }
}

/// Running totals of an order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Prompt tokens computed.
    pub input_tokens: u64,
    /// Prompt tokens served from cache.
    pub cached_input_tokens: u64,
    /// Generated tokens delivered.
    pub output_tokens: u64,
    /// Items delivered.
    pub items: u64,
}

impl Counts {
    /// Prompt tokens, computed or from cache.
    pub fn prompt(&self) -> u64 {
        self.input_tokens.saturating_add(self.cached_input_tokens)
    }

    /// What was delivered: tokens, or items. An order has one of them.
    pub fn delivered(&self) -> u64 {
        self.output_tokens.saturating_add(self.items)
    }

    /// The same input with `units` of that meter delivered.
    #[must_use]
    pub fn with_delivered(self, meter: Meter, units: u64) -> Counts {
        let (output_tokens, items) = match meter {
            Meter::Item => (0, units),
            _ => (units, 0),
        };
        Counts {
            output_tokens,
            items,
            ..self
        }
    }
}

/// How much of an order's cap may go into routing fees, over all its payments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fees {
    /// In parts per million of the cap.
    pub ppm: u64,
    /// In any case; but never more than half of the cap.
    pub floor: Msat,
}

impl Default for Fees {
    fn default() -> Self {
        Fees {
            // A twentieth: a path of public nodes takes about a hundredth.
            ppm: 50_000,
            // Three public nodes at their usual base fee of a sat.
            floor: Msat(3_000),
        }
    }
}

impl Fees {
    /// Returns what of `cap` may go into fees.
    pub fn within(&self, cap: Msat) -> Msat {
        let share = u128::from(cap.0) * u128::from(self.ppm) / 1_000_000;
        let share = Msat(u64::try_from(share).unwrap_or(u64::MAX));
        share.max(self.floor).min(Msat(cap.0 / 2))
    }

    /// Returns what `cap` leaves for cost: the most that a host may ask for.
    pub fn cost_within(&self, cap: Msat) -> Msat {
        cap.saturating_sub(self.within(cap))
    }

    /// Returns the least cap that leaves `cost` for cost; where there is none, the largest.
    pub fn cap_for(&self, cost: Msat) -> Msat {
        // What is left for cost never falls as the cap rises, and is half of it at least.
        let (mut low, mut high) = (cost.0, cost.0.saturating_mul(2));
        while low < high {
            let middle = low + (high - low) / 2;
            match self.cost_within(Msat(middle)) >= cost {
                true => high = middle,
                false => low = middle + 1,
            }
        }
        Msat(high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sats_are_shown_with_msat_precision() {
        assert_eq!(Msat(12_345).to_string(), "12.345 sat");
    }

    #[test]
    fn an_overflowing_cost_is_none() {
        let prices = Prices::chat(u64::MAX, u64::MAX);
        let counts = Counts {
            input_tokens: u64::MAX,
            output_tokens: u64::MAX,
            ..Counts::default()
        };
        assert_eq!(prices.cost(&counts), None);
    }

    proptest! {
        #[test]
        fn cost_never_falls_as_tokens_are_added(
            input in 0u64..1_000_000_000, output in 0u64..1_000_000_000,
            tokens in 0u64..100_000, more in 0u64..100_000,
        ) {
            let prices = Prices::chat(input, output);
            let fewer = Counts { input_tokens: 7, output_tokens: tokens, ..Counts::default() };
            let all = Counts { output_tokens: tokens + more, ..fewer };
            prop_assert!(prices.cost(&fewer).unwrap() <= prices.cost(&all).unwrap());
        }
    }
}
