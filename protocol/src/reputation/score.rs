//! Scores: five terms in one unit, with visible weights and a sentence each.
//!
//! Not history: that is the input. Every term is normalised among the hosts that
//! were asked about, so that no term drowns another by its unit.

use super::history::{EVENT, History, HostHistory};
use super::{ScoreCard, ScoreTerm};
use crate::money::Msat;
use crate::reputation::io::Subject;
use crate::time::WallTime;

/// The best possible term.
pub const BEST_PPM: u32 = 1_000_000;
/// What a term is worth where nothing is known.
const NEUTRAL_PPM: u32 = 500_000;
/// Answer length at which speeds are compared. Tokens. A paragraph.
const TYPICAL_TOKENS: u64 = 256;

/// How much each term counts. Parts per million; they sum to 1,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    /// Expected cost.
    pub price: u32,
    /// First token and rate.
    pub speed: u32,
    /// Orders served.
    pub reliability: u32,
    /// Checks passed.
    pub verified: u32,
    /// Bond; capped here, since it must not rescue a bad host.
    pub stake: u32,
}

impl Default for Weights {
    /// Price and reliability first; speed and checks next; a bond last.
    fn default() -> Self {
        Weights {
            price: 300_000,
            speed: 200_000,
            reliability: 300_000,
            verified: 150_000,
            stake: 50_000,
        }
    }
}

/// One subject with what is known of it, decayed to now.
pub struct Known {
    /// Who.
    pub subject: Subject,
    /// Of this model there.
    pub history: History,
    /// Of the host.
    pub host: HostHistory,
}

impl Known {
    fn typical_us(&self) -> Option<u64> {
        let first = self.history.first_token_ms()?.saturating_mul(1_000);
        let rest = self.history.token_us().unwrap_or(0);
        Some(first.saturating_add(rest.saturating_mul(TYPICAL_TOKENS - 1)))
    }
}

/// Scores `known` against each other, in their order.
pub fn cards(known: &[Known], weights: &Weights, now: WallTime) -> Vec<ScoreCard> {
    let cheapest = known.iter().map(|one| one.subject.expected_cost_msat).min();
    let fastest = known.iter().filter_map(Known::typical_us).min();
    known
        .iter()
        .map(|one| {
            let terms = vec![
                price(one, cheapest.unwrap_or(0), weights.price),
                speed(one, fastest.unwrap_or(0), weights.speed),
                reliability(one, weights.reliability),
                verified(one, weights.verified),
                term("stake", 0, weights.stake, "no bond is declared".to_owned()),
            ];
            ScoreCard {
                host: one.subject.host,
                model: one.subject.model,
                total_ppm: total(&terms),
                terms,
                cooldown: cooldown(one, now),
            }
        })
        .collect()
}

fn total(terms: &[ScoreTerm]) -> u32 {
    let sum: u64 = terms
        .iter()
        .map(|term| u64::from(term.value_ppm) * u64::from(term.weight_ppm))
        .sum();
    u32::try_from(sum / u64::from(BEST_PPM)).unwrap_or(BEST_PPM)
}

fn term(name: &str, value_ppm: u32, weight_ppm: u32, why: String) -> ScoreTerm {
    ScoreTerm {
        name: name.to_owned(),
        value_ppm,
        weight_ppm,
        why,
    }
}

/// `best / this`, both at least one, in parts per million.
fn ratio(best: u64, this: u64) -> u32 {
    let this = u128::from(this).max(1);
    let best = u128::from(best).max(1).min(this);
    u32::try_from(best * u128::from(BEST_PPM) / this).unwrap_or(BEST_PPM)
}

fn price(one: &Known, cheapest: u64, weight: u32) -> ScoreTerm {
    let cost = one.subject.expected_cost_msat;
    let why = if cost == cheapest {
        format!("at most {}, the cheapest on offer", Msat(cost))
    } else {
        format!("at most {}; the cheapest is {}", Msat(cost), Msat(cheapest))
    };
    term("price", ratio(cheapest, cost), weight, why)
}

fn speed(one: &Known, fastest: u64, weight: u32) -> ScoreTerm {
    let Some(us) = one.typical_us() else {
        return term("speed", NEUTRAL_PPM, weight, "not measured yet".to_owned());
    };
    let first = one.history.first_token_ms().unwrap_or(0);
    let why = match one.history.token_us().filter(|us| *us > 0) {
        Some(token) => {
            let tenths = 10_000_000 / token;
            format!(
                "first token after {first} ms, then {}.{} tokens/s",
                tenths / 10,
                tenths % 10
            )
        }
        None => format!("first token after {first} ms"),
    };
    term("speed", ratio(fastest, us), weight, why)
}

fn reliability(one: &Known, weight: u32) -> ScoreTerm {
    let good = one.history.succeeded;
    let bad = one
        .history
        .failed
        .saturating_add(one.history.overcharged)
        .saturating_add(one.host.faults);
    // One success and one failure are assumed beforehand (Laplace): a stranger stands at a half.
    let all = u128::from(good) + u128::from(bad) + u128::from(2 * EVENT);
    let value = (u128::from(good) + u128::from(EVENT)) * u128::from(BEST_PPM) / all;
    let why = if good == 0 && bad == 0 {
        "no orders yet".to_owned()
    } else {
        let mut why = format!(
            "served {} of {} recent orders",
            events(good),
            events(good.saturating_add(bad))
        );
        if one.history.overcharged > 0 {
            why.push_str("; charged more than listed");
        }
        why
    };
    term(
        "reliability",
        u32::try_from(value).unwrap_or(BEST_PPM),
        weight,
        why,
    )
}

fn verified(one: &Known, weight: u32) -> ScoreTerm {
    if let Some((_, _, what)) = &one.host.convicted {
        return term("verified", 0, weight, format!("caught: {what}"));
    }
    let checks = one.history.verified;
    // Three checks that nobody made are assumed to be open: one replay moves a quarter to two fifths.
    let all = u128::from(checks) + u128::from(4 * EVENT);
    let value = (u128::from(checks) + u128::from(EVENT)) * u128::from(BEST_PPM) / all;
    let why = if checks == 0 {
        "never checked".to_owned()
    } else {
        format!(
            "passed {} replays' worth of checks, failed none",
            events(checks)
        )
    };
    term(
        "verified",
        u32::try_from(value).unwrap_or(BEST_PPM),
        weight,
        why,
    )
}

/// Shows a decayed count: whole where it is whole, else with one decimal.
fn events(count: u64) -> String {
    let tenths = (count + EVENT / 20) / (EVENT / 10);
    if tenths.is_multiple_of(10) {
        (tenths / 10).to_string()
    } else {
        format!("{}.{}", tenths / 10, tenths % 10)
    }
}

fn cooldown(one: &Known, now: WallTime) -> Option<(WallTime, String)> {
    if let Some((_, until, what)) = &one.host.convicted
        && *until > now
    {
        return Some((*until, format!("caught: {what}")));
    }
    let own = one.history.streak.cooldown(now);
    let host = one.host.streak.cooldown(now);
    own.into_iter().chain(host).max_by_key(|(until, _)| *until)
}
