//! Attention over a cache of f16 keys and values in tiles of 64 positions.
//!
//! Per tile: scores (keys stored transposed, so that a lane is a position and the
//! sum runs over the head's elements in order), the online softmax update, and
//! the weighted sum of values in order of position. The tiles are cut at absolute
//! positions, so decoding and prefilling do the same operations. Heads that share
//! keys and values share the tile: many queries by widening it once (`wide`), a
//! few by widening in registers (`avx2`), which gives the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod wide;

use super::half::{narrow, widen};
use super::math::{exp, tanh};
use super::norm::tree;
use crate::cpu::{Simd, versions};

/// Positions per tile (and per cache page).
pub(crate) const TILE: usize = 64;
/// Queries up to which a tile is widened in registers, again for every two of them;
/// beyond, a widened copy is cheaper.
#[cfg(target_arch = "x86_64")]
const FEW: usize = 8;

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

/// What is done to a score before the softmax.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Multiplied by this.
    pub scale: f32,
    /// Then `cap * tanh(score / cap)`.
    pub cap: Option<f32>,
}

/// The slots of a tile that a query sees: `from .. to`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub from: usize,
    pub to: usize,
}

impl Seen {
    /// Of the positions `first .. end`, those that lie in tile `tile`.
    pub fn of(first: usize, end: usize, tile: usize) -> Self {
        let slot = |p: usize| p.saturating_sub(tile * TILE).min(TILE);
        Self {
            from: slot(first),
            to: slot(end),
        }
    }

    fn is_empty(self) -> bool {
        self.from >= self.to
    }
}

/// Queries of one KV head, by ascending position, with their running softmax. The
/// buffers are kept from use to use.
#[derive(Default)]
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
    seen: Vec<Seen>,
    wide: Vec<f32>,
}

impl Queries {
    /// Begin with `n` queries of `dim` elements that have seen nothing; the returned
    /// buffer takes their elements, one query after the other.
    pub fn start(&mut self, dim: usize, n: usize) -> &mut [f32] {
        self.dim = dim;
        self.max.clear();
        self.max.resize(n, f32::NEG_INFINITY);
        self.sum.clear();
        self.sum.resize(n, 0.0);
        self.out.clear();
        self.out.resize(n * dim, 0.0);
        self.weights.resize(n, [0.0; TILE]);
        self.seen.resize(n, Seen::default());
        self.queries.resize(n * dim, 0.0);
        &mut self.queries
    }

    /// Let a query's softmax begin with a score that has no value.
    pub fn sink(&mut self, query: usize, score: f32) {
        self.max[query] = score;
        self.sum[query] = 1.0;
    }

    /// What each query sees of the next tile. Neither end decreases from query to
    /// query.
    pub fn seen(&mut self) -> &mut [Seen] {
        &mut self.seen
    }

    /// Let each query see its part of a tile. `next` is the tile that comes after it, to
    /// be fetched meanwhile.
    pub fn attend(&mut self, simd: Simd, tile: &[u16], next: Option<&[u16]>, rules: Rules) {
        let first = self.seen.iter().take_while(|s| s.is_empty()).count();
        let n = self.seen[first..]
            .iter()
            .take_while(|s| !s.is_empty())
            .count();
        if n == 0 {
            return;
        }
        let dim = self.dim;
        assert!(tile.len() == 2 * dim * TILE);
        let mut part = Part {
            dim,
            queries: &self.queries[first * dim..(first + n) * dim],
            weights: &mut self.weights[first..first + n],
            seen: &self.seen[first..first + n],
            out: &mut self.out[first * dim..(first + n) * dim],
        };
        let (max, sum) = (
            &mut self.max[first..first + n],
            &mut self.sum[first..first + n],
        );
        #[cfg(target_arch = "x86_64")]
        if n <= FEW && simd.level() >= crate::cpu::SimdLevel::Avx2 {
            let (keys, values) = tile.split_at(dim * TILE);
            avx2::scores(simd, keys, &mut part);
            soften(simd, &mut part, rules, max, sum);
            avx2::weigh(simd, values, next.unwrap_or(values), &mut part);
            return;
        }
        let _ = next;
        self.wide.resize(tile.len(), 0.0);
        widen(simd, tile, &mut self.wide);
        let (keys, values) = self.wide.split_at(dim * TILE);
        wide::scores(simd, keys, &mut part);
        soften(simd, &mut part, rules, max, sum);
        wide::weigh(simd, values, &mut part);
    }

    /// One query's result.
    pub fn finish(&self, query: usize, out: &mut [f32]) {
        let inverse = 1.0 / self.sum[query];
        let from = &self.out[query * self.dim..(query + 1) * self.dim];
        out.iter_mut().zip(from).for_each(|(o, x)| *o = x * inverse);
    }
}

/// The queries that see anything of the tile in hand.
struct Part<'a> {
    dim: usize,
    queries: &'a [f32],
    weights: &'a mut [[f32; TILE]],
    seen: &'a [Seen],
    out: &'a mut [f32],
}

/// Scores to weights, with the online softmax update of every query.
#[inline(always)]
fn soften_body(part: &mut Part<'_>, rules: Rules, max: &mut [f32], sum: &mut [f32]) {
    for (i, weights) in part.weights.iter_mut().enumerate() {
        let seen = part.seen[i];
        for w in weights.iter_mut() {
            *w *= rules.scale;
        }
        if let Some(cap) = rules.cap {
            for w in weights.iter_mut() {
                *w = cap * tanh(*w / cap);
            }
        }
        // Positions not seen: exp(-infinity) is +0, which changes no sum.
        weights[..seen.from].fill(f32::NEG_INFINITY);
        weights[seen.to..].fill(f32::NEG_INFINITY);
        let larger = largest(weights, max[i]);
        for w in weights.iter_mut() {
            *w = exp(*w - larger);
        }
        let correction = exp(max[i] - larger);
        max[i] = larger;
        sum[i] = sum[i] * correction + total(weights);
        for o in &mut part.out[i * part.dim..(i + 1) * part.dim] {
            *o *= correction;
        }
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

versions! {
    fn soften(part: &mut Part<'_>, rules: Rules, max: &mut [f32], sum: &mut [f32]) = soften_body;
}
