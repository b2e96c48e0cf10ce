//! Norms, and the elementwise operations around them.

use super::math::{gelu_erf, gelu_tanh, silu, swiglu_clamped, tanh};
use crate::cpu::{Simd, versions};

/// What a feed-forward part does between its matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `silu(gate) * up`.
    Silu,
    /// `gelu(gate) * up`, GELU in its tanh form.
    GeluTanh,
    /// GELU in its exact form.
    GeluErf,
    /// The clamped gate of gpt-oss.
    SwigluClamped,
}

impl Activation {
    /// `gate = activation(gate, up)`.
    pub fn gated(self, simd: Simd, gate: &mut [f32], up: &[f32]) {
        match self {
            Self::Silu => swiglu(simd, gate, up),
            Self::GeluTanh => geglu_tanh(simd, gate, up),
            Self::GeluErf => geglu_erf(simd, gate, up),
            Self::SwigluClamped => swiglu_oai(simd, gate, up),
        }
    }

    /// `x = activation(x)`, for parts without a gate.
    pub fn alone(self, simd: Simd, x: &mut [f32]) {
        match self {
            Self::Silu | Self::SwigluClamped => silu_all(simd, x),
            Self::GeluTanh => gelu_tanh_all(simd, x),
            Self::GeluErf => gelu_erf_all(simd, x),
        }
    }
}

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

/// Sum: as [`squares`], of the elements themselves.
#[inline(always)]
fn sum(x: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            sums[i] += chunk[i];
        }
    }
    for (sum, x) in sums.iter_mut().zip(tail) {
        *sum += x;
    }
    tree(sums)
}

#[inline(always)]
fn layer_norm_body(x: &mut [f32], weight: &[f32], bias: &[f32], epsilon: f32) {
    let n = weight.len();
    for x in x.chunks_exact_mut(n) {
        let mean = sum(x) / n as f32;
        x.iter_mut().for_each(|x| *x -= mean);
        let scale = 1.0 / (squares(x) / n as f32 + epsilon).sqrt();
        for i in 0..n {
            x[i] = (x[i] * scale) * weight[i] + bias[i];
        }
    }
}

#[inline(always)]
fn to_unit_length_body(x: &mut [f32]) {
    let length = squares(x).sqrt();
    if length > 0.0 {
        x.iter_mut().for_each(|x| *x /= length);
    }
}

#[inline(always)]
fn add_bias_body(x: &mut [f32], bias: &[f32]) {
    for x in x.chunks_exact_mut(bias.len()) {
        x.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
    }
}

#[inline(always)]
fn add_scaled_body(x: &mut [f32], y: &[f32], scale: f32) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y * scale);
}

#[inline(always)]
fn scale_body(x: &mut [f32], scale: f32) {
    x.iter_mut().for_each(|x| *x *= scale);
}

#[inline(always)]
fn cap_body(x: &mut [f32], cap: f32) {
    x.iter_mut().for_each(|x| *x = cap * tanh(*x / cap));
}

#[inline(always)]
fn softmax_body(x: &mut [f32]) {
    let max = x
        .iter()
        .fold(f32::NEG_INFINITY, |m, x| if *x > m { *x } else { m });
    x.iter_mut().for_each(|x| *x = super::math::exp(*x - max));
    let total = sum(x);
    x.iter_mut().for_each(|x| *x /= total);
}

#[inline(always)]
fn geglu_tanh_body(gate: &mut [f32], up: &[f32]) {
    gate.iter_mut()
        .zip(up)
        .for_each(|(g, u)| *g = gelu_tanh(*g) * u);
}

#[inline(always)]
fn geglu_erf_body(gate: &mut [f32], up: &[f32]) {
    gate.iter_mut()
        .zip(up)
        .for_each(|(g, u)| *g = gelu_erf(*g) * u);
}

#[inline(always)]
fn swiglu_oai_body(gate: &mut [f32], up: &[f32]) {
    gate.iter_mut()
        .zip(up)
        .for_each(|(g, u)| *g = swiglu_clamped(*g, *u));
}

#[inline(always)]
fn silu_all_body(x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x = silu(*x));
}

#[inline(always)]
fn gelu_tanh_all_body(x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x = gelu_tanh(*x));
}

#[inline(always)]
fn gelu_erf_all_body(x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x = gelu_erf(*x));
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
    fn swiglu(gate: &mut [f32], up: &[f32]) = swiglu_body;
}
versions! {
    /// Normalise each row of `weight.len()` elements by its mean and variance, in place.
    pub(crate) fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], epsilon: f32) = layer_norm_body;
}
versions! {
    /// Add a bias to each row of `bias.len()` elements.
    pub(crate) fn add_bias(x: &mut [f32], bias: &[f32]) = add_bias_body;
}
versions! {
    /// `x = x + y * scale`, the product rounded.
    pub(crate) fn add_scaled(x: &mut [f32], y: &[f32], scale: f32) = add_scaled_body;
}
versions! {
    /// `x = x * scale`.
    pub(crate) fn scale(x: &mut [f32], scale: f32) = scale_body;
}
versions! {
    /// `x = cap * tanh(x / cap)`.
    pub(crate) fn cap(x: &mut [f32], cap: f32) = cap_body;
}
versions! {
    /// `x = e^(x - max) / sum`.
    pub(crate) fn softmax(x: &mut [f32]) = softmax_body;
}
versions! {
    fn geglu_tanh(gate: &mut [f32], up: &[f32]) = geglu_tanh_body;
}
versions! {
    fn geglu_erf(gate: &mut [f32], up: &[f32]) = geglu_erf_body;
}
versions! {
    fn swiglu_oai(gate: &mut [f32], up: &[f32]) = swiglu_oai_body;
}
versions! {
    fn silu_all(x: &mut [f32]) = silu_all_body;
}
versions! {
    fn gelu_tanh_all(x: &mut [f32]) = gelu_tanh_all_body;
}
versions! {
    fn gelu_erf_all(x: &mut [f32]) = gelu_erf_all_body;
}
versions! {
    /// Divide by the root of the sum of squares, unless that is 0.
    pub(crate) fn to_unit_length(x: &mut [f32]) = to_unit_length_body;
}
