//! What is remembered of one host, and of one (host, model), with decay.
//!
//! Not scores: see `score`. Counts are in millionths of an event, so that a
//! decayed history keeps its fractions.

use super::decay;
use crate::ids::NodeKey;
use crate::message::inference::Outcome;
use crate::time::WallTime;
use crate::wire::bundle::Tier;
use serde::{Deserialize, Serialize};

/// One event, in the unit of the counts.
pub const EVENT: u64 = 1_000_000;
/// Failures in a row before a host is left alone for a while.
const FAILURES_BEFORE_COOLDOWN: u32 = 3;
/// The first cool-down. Milliseconds. Long enough for a restart of the other side.
const COOLDOWN_MS: u64 = 30_000;
/// The first cool-down after refusals. Milliseconds. A queue of short orders moves on in this time.
const REFUSED_COOLDOWN_MS: u64 = 5_000;
/// Growth stops here: two minutes, so that a repaired host is soon tried again.
const MAX_COOLDOWN_FACTOR: u64 = 4;
/// The rest of a host that took a payment and served nothing for it. Milliseconds. Orders begun
/// before that was known count with it.
const TAKEN_REST_MS: u64 = 120_000;
/// The rest when it does so again, four times as long each time. Milliseconds. An hour: two
/// networks that fail in a row are seldom, and whoever is robbed each time pays it some ten
/// times in a year.
const TAKEN_AGAIN_REST_MS: u64 = 3_600_000;
/// How long one validator's word is remembered. Milliseconds. Seven days: a buyer
/// that is told of a host again meets it with less trust.
pub const HINT_LIFE_MS: u64 = 7 * 86_400_000;
/// Most hints kept for a host: each halves one term of its score.
const MAX_HINTS: usize = 4;
/// Successes, decayed, from which a host counts as one that served this node: what a
/// single order leaves after four half-lives.
const SERVED_MIN: u64 = EVENT / 16;

/// What a streak counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Orders that the host failed.
    Failures,
    /// Orders that it did not take, or ended without a word: a cool-down of its own, far shorter than after failures.
    Refusals,
    /// Payments that it took for nothing.
    Taken,
}

impl Counted {
    fn name(self) -> &'static str {
        match self {
            Counted::Failures => "failures",
            Counted::Refusals => "refusals or empty answers",
            Counted::Taken => "payments taken for nothing",
        }
    }

    /// How long a host rests after so many. Milliseconds.
    fn rest_ms(self, failures: u32) -> u64 {
        let grows = |first_ms: u64| {
            let factor = u64::from((failures + 1).saturating_sub(FAILURES_BEFORE_COOLDOWN));
            first_ms * factor.min(MAX_COOLDOWN_FACTOR)
        };
        match (self, failures) {
            (Counted::Failures, _) => grows(COOLDOWN_MS),
            (Counted::Refusals, _) => grows(REFUSED_COOLDOWN_MS),
            (Counted::Taken, 0) => 0,
            (Counted::Taken, 1) => TAKEN_REST_MS,
            (Counted::Taken, again) => {
                TAKEN_AGAIN_REST_MS.saturating_mul(4u64.saturating_pow(again - 2))
            }
        }
    }
}

/// Events in a row, and the cool-down that they led to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streak {
    /// Events since the last success.
    pub failures: u32,
    /// Not to be used before.
    pub until: WallTime,
}

impl Streak {
    /// Counts an event. Payments taken for nothing count once for each rest: orders begun before
    /// the first was known are the same time.
    pub fn count(&mut self, what: Counted, now: WallTime) {
        if what == Counted::Taken && self.holds(what, now) {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        match what.rest_ms(self.failures) {
            0 => {}
            rest_ms => self.until = now.after_ms(rest_ms),
        }
    }

    /// Ends the row.
    pub fn clear(&mut self) {
        *self = Streak::default();
    }

    /// A rest that would end later than one that began now began under a clock that was ahead.
    fn holds(&self, what: Counted, now: WallTime) -> bool {
        let latest = now.after_ms(what.rest_ms(self.failures));
        self.until > now && self.until <= latest
    }

    /// The cool-down that holds at `now`, with its reason.
    pub fn cooldown(&self, what: Counted, now: WallTime) -> Option<(WallTime, String)> {
        self.holds(what, now).then(|| {
            let (count, what) = (self.failures, what.name());
            let seconds = self.until.ms_since(now).div_ceil(1_000);
            let why = format!("{count} {what} in a row; tried again in {seconds} s");
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
    /// Orders that went well, and their summed milliseconds to the first token times [`EVENT`].
    pub first: (u64, u64),
    /// Tokens after the first, and their summed milliseconds times [`EVENT`].
    pub stream: (u64, u64),
    /// Replays passed. Sums that add up show nothing about the answer and do not count.
    pub verified: u64,
    /// Failures in a row.
    pub streak: Streak,
    /// Orders that the host refused, or ended without a word.
    pub refused: u64,
    /// These in a row.
    pub refusals: Streak,
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
            &mut self.refused,
        ] {
            *value = decay::after(*value, steps);
        }
    }

    /// Takes in how an order went.
    pub fn record(&mut self, outcome: &Outcome, now: WallTime) {
        let refused = outcome.refused.is_some() || outcome.refused_by_price() || outcome.blank;
        if refused {
            self.refused = self.refused.saturating_add(EVENT);
            self.refusals.count(Counted::Refusals, now);
            return;
        }
        if !outcome.price_kept {
            self.overcharged = self.overcharged.saturating_add(EVENT);
        }
        match outcome.failure {
            Some(code) if code.is_hosts_fault() => {
                self.failed = self.failed.saturating_add(EVENT);
                self.streak.count(Counted::Failures, now);
            }
            // Neither to its credit nor to its blame: full, too dear, stopped by us.
            Some(_) => {}
            // Stopped before the first token.
            None if outcome.tokens == 0 => {}
            None => {
                self.succeeded = self.succeeded.saturating_add(EVENT);
                self.streak.clear();
                self.refusals.clear();
                self.time(outcome);
            }
        }
    }

    /// Takes in how fast an order was that went well: any host begins at once.
    fn time(&mut self, outcome: &Outcome) {
        if let Some(ms) = outcome.first_token_ms {
            add(&mut self.first, 1, ms);
        }
        if outcome.tokens > 1 {
            add(&mut self.stream, outcome.tokens - 1, outcome.stream_ms);
        }
    }

    /// Takes in a check that the host passed; returns whether it counts.
    pub fn verify(&mut self, tier: Tier) -> bool {
        if tier < Tier::ExactReplay {
            return false;
        }
        self.verified = self.verified.saturating_add(EVENT);
        true
    }

    /// Returns whether the host served this node within the last weeks.
    pub fn served(&self) -> bool {
        self.succeeded >= SERVED_MIN
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
    /// Faults that name no model: unreachable, accepted and not served.
    pub faults: u64,
    /// Failures in a row.
    pub streak: Streak,
    /// Payments taken for nothing, since it last served an order to its end.
    pub taken: Streak,
    /// Proved of bad faith.
    pub convicted: Option<Conviction>,
    /// What single validators say against it, newest last, one entry for each of them.
    pub hints: Vec<Hint>,
}

/// Bad faith that was proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conviction {
    /// The host is not used before.
    pub until: WallTime,
    /// Of what.
    pub what: String,
    /// The evidence is of an order of this node, not a bundle that a stranger brought.
    pub own_order: bool,
}

/// One validator's word against a host, on an order of this node. It moves the score
/// and excludes nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// Who says it.
    pub by: NodeKey,
    /// When it was said.
    pub at: WallTime,
    /// What is said.
    pub what: String,
}

impl HostHistory {
    /// How dear the history is when the book is full: the lightest goes first.
    pub(super) fn weight(&self) -> u8 {
        match &self.convicted {
            Some(convicted) if convicted.own_order => 2,
            Some(_) => 0,
            None => 1,
        }
    }

    /// Takes in what `hint.by` says; a later word of the same validator replaces its earlier one.
    pub fn hint(&mut self, hint: Hint) {
        self.hints.retain(|known| known.by != hint.by);
        if self.hints.len() >= MAX_HINTS {
            self.hints.remove(0);
        }
        self.hints.push(hint);
    }

    /// Decays to `now`; a conviction ends when its time is over, a hint after [`HINT_LIFE_MS`].
    pub fn decay(&mut self, now: WallTime, half_life_ms: u64) {
        let (steps, spent_ms) = decay::steps_in(now.ms_since(self.at), half_life_ms);
        if steps > 0 {
            self.at = self.at.after_ms(spent_ms);
            self.faults = decay::after(self.faults, steps);
        }
        if self
            .convicted
            .as_ref()
            .is_some_and(|convicted| convicted.until <= now)
        {
            self.convicted = None;
        }
        self.hints
            .retain(|hint| now.ms_since(hint.at) < HINT_LIFE_MS);
    }
}
