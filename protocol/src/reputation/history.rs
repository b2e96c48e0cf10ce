//! What is remembered of one host, and of one (host, model), with decay.
//!
//! Not scores: see `score`. Counts are in millionths of an event, so that a
//! decayed history keeps its fractions.

use super::decay;
use super::io::Outcome;
use crate::bundle::Tier;
use crate::time::WallTime;
use serde::{Deserialize, Serialize};

/// One event, in the unit of the counts.
pub const EVENT: u64 = 1_000_000;
/// What a bookkeeping check weighs next to a replay: it shows only that the sums are right.
const BOOKKEEPING_WEIGHT: u64 = EVENT / 10;
/// Failures in a row before a host is left alone for a while.
const FAILURES_BEFORE_COOLDOWN: u32 = 3;
/// The first cool-down. Milliseconds. Long enough for a restart of the other side.
const COOLDOWN_MS: u64 = 30_000;
/// Growth stops here: two minutes, so that a repaired host is soon tried again.
const MAX_COOLDOWN_FACTOR: u64 = 4;

/// Failures in a row, and the cool-down that they led to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streak {
    /// Failures since the last success.
    pub failures: u32,
    /// Not to be used before.
    pub until: WallTime,
}

impl Streak {
    /// Counts a failure.
    pub fn fail(&mut self, now: WallTime) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES_BEFORE_COOLDOWN {
            let factor = u64::from(self.failures - (FAILURES_BEFORE_COOLDOWN - 1));
            self.until = now.after_ms(COOLDOWN_MS * factor.min(MAX_COOLDOWN_FACTOR));
        }
    }

    /// Ends the row.
    pub fn clear(&mut self) {
        *self = Streak::default();
    }

    /// The cool-down that holds at `now`, with its reason.
    pub fn cooldown(&self, now: WallTime) -> Option<(WallTime, String)> {
        (self.until > now).then(|| {
            let seconds = self.until.ms_since(now).div_ceil(1_000);
            let why = format!(
                "{} failures in a row; tried again in {seconds} s",
                self.failures
            );
            (self.until, why)
        })
    }
}

/// First-party history of one (host, model).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Until when decay is accounted for.
    pub at: WallTime,
    /// Orders that went well.
    pub succeeded: u64,
    /// Orders that the host failed.
    pub failed: u64,
    /// Orders charged above the listing.
    pub overcharged: u64,
    /// Orders with a first token, and their summed milliseconds times [`EVENT`].
    pub first: (u64, u64),
    /// Tokens after the first, and their summed milliseconds times [`EVENT`].
    pub stream: (u64, u64),
    /// Checks passed; a replay counts whole, bookkeeping a tenth.
    pub verified: u64,
    /// Failures in a row.
    pub streak: Streak,
}

impl History {
    /// Decays every count to `now`. A clock that went back decays nothing.
    pub fn decay(&mut self, now: WallTime, half_life_ms: u64) {
        let (steps, spent_ms) = decay::steps_in(now.ms_since(self.at), half_life_ms);
        if steps == 0 {
            return;
        }
        self.at = self.at.after_ms(spent_ms);
        for value in [
            &mut self.succeeded,
            &mut self.failed,
            &mut self.overcharged,
            &mut self.first.0,
            &mut self.first.1,
            &mut self.stream.0,
            &mut self.stream.1,
            &mut self.verified,
        ] {
            *value = decay::after(*value, steps);
        }
    }

    /// Takes in how an order went.
    pub fn record(&mut self, outcome: &Outcome, now: WallTime) {
        if !outcome.price_kept {
            self.overcharged = self.overcharged.saturating_add(EVENT);
        }
        match outcome.failure {
            Some(code) if code.is_hosts_fault() => {
                self.failed = self.failed.saturating_add(EVENT);
                self.streak.fail(now);
            }
            // Neither to its credit nor to its blame: full, too dear, stopped by us.
            Some(_) => {}
            None => {
                self.succeeded = self.succeeded.saturating_add(EVENT);
                self.streak.clear();
            }
        }
        if let Some(ms) = outcome.first_token_ms {
            add(&mut self.first, 1, ms);
        }
        if outcome.tokens > 1 {
            add(&mut self.stream, outcome.tokens - 1, outcome.stream_ms);
        }
    }

    /// Takes in a check that the host passed.
    pub fn verify(&mut self, tier: Tier) {
        let weight = match tier {
            Tier::Bookkeeping => BOOKKEEPING_WEIGHT,
            Tier::ExactReplay => EVENT,
        };
        self.verified = self.verified.saturating_add(weight);
    }

    /// Mean milliseconds to the first token.
    pub fn first_token_ms(&self) -> Option<u64> {
        self.first.1.checked_div(self.first.0)
    }

    /// Mean microseconds per token after the first.
    pub fn token_us(&self) -> Option<u64> {
        let sum = u128::from(self.stream.1) * 1_000;
        let mean = sum.checked_div(u128::from(self.stream.0))?;
        u64::try_from(mean).ok()
    }
}

fn add(mean: &mut (u64, u64), count: u64, sum_ms: u64) {
    mean.0 = mean.0.saturating_add(count.saturating_mul(EVENT));
    mean.1 = mean.1.saturating_add(sum_ms.saturating_mul(EVENT));
}

/// What is known of a host whatever the model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostHistory {
    /// Until when decay is accounted for.
    pub at: WallTime,
    /// Faults that name no model: unreachable, malformed, not served.
    pub faults: u64,
    /// Failures in a row.
    pub streak: Streak,
    /// Proved of bad faith: when, until when it is not used, and of what.
    pub convicted: Option<(WallTime, WallTime, String)>,
}

impl HostHistory {
    /// Decays to `now`; a conviction ends when its time is over.
    pub fn decay(&mut self, now: WallTime, half_life_ms: u64) {
        let (steps, spent_ms) = decay::steps_in(now.ms_since(self.at), half_life_ms);
        if steps > 0 {
            self.at = self.at.after_ms(spent_ms);
            self.faults = decay::after(self.faults, steps);
        }
        if self
            .convicted
            .as_ref()
            .is_some_and(|(_, until, _)| *until <= now)
        {
            self.convicted = None;
        }
    }
}
