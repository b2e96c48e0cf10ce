//! Choosing a token: penalties, temperature, filters, Gumbel noise.
//!
//! The noise is a pure function of (seed, position, token id), so that a choice
//! can be recomputed alone, in any order and batch. Parameters are integers, so
//! that a request has one canonical form. Order and rounding: NUMERICS.md.

use super::EngineError;
use super::digest::largest;
use super::steering::Steer;
use crate::ops::math::{exp, exp64, ln64};

/// Tokens that the repetition penalty looks back on.
const PENALTY_WINDOW: usize = 64;

/// How to choose tokens. The default is greedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Temperature in thousandths, at most 10,000; 0 chooses the largest logit.
    pub temperature_milli: u32,
    /// Keep this many largest logits; 0 keeps all.
    pub top_k: u32,
    /// Keep the most probable tokens up to this sum, in thousandths; 1000 keeps all.
    pub top_p_milli: u32,
    /// Keep tokens at least this probable against the best, in thousandths; 0 keeps
    /// all.
    pub min_p_milli: u32,
    /// Divide (multiply, where negative) the logits of the last 64 tokens by this,
    /// in thousandths, 100 to 10,000; 1000 leaves them.
    pub repetition_penalty_milli: u32,
    /// Taken from the logits of the last 64 tokens, in thousandths, -2,000 to 2,000.
    pub presence_penalty_milli: i32,
    /// Taken from them once for each time they occur, in thousandths, -2,000 to 2,000.
    pub frequency_penalty_milli: i32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature_milli: 0,
            top_k: 0,
            top_p_milli: 1000,
            min_p_milli: 0,
            repetition_penalty_milli: 1000,
            presence_penalty_milli: 0,
            frequency_penalty_milli: 0,
        }
    }
}

impl Sampling {
    /// Check every parameter's range.
    pub fn check(&self) -> Result<(), EngineError> {
        let check = |name, value: i64, range: std::ops::RangeInclusive<i64>, allowed| match range
            .contains(&value)
        {
            true => Ok(()),
            false => Err(EngineError::Sampling {
                name,
                value,
                allowed,
            }),
        };
        let temperature = self.temperature_milli.into();
        check("temperature_milli", temperature, 0..=10_000, "0 to 10000")?;
        check(
            "top_p_milli",
            self.top_p_milli.into(),
            1..=1000,
            "1 to 1000",
        )?;
        check(
            "min_p_milli",
            self.min_p_milli.into(),
            0..=1000,
            "0 to 1000",
        )?;
        let penalty = self.repetition_penalty_milli.into();
        check(
            "repetition_penalty_milli",
            penalty,
            100..=10_000,
            "100 to 10000",
        )?;
        let signed = |name, value: i32| check(name, value.into(), -2000..=2000, "-2000 to 2000");
        signed("presence_penalty_milli", self.presence_penalty_milli)?;
        signed("frequency_penalty_milli", self.frequency_penalty_milli)
    }

    /// The token that follows `before`. `logits` are finite and are changed.
    pub(crate) fn choose(&self, logits: &mut [f32], before: &[u32], seed: u64) -> u32 {
        self.sample(logits, before, seed, None)
    }

    /// [`Self::choose`] among the tokens that `steer` allows. The caller tells it which
    /// token follows: the choice, or in a replay the answer's.
    pub(crate) fn sample(
        &self,
        logits: &mut [f32],
        before: &[u32],
        seed: u64,
        steer: Option<&mut Steer>,
    ) -> u32 {
        if let Some(steer) = steer {
            steer.apply(logits);
        }
        self.penalise(logits, before);
        if self.temperature_milli == 0 {
            return largest(logits, 1).first().copied().unwrap_or(0);
        }
        let temperature = self.temperature_milli as f32 / 1000.0;
        logits.iter_mut().for_each(|l| *l /= temperature);
        let kept = self.keep(logits);
        let position = before.len() as u32;
        match kept {
            Some(ids) => {
                let kept = ids.into_iter().map(|id| (id, logits[id as usize]));
                gumbel(kept, seed, position)
            }
            None => gumbel((0..).zip(logits.iter().copied()), seed, position),
        }
    }

    fn penalise(&self, logits: &mut [f32], before: &[u32]) {
        let repetition = self.repetition_penalty_milli != 1000;
        if !repetition && self.presence_penalty_milli == 0 && self.frequency_penalty_milli == 0 {
            return;
        }
        let factor = self.repetition_penalty_milli as f32 / 1000.0;
        let presence = self.presence_penalty_milli as f32 / 1000.0;
        let frequency = self.frequency_penalty_milli as f32 / 1000.0;
        let mut recent = before[before.len().saturating_sub(PENALTY_WINDOW)..].to_vec();
        recent.sort_unstable();
        for same in recent.chunk_by(|a, b| a == b) {
            let Some(l) = logits.get_mut(same[0] as usize) else {
                continue;
            };
            if repetition {
                *l = if *l > 0.0 { *l / factor } else { *l * factor };
            }
            *l -= same.len() as f32 * frequency;
            *l -= presence;
        }
    }

    /// The ids that top-k, min-p and top-p leave, in any order; `None` where all stay.
    fn keep(&self, logits: &[f32]) -> Option<Vec<u32>> {
        let all = logits.len();
        let k = match self.top_k as usize {
            0 => all,
            k => all.min(k),
        };
        if k == all && self.min_p_milli == 0 && self.top_p_milli == 1000 {
            return None;
        }
        // Without top-k there is a whole vocabulary to put in order, unless its greatest
        // part does not matter.
        if k == all
            && let Some(kept) = self.nucleus(logits)
        {
            return Some(kept);
        }
        let mut kept = largest(logits, k);
        // Tokens that are not allowed are no choice, however large `k` is.
        kept.retain(|id| logits[*id as usize] > f32::NEG_INFINITY);
        let best = f64::from(*logits.get(*kept.first()? as usize)?);
        if let Some(floor) = self.floor(best) {
            kept.retain(|id| f64::from(logits[*id as usize]) >= floor);
        }
        if self.top_p_milli < 1000 {
            let weights = || kept.iter().map(|id| weight(logits[*id as usize], best));
            let total: f64 = weights().fold(0.0, |sum, w| sum + w);
            let goal = total * self.top_p();
            let mut sum = 0.0;
            let enough = weights().position(|w| {
                sum += w;
                sum >= goal
            });
            kept.truncate(enough.map_or(kept.len(), |i| i + 1));
        }
        Some(kept)
    }

    /// The least logit that min-p keeps, where it is asked for.
    fn floor(&self, best: f64) -> Option<f64> {
        let milli = f64::from(self.min_p_milli);
        (milli > 0.0).then(|| best + ln64(milli / 1000.0))
    }

    fn top_p(&self) -> f64 {
        f64::from(self.top_p_milli) / 1000.0
    }

    /// What min-p and top-p leave, without putting all logits in order: the total is
    /// only known within bounds, and `None` is the answer where these leave open which
    /// token is the last.
    fn nucleus(&self, logits: &[f32]) -> Option<Vec<u32>> {
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if best == f32::NEG_INFINITY {
            return None;
        }
        let floor = self.floor(best.into()).unwrap_or(f64::MIN);
        if self.top_p_milli == 1000 {
            let kept = |id: &u32| f64::from(logits[*id as usize]) >= floor;
            return Some((0..logits.len() as u32).filter(kept).collect());
        }
        let (total, error, count) = about(logits, best, floor);
        let goal = [total - error, total + error].map(|total| total * self.top_p());
        // From a few sure tokens to the flat distributions of high temperatures.
        for n in [64, 1024, 16_384] {
            if n > count {
                return None;
            }
            let mut kept = largest(logits, n);
            let mut sum = 0.0;
            for i in 0..n {
                sum += weight(logits[kept[i] as usize], best.into());
                if sum >= goal[1] {
                    kept.truncate(i + 1);
                    return Some(kept);
                }
                if sum >= goal[0] {
                    return None;
                }
            }
        }
        None
    }
}

/// Probability against that of the best. exp64 is for arguments above -700; below it
/// adds nothing to a sum.
fn weight(logit: f32, best: f64) -> f64 {
    exp64((f64::from(logit) - best).max(-700.0))
}

/// The sum of the weights of all logits that are not below `floor` nor minus infinity;
/// how far at most it is from their sum in any order; their number.
fn about(logits: &[f32], best: f32, floor: f64) -> (f64, f64, usize) {
    // Nearer to the best, the exact weight is worth its price: so few are nearer.
    const NEAR: f32 = -10.0;
    let (mut near, mut far, mut count) = (0.0, 0.0, 0);
    for logit in logits.iter().copied() {
        if logit == f32::NEG_INFINITY || f64::from(logit) < floor {
            continue;
        }
        count += 1;
        let x = logit - best;
        if x >= NEAR {
            near += weight(logit, best.into());
        } else {
            far += f64::from(exp(x));
        }
    }
    // Of `far`: x above -87 is rounded by 87 / 2^24 = 5.2e-6 at most, exp within 2 ulp;
    // what lies below -87 is less than 1e-30 in all. Of sums: under four million
    // additions of relative error 2^-53 each, in either order.
    (near + far, 1e-5 * far + 1e-9 * (near + far) + 1e-30, count)
}

/// Above the largest noise there is: -ln(-ln(1 - 2^-25)) = 17.33.
const MAX_NOISE: f64 = 17.5;

/// Where the running sum of weights reaches a goal.
pub(super) fn nucleus(weights: &[f64], goal: f64) -> Option<usize> {
    let mut sum = 0.0;
    weights.iter().position(|w| {
        sum += w;
        sum >= goal
    })
}

/// The id with the largest logit plus noise; the lower id among equals.
pub(super) fn gumbel(kept: impl Iterator<Item = (u32, f32)>, seed: u64, position: u32) -> u32 {
    let mut best: Option<(f64, u32)> = None;
    for (id, logit) in kept {
        let logit = f64::from(logit);
        // Noise is costly and cannot lift this one above the best so far.
        if best.is_some_and(|(b, _)| logit + MAX_NOISE < b) {
            continue;
        }
        let score = logit + noise(seed, position, id);
        let better = best.is_none_or(|(b, i)| score > b || (score == b && id < i));
        if better {
            best = Some((score, id));
        }
    }
    best.map_or(0, |(_, id)| id)
}

/// Standard Gumbel noise from 24 bits: u = (bits + 1/2) / 2^24, -ln(-ln u).
pub(super) fn noise(seed: u64, position: u32, token: u32) -> f64 {
    let [word, ..] = philox([position, token, 0, 0], [seed as u32, (seed >> 32) as u32]);
    let u = (f64::from(word >> 8) + 0.5) / 16_777_216.0;
    -ln64(-ln64(u))
}

/// Philox 4x32-10 (Salmon, Moraes, Dror, Shaw 2011): a counter-based generator.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let mul = |a: u32, b: u32| {
        let product = u64::from(a) * u64::from(b);
        ((product >> 32) as u32, product as u32)
    };
    for _ in 0..10 {
        let (high0, low0) = mul(0xd251_1f53, counter[0]);
        let (high1, low1) = mul(0xcd9e_8d57, counter[2]);
        counter = [
            high1 ^ counter[1] ^ key[0],
            low1,
            high0 ^ counter[3] ^ key[1],
            low0,
        ];
        key = [
            key[0].wrapping_add(0x9e37_79b9),
            key[1].wrapping_add(0xbb67_ae85),
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_authors_test_vectors() {
        assert_eq!(
            philox([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    fn frequencies(sampling: Sampling, logits: &[f32], n: u64) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        for seed in 0..n {
            let token = sampling.choose(&mut logits.to_vec(), &[0; 7], seed);
            counts[token as usize] += 1.0 / n as f64;
        }
        counts
    }

    #[test]
    fn noise_samples_the_softmax_distribution() {
        let logits = [1.0, 0.0, 2.0, -1.0];
        let sampling = Sampling {
            temperature_milli: 1000,
            ..Sampling::default()
        };
        let total: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        for (l, f) in logits.iter().zip(frequencies(sampling, &logits, 40_000)) {
            assert!((f64::from(*l).exp() / total - f).abs() < 0.01);
        }
    }

    #[test]
    fn filters_keep_what_they_say() {
        let logits = [3.0, 2.0, 2.9, -5.0, 0.0];
        let warm = Sampling {
            temperature_milli: 2000,
            ..Sampling::default()
        };
        let support = |s: Sampling| -> Vec<usize> {
            let f = frequencies(s, &logits, 2000);
            (0..5).filter(|i| f[*i] > 0.0).collect()
        };
        assert_eq!(support(Sampling { top_k: 2, ..warm }), [0, 2]);
        assert_eq!(
            support(Sampling {
                min_p_milli: 500,
                ..warm
            }),
            [0, 1, 2]
        );
        assert_eq!(
            support(Sampling {
                top_p_milli: 1,
                ..warm
            }),
            [0]
        );
        assert_eq!(
            support(Sampling {
                top_p_milli: 600,
                ..warm
            }),
            [0, 2]
        );
        assert_eq!(
            support(Sampling {
                temperature_milli: 0,
                ..warm
            }),
            [0]
        );
    }

    /// Top-p by its words: everything in order, and the shortest beginning that suffices.
    fn in_order(s: &Sampling, logits: &[f32]) -> Vec<u32> {
        let mut kept = largest(logits, logits.len());
        kept.retain(|id| logits[*id as usize] > f32::NEG_INFINITY);
        let best = f64::from(logits[kept[0] as usize]);
        if let Some(floor) = s.floor(best) {
            kept.retain(|id| f64::from(logits[*id as usize]) >= floor);
        }
        let weights: Vec<f64> = kept
            .iter()
            .map(|id| weight(logits[*id as usize], best))
            .collect();
        let goal = weights.iter().fold(0.0, |sum, w| sum + w) * s.top_p();
        let mut sum = 0.0;
        let last = weights.iter().position(|w| {
            sum += w;
            sum >= goal
        });
        kept.truncate(last.map_or(kept.len(), |i| i + 1));
        kept
    }

    #[test]
    fn top_p_without_putting_all_in_order_keeps_the_same_tokens() {
        let mut quick = 0;
        for case in 0..240u64 {
            let n = [3, 64, 65, 700, 9000][case as usize % 5];
            // From sharp to flat, with equal logits, with some not allowed.
            let width = [0.0, 0.3, 3.0, 12.0, 60.0, 300.0][case as usize % 6] as f32;
            let mut logits: Vec<f32> = (0..n)
                .map(|i| {
                    let [a, b, ..] = philox([i, 1, 2, 3], [case as u32, 5]);
                    let steps = (a % 4096) as f32 / 4096.0 + (b % 16) as f32 / 16.0;
                    steps * width
                })
                .collect();
            if case % 3 == 0 {
                logits
                    .iter_mut()
                    .step_by(2)
                    .for_each(|l| *l = f32::NEG_INFINITY);
            }
            for (top_p_milli, min_p_milli) in [(1, 0), (500, 0), (900, 0), (999, 0), (900, 50)] {
                let sampling = Sampling {
                    temperature_milli: 1000,
                    top_p_milli,
                    min_p_milli,
                    ..Sampling::default()
                };
                quick += usize::from(sampling.nucleus(&logits).is_some());
                let (kept, truth) = (sampling.keep(&logits), in_order(&sampling, &logits));
                assert_eq!(
                    kept,
                    Some(truth),
                    "case {case}, {top_p_milli}, {min_p_milli}"
                );
                // Without top-p no order is asked for.
                let all = Sampling {
                    top_p_milli: 1000,
                    min_p_milli: 50,
                    ..sampling
                };
                let (mut kept, mut truth) = (all.keep(&logits).unwrap(), in_order(&all, &logits));
                kept.sort_unstable();
                truth.sort_unstable();
                assert_eq!(kept, truth, "case {case}");
            }
        }
        assert!(quick > 400, "{quick} of 1200");
    }

    #[test]
    fn the_penalty_pushes_recent_tokens_down() {
        let sampling = Sampling {
            repetition_penalty_milli: 2000,
            ..Sampling::default()
        };
        assert_eq!(sampling.choose(&mut [3.0, 2.0, -1.0], &[0], 1), 1);
        assert_eq!(sampling.choose(&mut [-1.0, -1.5, -3.0], &[0], 1), 1);
        let mut old = vec![0];
        old.extend([2; PENALTY_WINDOW]);
        assert_eq!(sampling.choose(&mut [3.0, 2.0, -1.0], &old, 1), 0);
    }

    #[test]
    fn what_occurred_is_taken_from_once_and_for_each_time() {
        let penalty = |presence_penalty_milli, frequency_penalty_milli| Sampling {
            presence_penalty_milli,
            frequency_penalty_milli,
            ..Sampling::default()
        };
        let choose = |s: Sampling, before: &[u32]| s.choose(&mut [3.0, 2.0, 1.75], before, 1);
        assert_eq!(choose(penalty(900, 0), &[0, 0, 0]), 0);
        assert_eq!(choose(penalty(1100, 0), &[0]), 1);
        assert_eq!(choose(penalty(0, 400), &[0, 0, 1]), 0);
        assert_eq!(choose(penalty(0, 400), &[0, 0, 0, 1]), 0);
        assert_eq!(choose(penalty(0, 450), &[0, 0, 0, 1]), 2);
        assert_eq!(choose(penalty(-2000, 0), &[2]), 2);
        assert!(penalty(2001, 0).check().is_err());
        assert!(penalty(0, -2001).check().is_err());
    }

    #[test]
    fn bad_parameters_are_named() {
        let bad = Sampling {
            top_p_milli: 1001,
            ..Sampling::default()
        };
        assert!(
            bad.check()
                .unwrap_err()
                .to_string()
                .starts_with("top_p_milli is 1001")
        );
        assert!(
            Sampling {
                temperature_milli: 10_001,
                ..Sampling::default()
            }
            .check()
            .is_err()
        );
        assert!(
            Sampling {
                repetition_penalty_milli: 0,
                ..Sampling::default()
            }
            .check()
            .is_err()
        );
        assert!(Sampling::default().check().is_ok());
    }
}
