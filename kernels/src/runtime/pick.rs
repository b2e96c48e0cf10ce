//! Choosing a token from what a device sends back of a row of logits.
//!
//! A device sends the 64 largest logits, which is all that the digest reads, and more
//! where it is asked. From that a token is chosen here, or not at all: whatever cannot be
//! known to be the token that [`Sampling::choose`] would give is left to the whole row.
//!
//! | sampling | decided from |
//! |---|---|
//! | temperature 0 | the largest logits |
//! | top-k below 64, with or without min-p and top-p | the largest logits |
//! | temperature, with or without min-p | the token that the device chose |
//! | top-p without top-k, with or without min-p | the largest logits and the sum of all |
//! | penalties, bias, constraints, log-probabilities, top-k of 64 or more | the row |
//!
//! In two cases, both rare, the row decides after all: where temperature makes equals of
//! the last of the 64 and of others that were not sent, and where top-p keeps more than
//! 64 tokens or ends so near to its goal that the order of the sum could matter.

use super::Sampling;
use super::digest::digest_of;
use super::sampling::{gumbel, nucleus};
use crate::cuda::{Found, Rule};
use crate::ops::math::{exp64, ln64};
use std::cmp::Ordering;

/// How far the sum over a vocabulary may be from the same sum in another order: 2^18
/// additions of one rounding each, both ways, and as much again and more.
const SUM_ERROR: f64 = 1e-9;
/// Largest top-k that the 64 largest decide: one more is needed to see where equals end.
const MOST_K: u32 = 63;

/// A token and the digest of the logits it was chosen from.
pub(super) type Picked = (u32, [u8; 32]);

impl Sampling {
    /// What to ask of a device about a row; `None` where only the row itself will do.
    pub(super) fn rule(&self, position: usize, seed: u64) -> Option<Rule> {
        let plain = self.repetition_penalty_milli == 1000
            && self.presence_penalty_milli == 0
            && self.frequency_penalty_milli == 0;
        let warm = self.temperature_milli > 0;
        if !plain || warm && self.top_k > MOST_K {
            return None;
        }
        let open = warm && self.top_k == 0;
        let floor = match self.min_p_milli {
            0 => f64::NEG_INFINITY,
            milli => ln64(f64::from(milli) / 1000.0),
        };
        Some(Rule {
            noise: open && self.top_p_milli == 1000,
            sum: open && self.top_p_milli < 1000,
            temperature: self.temperature_milli.max(1) as f32 / 1000.0,
            floor,
            seed,
            position: position as u32,
        })
    }

    /// The choice for a row of `vocab` logits by its [`Self::rule`].
    pub(super) fn pick(&self, found: &Found, rule: &Rule, vocab: usize) -> Option<Picked> {
        let token = match (self.temperature_milli, rule.noise) {
            (0, _) => found.top.first()?.0,
            (_, true) => found.token,
            _ => self.among(found, rule, vocab)?,
        };
        Some((token, digest_of(found.top.iter().copied())))
    }

    /// By the largest logits.
    fn among(&self, found: &Found, rule: &Rule, vocab: usize) -> Option<u32> {
        let divided = found.top.iter().map(|(id, l)| (*id, l / rule.temperature));
        let mut kept: Vec<(u32, f32)> = divided.collect();
        if kept.iter().any(|(_, l)| !l.is_finite()) {
            return None;
        }
        kept.sort_by(|a, b| {
            let order = b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal);
            order.then(a.0.cmp(&b.0))
        });
        let best = f64::from(kept.first()?.1);
        // Whatever was not sent is no larger than this.
        let rest = (kept.len() < vocab).then_some(kept.last()?.1);
        let all_sent = |least: f32| rest.is_none_or(|rest| least > rest);
        if self.top_k > 0 {
            kept.truncate(self.top_k as usize);
            if !all_sent(kept.last()?.1) {
                return None;
            }
        }
        let floor = best + rule.floor;
        let before = kept.len();
        kept.retain(|(_, l)| f64::from(*l) >= floor);
        if self.top_p_milli < 1000 {
            // Everything that counts was sent: the sum is known.
            let whole = self.top_k > 0 || rest.is_none() || kept.len() < before;
            let weight = |l: f32| exp64((f64::from(l) - best).max(-700.0));
            let weights: Vec<f64> = kept.iter().map(|(_, l)| weight(*l)).collect();
            let part = f64::from(self.top_p_milli) / 1000.0;
            let end = match whole {
                true => nucleus(&weights, weights.iter().fold(0.0, |sum, w| sum + w) * part),
                false => {
                    let low = nucleus(&weights, found.sum * (1.0 - SUM_ERROR) * part)?;
                    let high = nucleus(&weights, found.sum * (1.0 + SUM_ERROR) * part)?;
                    let sure = low == high && all_sent(kept[low].1);
                    Some(sure.then_some(low)?)
                }
            };
            kept.truncate(end.map_or(kept.len(), |i| i + 1));
        }
        Some(gumbel(kept.into_iter(), rule.seed, rule.position))
    }
}

#[cfg(test)]
mod tests;
