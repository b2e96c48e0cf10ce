//! Scores: six terms in one unit, with visible weights and a sentence each.
//!
//! Not history: that is the input. Every term is normalised, so that no term drowns
//! another by its unit. Prices and speeds are measured against the median of the hosts that
//! served this node, since anybody can list any price, and answer one order at once: a listing that costs nothing scores no
//! higher than one at half of that median, and a host that only ever failed has no price:
//! who failed least comes first among those, whatever they list, and a refusal counts for less
//! than a failure.

use super::history::{Counted, EVENT, History, HostHistory};
use crate::message::discovery::Subject;
use crate::message::reputation::{ScoreCard, ScoreTerm, Standing};
use crate::money::Msat;
use crate::time::WallTime;
use std::borrow::Cow;

/// The best possible term.
pub const BEST_PPM: u32 = 1_000_000;
/// What a term is worth where nothing is known.
const NEUTRAL_PPM: u32 = 500_000;
/// Tokens behind the first, decayed, from which a host has a rate of its own.
const LEAST_TOKENS: u64 = 8;
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
    /// Orders answered rather than refused or failed.
    pub acceptance: u32,
    /// Checks passed.
    pub verified: u32,
    /// Bond; capped here, since it must not rescue a bad host.
    pub stake: u32,
}

impl Default for Weights {
    /// Price and reliability first; speed and checks next; a bond last.
    fn default() -> Self {
        Weights {
            price: 250_000,
            speed: 200_000,
            reliability: 250_000,
            acceptance: 100_000,
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
    /// The host served this node within the last weeks, whatever the model.
    pub served: bool,
}

impl Known {
    /// Orders that the host failed, whatever it said.
    fn bad(&self) -> u64 {
        self.history.failed.saturating_add(self.host.faults)
    }

    fn standing(&self) -> Standing {
        let bad = self.bad().saturating_add(self.history.refused);
        if self.host.convicted.is_some() {
            Standing::Failed
        } else if self.served {
            Standing::Served
        } else if self.host.taken.failures > 0 {
            Standing::Kept
        } else if bad >= EVENT / 2 {
            Standing::Failed
        } else {
            Standing::Unknown
        }
    }

    /// Microseconds a token, where enough of them came.
    fn rate_us(&self) -> Option<u64> {
        let enough = self.history.stream.0 >= LEAST_TOKENS * EVENT;
        self.history.token_us().filter(|_| enough)
    }

    /// How long an answer of [`TYPICAL_TOKENS`] takes; who has no rate is given the `usual` one.
    fn typical_us(&self, usual: u64) -> Option<u64> {
        let first = self.history.first_token_ms()?.saturating_mul(1_000);
        let rest = self.rate_us().unwrap_or(usual);
        Some(first.saturating_add(rest.saturating_mul(TYPICAL_TOKENS - 1)))
    }
}

/// Scores `known` against each other, in their order.
pub fn cards(known: &[Known], weights: &Weights, now: WallTime) -> Vec<ScoreCard> {
    let usual = Usual::of(known);
    known
        .iter()
        .map(|one| {
            let terms = vec![
                price(one, usual.cost, weights.price),
                speed(one, &usual, weights.speed),
                reliability(one, weights.reliability),
                acceptance(one, weights.acceptance),
                verified(one, weights.verified),
                term("stake", 0, weights.stake, "no bond is declared"),
            ];
            ScoreCard {
                host: one.subject.host,
                model: one.subject.model,
                total_ppm: total(&terms),
                terms,
                standing: one.standing(),
                cooldown: cooldown(one, now),
            }
        })
        .collect()
}

/// Medians over the hosts that served this node, or over all where none did.
struct Usual {
    cost: u64,
    rate_us: u64,
    typical_us: u64,
}

impl Usual {
    fn of(known: &[Known]) -> Self {
        let (mut costs, mut rates) = (Vec::new(), Vec::new());
        let served = |one: &&Known| one.standing() == Standing::Served;
        let mut those: Vec<&Known> = known.iter().filter(served).collect();
        if those.is_empty() {
            those = known.iter().collect();
        }
        for one in &those {
            costs.push(one.subject.expected_cost_msat);
            rates.extend(one.rate_us());
        }
        // Of two the one that is harder to make up: the lower price, the longer time.
        let rate_us = middle(rates, |len| len / 2);
        let times = those.iter().filter_map(|one| one.typical_us(rate_us));
        Usual {
            cost: middle(costs, |len| len.saturating_sub(1) / 2),
            rate_us,
            typical_us: middle(times.collect(), |len| len / 2),
        }
    }
}

fn middle(mut values: Vec<u64>, at: impl Fn(usize) -> usize) -> u64 {
    values.sort_unstable();
    values.get(at(values.len())).copied().unwrap_or(0)
}

fn total(terms: &[ScoreTerm]) -> u32 {
    let sum: u64 = terms
        .iter()
        .map(|term| u64::from(term.value_ppm) * u64::from(term.weight_ppm))
        .sum();
    u32::try_from(sum / u64::from(BEST_PPM)).unwrap_or(BEST_PPM)
}

fn term(
    name: &'static str,
    value_ppm: u32,
    weight_ppm: u32,
    why: impl Into<Cow<'static, str>>,
) -> ScoreTerm {
    ScoreTerm {
        name: name.into(),
        value_ppm,
        weight_ppm,
        why: why.into(),
    }
}

/// `1.5 * usual / (usual + this)`: a million at half of the usual and below, three quarters
/// of it at the usual, a half at twice the usual.
fn against(usual: u64, this: u64) -> u32 {
    let usual = u128::from(usual.max(1));
    let this = u128::from(this).max(usual.div_ceil(2));
    let value = 3 * usual * u128::from(BEST_PPM) / (2 * (usual + this));
    u32::try_from(value).unwrap_or(BEST_PPM).min(BEST_PPM)
}

fn price(one: &Known, usual: u64, weight: u32) -> ScoreTerm {
    let cost = one.subject.expected_cost_msat;
    if matches!(one.standing(), Standing::Failed | Standing::Kept) {
        let why = format!("at most {}; nothing was served at it", Msat(cost));
        return term("price", 0, weight, why);
    }
    let why = format!("at most {}; usual is {}", Msat(cost), Msat(usual));
    term("price", against(usual, cost), weight, why)
}

fn speed(one: &Known, usual: &Usual, weight: u32) -> ScoreTerm {
    let Some(us) = one.typical_us(usual.rate_us) else {
        return term("speed", NEUTRAL_PPM, weight, "not measured yet");
    };
    let first = one.history.first_token_ms().unwrap_or(0);
    let why = match one.rate_us().filter(|us| *us > 0) {
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
    term("speed", against(usual.typical_us, us), weight, why)
}

fn reliability(one: &Known, weight: u32) -> ScoreTerm {
    let good = one.history.succeeded;
    let bad = one.bad().saturating_add(one.history.overcharged);
    // One success and one failure are assumed beforehand (Laplace): a stranger stands at a half.
    let all = u128::from(good) + u128::from(bad) + u128::from(2 * EVENT);
    let value = (u128::from(good) + u128::from(EVENT)) * u128::from(BEST_PPM) / all;
    let why: Cow<'static, str> = if good == 0 && bad == 0 {
        "no orders yet".into()
    } else {
        let mut why = format!(
            "served {} of {} recent orders",
            events(good),
            events(good.saturating_add(bad))
        );
        if one.history.overcharged > 0 {
            why.push_str("; charged more than listed");
        }
        why.into()
    };
    term(
        "reliability",
        u32::try_from(value).unwrap_or(BEST_PPM),
        weight,
        why,
    )
}

/// A failed order was not answered either: it weighs here and in `reliability`, and so more than
/// a refusal.
fn acceptance(one: &Known, weight: u32) -> ScoreTerm {
    let good = one.history.succeeded;
    let without = one.history.refused.saturating_add(one.bad());
    let all = u128::from(good) + u128::from(without) + u128::from(EVENT);
    let value = (u128::from(good) + u128::from(EVENT)) * u128::from(BEST_PPM) / all;
    let why: Cow<'static, str> = match without {
        0 => "answered every order".into(),
        _ => format!("left {} recent orders without an answer", events(without)).into(),
    };
    let value = u32::try_from(value).unwrap_or(BEST_PPM);
    term("acceptance", value, weight, why)
}

fn verified(one: &Known, weight: u32) -> ScoreTerm {
    if let Some(convicted) = &one.host.convicted {
        let why = format!("caught: {}", convicted.what);
        return term("verified", 0, weight, why);
    }
    let checks = one.history.verified;
    // Three checks that nobody made are assumed to be open: one replay moves a quarter to two fifths.
    let all = u128::from(checks) + u128::from(4 * EVENT);
    let value = (u128::from(checks) + u128::from(EVENT)) * u128::from(BEST_PPM) / all;
    let mut why: Cow<'static, str> = if checks == 0 {
        "never replayed".into()
    } else {
        format!("passed {} replays, failed none", events(checks)).into()
    };
    let value = u32::try_from(value).unwrap_or(BEST_PPM);
    let hints = &one.host.hints;
    if let Some(last) = hints.last() {
        why = format!(
            "{why}; unconfirmed word of another validator: {}",
            last.what
        )
        .into();
    }
    term("verified", value >> hints.len().min(31), weight, why)
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
    if let Some(convicted) = &one.host.convicted
        && convicted.until > now
    {
        return Some((convicted.until, format!("caught: {}", convicted.what)));
    }
    let own = one.history.streak.cooldown(Counted::Failures, now);
    let host = one.host.streak.cooldown(Counted::Failures, now);
    let refused = one.history.refusals.cooldown(Counted::Refusals, now);
    let taken = one.host.taken.cooldown(Counted::Taken, now);
    let all = own.into_iter().chain(host).chain(refused).chain(taken);
    all.max_by_key(|(until, _)| *until)
}
