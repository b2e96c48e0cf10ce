//! RMS norm, and the elementwise operations around it.

use super::math::silu;
use crate::cpu::versions;

/// Strided partial sums of a reduction: sixteen, as wide as the widest vector.
const LANES: usize = 16;

/// The fixed tree over sixteen partial sums: halves added, four times.
#[inline(always)]
pub(crate) fn tree(mut sums: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0]
}

/// Sum of squares: element `i` goes to partial sum `i mod 16`, then the tree.
#[inline(always)]
fn squares(x: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            sums[i] += chunk[i] * chunk[i];
        }
    }
    for (sum, x) in sums.iter_mut().zip(tail) {
        *sum += x * x;
    }
    tree(sums)
}

#[inline(always)]
fn rms_norm_body(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let n = weight.len();
    for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
        let scale = 1.0 / (squares(x) / n as f32 + epsilon).sqrt();
        for i in 0..n {
            out[i] = (x[i] * scale) * weight[i];
        }
    }
}

#[inline(always)]
fn rms_norm_in_place_body(x: &mut [f32], weight: &[f32], epsilon: f32) {
    let n = weight.len();
    for x in x.chunks_exact_mut(n) {
        let scale = 1.0 / (squares(x) / n as f32 + epsilon).sqrt();
        for i in 0..n {
            x[i] = (x[i] * scale) * weight[i];
        }
    }
}

#[inline(always)]
fn add_body(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

#[inline(always)]
fn swiglu_body(gate: &mut [f32], up: &[f32]) {
    gate.iter_mut().zip(up).for_each(|(g, u)| *g = silu(*g) * u);
}

versions! {
    /// Normalise each row of `weight.len()` elements: `(x * (1 / sqrt(mean(x²) + epsilon))) * weight`.
    pub(crate) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) = rms_norm_body;
}
versions! {
    /// [`rms_norm`], in place.
    pub(crate) fn rms_norm_in_place(x: &mut [f32], weight: &[f32], epsilon: f32) = rms_norm_in_place_body;
}
versions! {
    /// `x = x + y`.
    pub(crate) fn add(x: &mut [f32], y: &[f32]) = add_body;
}
versions! {
    /// `gate = silu(gate) * up`.
    pub(crate) fn swiglu(gate: &mut [f32], up: &[f32]) = swiglu_body;
}
