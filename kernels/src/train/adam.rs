//! AdamW (Loshchilov, Hutter 2019) with a warm-up, a plateau and a falling cosine, and clipping
//! by the global norm.
//!
//! Every weight is its own chain of operations; the norm is summed over chunks of 4,096
//! gradients in ascending order, so threads do not show. Called by [`super::run`].

use super::math;
use super::net::Shape;

/// Chunk of the global norm; the size of a chunk in the training rounds of the design.
const CHUNK: usize = 4096;

/// Settings of the optimiser.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Highest learning rate.
    pub rate: f32,
    /// Rate at the end, as a share of the highest.
    pub floor: f32,
    /// Steps of linear warm-up.
    pub warmup: usize,
    /// Steps at the end over which the rate falls along half a cosine.
    pub fall: usize,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Decay of matrices, times the rate; norms are not decayed.
    pub decay: f32,
    /// Longest gradient; a longer one is scaled down to it.
    pub clip: f32,
}

impl Default for Settings {
    /// A high rate and short memories, for a small model and few steps.
    fn default() -> Self {
        Self {
            rate: 3e-3,
            floor: 0.03,
            warmup: 40,
            fall: 600,
            beta1: 0.9,
            beta2: 0.98,
            decay: 0.05,
            clip: 1.0,
        }
    }
}

impl Settings {
    /// The step from which on the rate falls; at the earliest the middle of the run.
    pub fn fall_start(&self, steps: usize) -> usize {
        steps - self.fall.min(steps / 2)
    }

    /// Learning rate of a step (from 0) of `steps`: a warm-up, a plateau, and half a cosine
    /// down over the last `fall` steps. Up to the fall it does not depend on `steps`, so a
    /// saved run can be made longer.
    pub fn rate_at(&self, step: usize, steps: usize) -> f32 {
        let up = ((step + 1) as f32 / self.warmup.max(1) as f32).min(1.0);
        let start = self.fall_start(steps);
        let done = step.saturating_sub(start) as f32 / (steps - start).max(1) as f32;
        let (_, cos) = math::sin_cos(done.min(1.0) * std::f32::consts::PI);
        self.rate * up * (self.floor + (1.0 - self.floor) * 0.5 * (1.0 + cos))
    }
}

/// Moments of all weights.
pub struct Adam {
    settings: Settings,
    decayed: Vec<std::ops::Range<usize>>,
    m: Vec<f32>,
    v: Vec<f32>,
    /// beta1^step and beta2^step.
    powers: (f32, f32),
}

impl Adam {
    /// An optimiser that has seen nothing.
    pub fn new(shape: &Shape, settings: Settings) -> Self {
        let len = shape.layout().len;
        let matrices = shape.tensors().into_iter().filter(|t| !t.is_norm());
        Self {
            settings,
            decayed: matrices.map(|t| t.range).collect(),
            m: vec![0.0; len],
            v: vec![0.0; len],
            powers: (1.0, 1.0),
        }
    }

    /// Powers of the two decays, first moments, second moments.
    pub fn parts(&self) -> ([f32; 2], &[f32], &[f32]) {
        ([self.powers.0, self.powers.1], &self.m, &self.v)
    }

    /// Puts back what [`Adam::parts`] gave.
    pub fn restore(&mut self, powers: [f32; 2], m: Vec<f32>, v: Vec<f32>) {
        self.powers = (powers[0], powers[1]);
        (self.m, self.v) = (m, v);
    }

    /// Applies one gradient; returns its length before clipping.
    pub fn step(&mut self, w: &mut [f32], grad: &[f32], rate: f32) -> f32 {
        let s = self.settings;
        let length = grad
            .chunks(CHUNK)
            .fold(0.0f32, |t, c| t + math::dot(c, c))
            .sqrt();
        let scale = if length > s.clip {
            s.clip / length
        } else {
            1.0
        };
        self.powers = (self.powers.0 * s.beta1, self.powers.1 * s.beta2);
        let (fix1, fix2) = (1.0 / (1.0 - self.powers.0), 1.0 / (1.0 - self.powers.1));
        for range in &self.decayed {
            for x in &mut w[range.clone()] {
                *x -= rate * s.decay * *x;
            }
        }
        for (((x, &g), m), v) in w.iter_mut().zip(grad).zip(&mut self.m).zip(&mut self.v) {
            let g = g * scale;
            *m = s.beta1 * *m + (1.0 - s.beta1) * g;
            *v = s.beta2 * *v + (1.0 - s.beta2) * (g * g);
            *x -= rate * (*m * fix1) / ((*v * fix2).sqrt() + 1e-8);
        }
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_then_falls_to_its_floor() {
        let s = Settings::default();
        assert!(s.rate_at(0, 1000) < s.rate_at(20, 1000));
        assert_eq!(s.rate_at(s.warmup, 1000), s.rate);
        assert_eq!(s.rate_at(700, 1300), s.rate_at(700, 2000));
        assert!(s.rate_at(900, 1000) > s.rate_at(950, 1000));
        assert!((s.rate_at(999, 1000) - s.rate * s.floor).abs() < 1e-5);
    }
}
