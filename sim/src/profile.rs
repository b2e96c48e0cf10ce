//! The market of one seed: when it begins, what things cost, how clocks run, how busy it is.
//!
//! Not the faults, which come and go: see `faults`. Drawn from a stream of chance of its own.

use crate::dice::Dice;
use crate::engine::NUMERICS;
use crate::node::models;
use protocol::ids::{Digest, ModelDigest};
use protocol::message::inference::Served;
use protocol::money::{Meter, Prices};
use protocol::wire::manifest::{HostLimits, ModelOffer};

/// The chat template of every model of the world, by digest.
pub const TEMPLATE: Digest = Digest([1; 32]);
/// Noon: 2026-01-15 12:00 UTC.
const NOON_MS: u64 = 1_768_478_400_000;
/// Half an hour before midnight UTC: the faulty phase crosses it, and the day's budgets with it.
const LATE_MS: u64 = NOON_MS + 11 * 3_600_000 + 1_800_000;
/// Default prices in msat per million tokens: 0.05 msat for one of input, 0.2 for one of output.
const DEFAULT_PRICES: (u64, u64) = (50_000, 200_000);
/// One step of payment, by default. Msat.
pub const QUANTUM: u64 = 1_000;
/// Steps of payment that no round sum is a multiple of, and tiny and large ones. Msat.
const ODD_QUANTA: [u64; 4] = [1, 777, 1_337, 6_001];
/// Most output tokens of an order at hosts with default prices.
const CHEAP_OUTPUT: u32 = 8_192;

/// What hosts ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PriceLevel {
    /// 40 to 300 msat for a token of output: every few tokens are a payment.
    Dear,
    /// The defaults of a node: thousands of tokens are one payment.
    Default,
    /// Some hosts are dear, some are not.
    Mixed,
}

/// The market of one seed.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Wall time at tick 0. Milliseconds since the epoch.
    pub epoch_ms: u64,
    /// What hosts ask for.
    pub prices: PriceLevel,
    /// Some hosts have unusual steps of payment.
    pub odd_quanta: bool,
    /// Some hosts' answers cannot be replayed.
    pub no_numerics: bool,
    /// Largest drift of a wall clock, in parts per million.
    pub drift_ppm: u64,
    /// Mean pause between jumps of some wall clock; `None`: never. Milliseconds.
    pub jump_ms: Option<u64>,
    /// Ten times the people and two hosts.
    pub storm: bool,
}

impl Profile {
    /// Draws the market of a seed.
    pub fn draw(dice: &mut Dice, nodes: usize, storm: bool) -> Self {
        Profile {
            epoch_ms: if dice.chance(400_000) {
                LATE_MS
            } else {
                NOON_MS
            },
            prices: [
                PriceLevel::Dear,
                PriceLevel::Dear,
                PriceLevel::Default,
                PriceLevel::Mixed,
            ][dice.below(4)],
            odd_quanta: dice.chance(400_000),
            no_numerics: dice.chance(300_000),
            drift_ppm: [0, 0, 50, 500][dice.below(4)],
            jump_ms: dice
                .chance(300_000)
                .then(|| (3_600_000 / nodes.max(1) as u64).max(20_000)),
            storm,
        }
    }

    /// How many nodes are hosts and validators in every case, so that every world has a market.
    pub fn core(&self) -> usize {
        if self.storm { 2 } else { 6 }
    }

    /// One step of payment of a host. Msat.
    pub fn quantum(&self, dice: &mut Dice) -> u64 {
        match self.odd_quanta && dice.chance(400_000) {
            true => ODD_QUANTA[dice.below(ODD_QUANTA.len())],
            false => QUANTUM,
        }
    }

    /// What one host sells.
    pub fn served(&self, dice: &mut Dice, index: usize) -> Vec<Served> {
        let cheap = match self.prices {
            PriceLevel::Dear => false,
            PriceLevel::Default => true,
            PriceLevel::Mixed => dice.chance(500_000),
        };
        let concurrent = dice.between(1, 3) * if self.storm { 4 } else { 1 };
        let limits = HostLimits {
            concurrent_orders: u32::try_from(concurrent).unwrap_or(1),
            queued_orders: 2,
            prompt_tokens: 2_048,
            output_tokens: if cheap { CHEAP_OUTPUT } else { 512 },
        };
        let mut served = Vec::new();
        for (at, model) in models().into_iter().enumerate() {
            if at != index % 2 && !dice.chance(300_000) {
                continue;
            }
            let (input, output) = match cheap {
                true => DEFAULT_PRICES,
                false => {
                    let output = dice.between(40, 300) * 1_000_000;
                    (output / 4, output)
                }
            };
            let embeds = at == 2;
            let mut prices = match embeds {
                true => Prices::default()
                    .with(Meter::InputToken, input)
                    .with(Meter::Item, output),
                false => Prices::chat(input, output),
            };
            if !embeds && dice.chance(300_000) {
                prices = prices.with(Meter::CachedInputToken, input / 2);
            }
            let mut offer = offer(model, prices);
            if self.no_numerics && index > 3 && dice.chance(400_000) {
                offer.numerics = None;
            }
            served.push(Served { offer, limits });
        }
        served
    }
}

/// A model at these prices.
pub fn offer(model: ModelDigest, prices: Prices) -> ModelOffer {
    ModelOffer {
        name: format!("model-{}", model.short()),
        digest: model,
        tokenizer: Digest(model.0),
        template: TEMPLATE,
        architecture: "sim".to_owned(),
        quantisation: "none".to_owned(),
        context: 16_384,
        numerics: Some(NUMERICS.to_owned()),
        prices,
    }
}
