//! The slow and obvious versions, in f64 over `ndarray`: the oracle of the tests.

use super::dequant;
use crate::gguf::TensorType;
use ndarray::{Array1, Array2, ArrayView1, s};

/// All elements of a tensor.
pub(crate) fn dequantise(ty: TensorType, bytes: &[u8]) -> Vec<f64> {
    let blocks = bytes.len() / ty.block_bytes() as usize;
    let mut out = vec![0.0; blocks * ty.block_len() as usize];
    dequant::row(ty, bytes, &mut out);
    out.into_iter().map(f64::from).collect()
}

/// A tensor as a matrix of rows.
pub(crate) fn matrix(ty: TensorType, bytes: &[u8], k: usize) -> Array2<f64> {
    let all = dequantise(ty, bytes);
    Array2::from_shape_vec((all.len() / k, k), all).unwrap()
}

/// What an activation row becomes when it is quantised to eight bits, per `block`
/// elements, and back.
pub(crate) fn quantised(x: &[f32], block: usize) -> Array1<f64> {
    let mut out = Vec::new();
    for block in x.chunks(block) {
        let amax = block.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        for x in block {
            let code = if amax < 1e-30 {
                0.0
            } else {
                (x * (127.0 / amax)).round_ties_even()
            };
            out.push(f64::from(code) * f64::from(amax / 127.0));
        }
    }
    Array1::from(out)
}

pub(crate) fn rms_norm(x: ArrayView1<'_, f64>, weight: &[f64], epsilon: f64) -> Array1<f64> {
    let mean = x.dot(&x) / x.len() as f64;
    let scale = (mean + epsilon).sqrt();
    x.iter().zip(weight).map(|(x, w)| x / scale * w).collect()
}

/// What a softmax over scores does besides.
pub(crate) struct Softmax {
    pub scale: f64,
    /// First position that is seen.
    pub first: usize,
    pub cap: Option<f64>,
    pub sink: Option<f64>,
}

/// Softmax attention of one query over the keys and values given.
pub(crate) fn attend(
    query: ArrayView1<'_, f64>,
    keys: &Array2<f64>,
    values: &Array2<f64>,
    softmax: &Softmax,
) -> Array1<f64> {
    let scores = keys.slice(s![softmax.first.., ..]).dot(&query) * softmax.scale;
    let scores = match softmax.cap {
        Some(cap) => scores.mapv(|s| cap * (s / cap).tanh()),
        None => scores,
    };
    let sink = softmax.sink.unwrap_or(f64::NEG_INFINITY);
    let max = scores.fold(sink, |m, s| m.max(*s));
    let weights = scores.mapv(|s| (s - max).exp());
    let total = weights.sum() + (sink - max).exp();
    values.slice(s![softmax.first.., ..]).t().dot(&weights) / total
}

/// Normalised mean squared error.
pub(crate) fn nmse(truth: impl Iterator<Item = f64>, found: impl Iterator<Item = f64>) -> f64 {
    let (mut error, mut power) = (0.0, 0.0);
    for (t, f) in truth.zip(found) {
        error += (t - f) * (t - f);
        power += t * t;
    }
    error / power
}
