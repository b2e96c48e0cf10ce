//! Log-probabilities of the model's own distribution, exactly by the rules.
//!
//! Computed from the logits as the model gave them: no bias, constraint, penalty or
//! temperature. In f64 with the crate's own functions, rounded to millionths, so that
//! every machine reports the same (NUMERICS.md).

use super::digest::largest;
use crate::ops::math::{exp64, ln64};

/// Most alternatives a token: what the OpenAI interface allows.
pub(super) const MAX_LOGPROBS: u32 = 20;

/// One token and the logarithm of its probability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logprob {
    /// The token.
    pub token: u32,
    /// Natural logarithm of its probability, in millionths; never above 0.
    pub micro: i64,
}

/// The chosen token and the most probable ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logprobs {
    /// The token that was chosen.
    pub chosen: Logprob,
    /// The most probable, in the order of the logit digest.
    pub top: Vec<Logprob>,
}

impl Logprobs {
    /// Of finite logits.
    pub(super) fn new(logits: &[f32], chosen: u32, n: u32) -> Self {
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let best = f64::from(best);
        let weight = |l: &f32| exp64((f64::from(*l) - best).max(-700.0));
        let total: f64 = logits.iter().map(weight).fold(0.0, |sum, w| sum + w);
        let log_total = ln64(total);
        let one = |token: u32| Logprob {
            token,
            micro: match logits.get(token as usize) {
                Some(l) => (((f64::from(*l) - best) - log_total) * 1e6).round_ties_even() as i64,
                None => i64::MIN,
            },
        };
        Self {
            chosen: one(chosen),
            top: largest(logits, n as usize).into_iter().map(one).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_of_the_softmax() {
        let logits = [1.0f32, 3.0, 2.0, -80.0];
        let found = Logprobs::new(&logits, 3, 2);
        let total: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        let exact = |i: usize| (f64::from(logits[i]) - total.ln()) * 1e6;
        assert_eq!(
            found.top.iter().map(|t| t.token).collect::<Vec<_>>(),
            [1, 2]
        );
        for found in found.top.iter().chain([&found.chosen]) {
            assert!((found.micro as f64 - exact(found.token as usize)).abs() <= 0.51);
        }
        let sure = Logprobs::new(&[0.0, -1000.0], 0, 20);
        assert_eq!((sure.chosen.micro, sure.top.len()), (0, 2));
    }
}
