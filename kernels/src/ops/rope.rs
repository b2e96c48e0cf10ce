//! Rotary position embedding, NEOX style: element `i` turns with `i + dim/2`.

use super::math::{exp64, ln64, sin_cos64};

/// Angles per position step, one per pair: `base^(-2i/dim)` in f64.
#[derive(Clone, Debug)]
pub(crate) struct Rope {
    frequencies: Vec<f64>,
}

impl Rope {
    /// For heads of `dim` elements (even) and a base above zero.
    pub fn new(dim: usize, base: f32) -> Self {
        let ln = ln64(f64::from(base));
        let frequency = |i: usize| exp64(-(2.0 * i as f64 / dim as f64) * ln);
        Self {
            frequencies: (0..dim / 2).map(frequency).collect(),
        }
    }

    /// Cosines, then sines, of one position: `dim` numbers, rounded to f32 last.
    pub fn angles(&self, position: u32, out: &mut [f32]) {
        let (cos, sin) = out.split_at_mut(self.frequencies.len());
        for (i, frequency) in self.frequencies.iter().enumerate() {
            let (s, c) = sin_cos64(f64::from(position) * frequency);
            cos[i] = c as f32;
            sin[i] = s as f32;
        }
    }
}

/// Turn every head (`angles.len()` elements each) of a row:
/// `(a, b) = (a cos - b sin, b cos + a sin)`, each product rounded.
pub(crate) fn rotate(heads: &mut [f32], angles: &[f32]) {
    let half = angles.len() / 2;
    let (cos, sin) = angles.split_at(half);
    for head in heads.chunks_exact_mut(angles.len()) {
        let (a, b) = head.split_at_mut(half);
        for i in 0..half {
            let (x, y) = (a[i], b[i]);
            a[i] = x * cos[i] - y * sin[i];
            b[i] = y * cos[i] + x * sin[i];
        }
    }
}
