//! Many queries over one tile that was widened to f32: plain loops, compiled for
//! every level.

use super::{Part, Seen, TILE};
use crate::cpu::versions;

/// Lanes in hand: with two queries, four or eight accumulators, enough to hide the
/// latency of an addition and few enough for sixteen registers.
const LANES: usize = 32;

#[inline(always)]
fn scores_body(keys: &[f32], part: &mut Part<'_>) {
    // Half a tile of keys stays in the first-level cache while all queries pass.
    for half in 0..TILE / LANES {
        for (q, w) in part
            .queries
            .chunks(2 * part.dim)
            .zip(part.weights.chunks_mut(2))
        {
            score(keys, q, part.dim, half * LANES, w);
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

#[inline(always)]
fn weigh_body(values: &[f32], part: &mut Part<'_>) {
    let dim = part.dim;
    let chunks = dim / LANES;
    for c in 0..chunks {
        for ((w, s), out) in part
            .weights
            .chunks(2)
            .zip(part.seen.chunks(2))
            .zip(part.out.chunks_mut(2 * dim))
        {
            weigh_two(values, w, s, dim, c * LANES, out);
        }
    }
    for i in chunks * LANES..dim {
        for ((w, s), out) in part
            .weights
            .iter()
            .zip(part.seen)
            .zip(part.out.chunks_mut(dim))
        {
            for p in s.from..s.to {
                out[i] += w[p] * values[p * dim + i];
            }
        }
    }
}

/// `out[i] += weights[p] * values[p][i]`, p ascending, for the lanes from `lane` and
/// one or two queries. Positions that a query has not seen are left out, not added
/// with weight zero: -0 + 0 would change a bit.
#[inline(always)]
fn weigh_two(
    values: &[f32],
    weights: &[[f32; TILE]],
    seen: &[Seen],
    dim: usize,
    lane: usize,
    out: &mut [f32],
) {
    if let ([w0, w1], [s0, s1]) = (weights, seen) {
        let (one, two) = out.split_at_mut(dim);
        let (from, to) = (s1.from, s0.to.max(s1.from));
        weigh_one(values, w0, s0.from, s0.to.min(from), dim, lane, one);
        let (mut a, mut b) = (take(one, lane), take(two, lane));
        for ((p, w0), w1) in (from..to).zip(&w0[from..to]).zip(&w1[from..to]) {
            let v = row(values, p, dim, lane);
            for i in 0..LANES {
                a[i] += w0 * v[i];
                b[i] += w1 * v[i];
            }
        }
        one[lane..lane + LANES].copy_from_slice(&a);
        two[lane..lane + LANES].copy_from_slice(&b);
        weigh_one(values, w1, to, s1.to, dim, lane, two);
    } else if let ([w], [s]) = (weights, seen) {
        weigh_one(values, w, s.from, s.to, dim, lane, out);
    }
}

#[inline(always)]
fn weigh_one(
    values: &[f32],
    weights: &[f32; TILE],
    from: usize,
    to: usize,
    dim: usize,
    lane: usize,
    out: &mut [f32],
) {
    let mut sums = take(out, lane);
    for (p, w) in weights.iter().enumerate().take(to).skip(from) {
        let v = row(values, p, dim, lane);
        for i in 0..LANES {
            sums[i] += w * v[i];
        }
    }
    out[lane..lane + LANES].copy_from_slice(&sums);
}

#[inline(always)]
fn row(values: &[f32], p: usize, dim: usize, lane: usize) -> &[f32; LANES] {
    values[p * dim + lane..]
        .first_chunk::<LANES>()
        .unwrap_or(&[0.0; LANES])
}

#[inline(always)]
fn take(out: &[f32], lane: usize) -> [f32; LANES] {
    *out[lane..].first_chunk::<LANES>().unwrap_or(&[0.0; LANES])
}

versions! {
    /// Scores of all 64 positions for every query.
    pub(super) fn scores(keys: &[f32], part: &mut Part<'_>) = scores_body;
}
versions! {
    /// Add the weighted values that each query sees.
    pub(super) fn weigh(values: &[f32], part: &mut Part<'_>) = weigh_body;
}
