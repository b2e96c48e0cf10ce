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

/// A tile widened to f32, shared by all queries that look at it.
#[derive(Default)]
pub(crate) struct Wide(Vec<f32>);

impl Wide {
    /// Widen a tile.
    pub fn fill(&mut self, simd: Simd, tile: &[u16]) {
        self.0.resize(tile.len(), 0.0);
        widen(simd, tile, &mut self.0);
    }
}

/// Queries of one KV head, by ascending position, with their running softmax.
pub(crate) struct Queries {
    dim: usize,
    /// `[n][dim]`.
    queries: Vec<f32>,
    max: Vec<f32>,
    sum: Vec<f32>,
    /// `[n][dim]`.
    out: Vec<f32>,
    /// Scores, then weights, of the tile in hand.
    weights: Vec<[f32; TILE]>,
}

impl Queries {
    /// Queries of `dim` elements, one after the other; nothing seen yet.
    pub fn new(dim: usize, queries: Vec<f32>) -> Self {
        let n = queries.len() / dim;
        Self {
            dim,
            max: vec![f32::NEG_INFINITY; n],
            sum: vec![0.0; n],
            out: vec![0.0; queries.len()],
            weights: vec![[0.0; TILE]; n],
            queries,
        }
    }

    /// Let each query see the first `seen` positions of a tile. `seen` does not
    /// decrease from query to query; only the first ones may be 0.
    pub fn attend(&mut self, simd: Simd, wide: &Wide, scale: f32, seen: &[usize]) {
        attend(simd, self, &wide.0, scale, seen);
    }

    /// One query's result.
    pub fn finish(&self, query: usize, out: &mut [f32]) {
        let inverse = 1.0 / self.sum[query];
        let from = &self.out[query * self.dim..(query + 1) * self.dim];
        out.iter_mut().zip(from).for_each(|(o, x)| *o = x * inverse);
    }
}

/// Lanes in hand: with two queries, four or eight accumulators, enough to hide the
/// latency of an addition and few enough for sixteen registers.
const LANES: usize = 32;

#[inline(always)]
fn attend_body(all: &mut Queries, wide: &[f32], scale: f32, seen: &[usize]) {
    let dim = all.dim;
    let first = seen.iter().take_while(|s| **s == 0).count();
    let (keys, values) = wide.split_at(dim * TILE);
    let seen = &seen[first..];
    let weights = &mut all.weights[first..];
    // Half a tile of keys stays in the first-level cache while all queries pass.
    for half in 0..TILE / LANES {
        for (q, w) in all.queries[first * dim..]
            .chunks(2 * dim)
            .zip(weights.chunks_mut(2))
        {
            score(keys, q, dim, half * LANES, w);
        }
    }
    let out = &mut all.out[first * dim..];
    for (i, weights) in weights.iter_mut().enumerate() {
        let (max, sum) = (&mut all.max[first + i], &mut all.sum[first + i]);
        soften(
            weights,
            scale,
            seen[i],
            max,
            sum,
            &mut out[i * dim..(i + 1) * dim],
        );
    }
    let chunks = dim / LANES;
    for c in 0..chunks {
        for ((w, s), out) in weights
            .chunks(2)
            .zip(seen.chunks(2))
            .zip(out.chunks_mut(2 * dim))
        {
            weigh(values, w, s, dim, c * LANES, out);
        }
    }
    for i in chunks * LANES..dim {
        for ((w, s), out) in weights.iter().zip(seen).zip(out.chunks_mut(dim)) {
            for p in 0..*s {
                out[i] += w[p] * values[p * dim + i];
            }
        }
    }
}

/// `scores[p] = sum over i of query[i] * keys[i][p]`, i ascending, for the lanes
/// from `lane` and one or two queries.
#[inline(always)]
fn score(keys: &[f32], q: &[f32], dim: usize, lane: usize, scores: &mut [[f32; TILE]]) {
    let row = |i: usize| {
        let row = &keys[i * TILE + lane..i * TILE + lane + LANES];
        row.first_chunk::<LANES>().unwrap_or(&[0.0; LANES])
    };
    let (mut first, mut second) = ([0.0; LANES], [0.0; LANES]);
    if let [one, two] = scores {
        for ((i, q0), q1) in q[..dim].iter().enumerate().zip(&q[dim..]) {
            let k = row(i);
            for p in 0..LANES {
                first[p] += q0 * k[p];
                second[p] += q1 * k[p];
            }
        }
        one[lane..lane + LANES].copy_from_slice(&first);
        two[lane..lane + LANES].copy_from_slice(&second);
    } else if let [one] = scores {
        for (i, q0) in q.iter().enumerate() {
            let k = row(i);
            for p in 0..LANES {
                first[p] += q0 * k[p];
            }
        }
        one[lane..lane + LANES].copy_from_slice(&first);
    }
}

/// Scores to weights, with the online softmax update of one query.
#[inline(always)]
fn soften(
    weights: &mut [f32; TILE],
    scale: f32,
    seen: usize,
    max: &mut f32,
    sum: &mut f32,
    out: &mut [f32],
) {
    for w in weights.iter_mut() {
        *w *= scale;
    }
    // Positions not yet seen: exp(-infinity) is +0, which changes no sum.
    weights[seen..].fill(f32::NEG_INFINITY);
    let larger = largest(weights, *max);
    for w in weights.iter_mut() {
        *w = exp(*w - larger);
    }
    let correction = exp(*max - larger);
    *max = larger;
    *sum = *sum * correction + total(weights);
    for o in out {
        *o *= correction;
    }
}

/// The largest of `first` and the scores; of numbers, so in any order.
#[inline(always)]
fn largest(scores: &[f32; TILE], first: f32) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [first; 16];
    for chunk in scores.as_chunks::<16>().0 {
        for i in 0..16 {
            lanes[i] = larger(lanes[i], chunk[i]);
        }
    }
    lanes.into_iter().fold(first, larger)
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

/// `out[i] += weights[p] * values[p][i]`, p ascending, for the lanes from `lane` and
/// one or two queries. Positions that a query has not seen are left out, not added
/// with weight zero: -0 + 0 would change a bit.
#[inline(always)]
fn weigh(
    values: &[f32],
    weights: &[[f32; TILE]],
    seen: &[usize],
    dim: usize,
    lane: usize,
    out: &mut [f32],
) {
    let row = |p: usize| {
        values[p * dim + lane..]
            .first_chunk::<LANES>()
            .unwrap_or(&[0.0; LANES])
    };
    let take = |out: &[f32]| *out[lane..].first_chunk::<LANES>().unwrap_or(&[0.0; LANES]);
    let both = if seen.len() == 2 { seen[0] } else { 0 };
    let last = seen.len() - 1;
    let mut tail = take(&out[last * dim..]);
    if both > 0 {
        let mut sums = take(out);
        for ((p, w0), w1) in weights[0][..both].iter().enumerate().zip(&weights[1]) {
            let v = row(p);
            for i in 0..LANES {
                sums[i] += w0 * v[i];
                tail[i] += w1 * v[i];
            }
        }
        out[lane..lane + LANES].copy_from_slice(&sums);
    }
    for (p, w) in weights[last][..seen[last]].iter().enumerate().skip(both) {
        let v = row(p);
        for i in 0..LANES {
            tail[i] += w * v[i];
        }
    }
    out[last * dim + lane..last * dim + lane + LANES].copy_from_slice(&tail);
}

versions! {
    fn attend(all: &mut Queries, wide: &[f32], scale: f32, seen: &[usize]) = attend_body;
}
