//! Causal attention over a cache of f16 keys and values in tiles of 64 positions.
//!
//! Per tile: scores (keys stored transposed, so that a lane is a position and the
//! sum runs over the head's elements in order), the online softmax update, and
//! the weighted sum of values in order of position. The tiles are cut at absolute
//! positions, so decoding and prefilling do the same operations. Heads that share
//! keys and values share the widened tile.

use super::half::{narrow, widen};
use super::math::exp;
use super::norm::tree;
use crate::cpu::{Simd, versions};

/// Positions per tile (and per cache page).
pub(crate) const TILE: usize = 64;

/// Write one position's key and value of one head into its tile.
/// `tile` holds keys `[dim][64]`, then values `[64][dim]`.
pub(crate) fn store(tile: &mut [u16], slot: usize, key: &[f32], value: &[f32]) {
    let dim = key.len();
    let (keys, values) = tile.split_at_mut(dim * TILE);
    for (i, k) in key.iter().enumerate() {
        keys[i * TILE + slot] = narrow(*k);
    }
    for (v, x) in values[slot * dim..(slot + 1) * dim].iter_mut().zip(value) {
        *v = narrow(*x);
    }
}

/// Running softmax of one query head.
#[derive(Clone)]
pub(crate) struct State {
    max: f32,
    sum: f32,
    out: Vec<f32>,
}

impl State {
    /// Nothing seen yet.
    pub fn new(dim: usize) -> Self {
        Self {
            max: f32::NEG_INFINITY,
            sum: 0.0,
            out: vec![0.0; dim],
        }
    }

    /// The attention's result.
    pub fn finish(&self, out: &mut [f32]) {
        let inverse = 1.0 / self.sum;
        out.iter_mut()
            .zip(&self.out)
            .for_each(|(o, x)| *o = x * inverse);
    }
}

/// A tile widened to f32, shared by all queries that look at it.
#[derive(Default)]
pub(crate) struct Wide(Vec<f32>);

impl Wide {
    /// Widen a tile.
    pub fn fill(&mut self, simd: Simd, tile: &[u16]) {
        self.0.resize(tile.len(), 0.0);
        widen(simd, tile, &mut self.0);
    }

    /// Let one query see the first `seen` positions of the tile.
    pub fn attend(&self, simd: Simd, query: &[f32], scale: f32, seen: usize, state: &mut State) {
        attend(simd, &self.0, query, scale, seen, state);
    }
}

#[inline(always)]
fn attend_body(wide: &[f32], query: &[f32], scale: f32, seen: usize, state: &mut State) {
    let (keys, values) = wide.split_at(query.len() * TILE);
    let mut weights = [0.0; TILE];
    scores(keys, query, &mut weights);
    let mut max = state.max;
    for w in &mut weights[..seen] {
        *w *= scale;
        max = if *w > max { *w } else { max };
    }
    for w in &mut weights {
        *w = exp(*w - max);
    }
    // Positions not yet seen weigh nothing; adding +0 changes no sum.
    weights[seen..].fill(0.0);
    let correction = exp(state.max - max);
    state.max = max;
    state.sum = state.sum * correction + total(&weights);
    for o in &mut state.out {
        *o *= correction;
    }
    weigh(values, &weights[..seen], &mut state.out);
}

/// `scores[p] = sum over i of query[i] * keys[i][p]`, i ascending.
#[inline(always)]
fn scores(keys: &[f32], query: &[f32], scores: &mut [f32; TILE]) {
    // Two halves, so that the accumulators fit into sixteen registers.
    const HALF: usize = TILE / 2;
    for half in 0..2 {
        let mut sums = [0.0; HALF];
        for (keys, q) in keys.as_chunks::<TILE>().0.iter().zip(query) {
            for p in 0..HALF {
                sums[p] += q * keys[half * HALF + p];
            }
        }
        scores[half * HALF..(half + 1) * HALF].copy_from_slice(&sums);
    }
}

/// Sixteen strided partial sums, then the tree.
#[inline(always)]
fn total(weights: &[f32; TILE]) -> f32 {
    let mut sums = [0.0; 16];
    for chunk in weights.as_chunks::<16>().0 {
        for i in 0..16 {
            sums[i] += chunk[i];
        }
    }
    tree(sums)
}

/// `out[i] += weights[p] * values[p][i]`, p ascending.
#[inline(always)]
fn weigh(values: &[f32], weights: &[f32], out: &mut [f32]) {
    const LANES: usize = 32;
    let dim = out.len();
    let (chunks, tail) = out.as_chunks_mut::<LANES>();
    for (c, out) in chunks.iter_mut().enumerate() {
        let mut sums = *out;
        for (p, w) in weights.iter().enumerate() {
            let Some(v) = values[p * dim + c * LANES..].first_chunk::<LANES>() else {
                break;
            };
            for i in 0..LANES {
                sums[i] += w * v[i];
            }
        }
        *out = sums;
    }
    let first = dim - tail.len();
    for (i, out) in tail.iter_mut().enumerate() {
        for (p, w) in weights.iter().enumerate() {
            *out += w * values[p * dim + first + i];
        }
    }
}

versions! {
    fn attend(wide: &[f32], query: &[f32], scale: f32, seen: usize, state: &mut State) = attend_body;
}
