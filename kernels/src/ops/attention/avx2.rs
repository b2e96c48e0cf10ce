//! A few queries over one tile, widened in registers: a decoding step reads each
//! key and value once, in f16, and writes no copy.
//!
//! Same operations as `wide`, on 256-bit registers; AVX-512 processors use it too,
//! for such work waits for memory.

use super::{Part, Seen, TILE};
use crate::cpu::{Simd, SimdLevel};
use crate::ops::half::widen_one;
use std::arch::x86_64::{
    __m256, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm256_add_ps, _mm256_cvtph_ps,
    _mm256_loadu_ps, _mm256_mul_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};

/// Registers of eight lanes that one query accumulates in.
const REGS: usize = 4;
/// Lanes in hand.
const LANES: usize = 8 * REGS;
/// How far ahead of the loads memory is asked for, in halves: 4 KB. Tiles lie apart,
/// and the processor's own prefetching stops at the end of a page.
const AHEAD: usize = 2048;

/// Scores of all 64 positions for every query. `keys` is `[dim][64]`.
pub(super) fn scores(simd: Simd, keys: &[u16], part: &mut Part<'_>) {
    assert!(simd.level() >= SimdLevel::Avx2 && keys.len() == part.dim * TILE);
    let dim = part.dim;
    for (q, w) in part.queries.chunks(2 * dim).zip(part.weights.chunks_mut(2)) {
        for lane in (0..TILE).step_by(LANES) {
            // SAFETY: the level proves AVX2 and F16C.
            match w {
                [one, two] => unsafe {
                    score([&q[..dim], &q[dim..]], keys, lane, [one, two]);
                },
                [one] => unsafe { score([q], keys, lane, [one]) },
                _ => {}
            }
        }
    }
}

/// Add the weighted values that each query sees. `values` is `[64][dim]`; after them
/// `next` is read.
pub(super) fn weigh(simd: Simd, values: &[u16], next: &[u16], part: &mut Part<'_>) {
    assert!(simd.level() >= SimdLevel::Avx2 && values.len() == part.dim * TILE);
    let dim = part.dim;
    let values = Values { values, next, dim };
    for ((w, s), out) in part
        .weights
        .chunks(2)
        .zip(part.seen.chunks(2))
        .zip(part.out.chunks_mut(2 * dim))
    {
        for lane in (0..dim / LANES * LANES).step_by(LANES) {
            // SAFETY: the level proves AVX2 and F16C.
            unsafe { weigh_two(values, w, s, lane, out) };
        }
        let rows = values.values;
        for ((w, s), out) in w.iter().zip(s).zip(out.chunks_mut(dim)) {
            for i in dim / LANES * LANES..dim {
                for p in s.from..s.to {
                    out[i] += w[p] * widen_one(rows[p * dim + i]);
                }
            }
        }
    }
}

/// Values `[64][dim]`, and what is read after them.
#[derive(Clone, Copy)]
struct Values<'a> {
    values: &'a [u16],
    next: &'a [u16],
    dim: usize,
}

impl Values<'_> {
    /// Ask for the row that lies [`AHEAD`] of row `p`.
    #[inline(always)]
    fn fetch(&self, p: usize) {
        let at = p * self.dim + AHEAD;
        let (from, at) = match at.checked_sub(self.values.len()) {
            None => (self.values, at),
            Some(at) => (self.next, at),
        };
        for line in (0..self.dim).step_by(LANES) {
            prefetch(from, at + line);
        }
    }
}

/// Ask for the cache line that holds element `at`, wherever that is: `from` is not
/// read, and an address outside of it does no harm.
#[inline(always)]
fn prefetch(from: &[u16], at: usize) {
    // SAFETY: lifetime, bounds and alignment: a prefetch is a hint that never faults;
    // the address is computed without being dereferenced.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(from.as_ptr().wrapping_add(at).cast()) };
}

/// 32 halves as four registers.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn load(from: &[u16; LANES]) -> [__m256; REGS] {
    let mut out = [_mm256_setzero_ps(); REGS];
    for (out, from) in out.iter_mut().zip(from.as_chunks::<8>().0) {
        // SAFETY: lifetime: a borrowed array. Bounds: eight halves are 16 bytes.
        // Alignment: the unaligned form is used.
        *out = _mm256_cvtph_ps(unsafe { _mm_loadu_si128(from.as_ptr().cast()) });
    }
    out
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn take(from: &[f32; LANES]) -> [__m256; REGS] {
    let mut out = [_mm256_setzero_ps(); REGS];
    for (out, from) in out.iter_mut().zip(from.as_chunks::<8>().0) {
        // SAFETY: lifetime: a borrowed array. Bounds: eight floats are 32 bytes.
        // Alignment: the unaligned form is used.
        *out = unsafe { _mm256_loadu_ps(from.as_ptr()) };
    }
    out
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn put(from: [__m256; REGS], to: &mut [f32; LANES]) {
    for (from, to) in from.into_iter().zip(to.as_chunks_mut::<8>().0) {
        // SAFETY: as in `take`, for a write.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), from) };
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn multiply_add(sums: &mut [__m256; REGS], factor: f32, x: [__m256; REGS]) {
    let factor = _mm256_set1_ps(factor);
    for (sum, x) in sums.iter_mut().zip(x) {
        *sum = _mm256_add_ps(*sum, _mm256_mul_ps(factor, x));
    }
}

/// `out[n][p] = sum over i of q[n][i] * keys[i][p]`, i ascending, for 32 positions.
#[target_feature(enable = "avx2,f16c")]
fn score<const N: usize>(q: [&[f32]; N], keys: &[u16], lane: usize, out: [&mut [f32; TILE]; N]) {
    let mut sums = [[_mm256_setzero_ps(); REGS]; N];
    for (i, row) in keys.as_chunks::<TILE>().0.iter().enumerate() {
        // Both lines of the row, though this call reads one: the values follow.
        prefetch(keys, i * TILE + AHEAD);
        prefetch(keys, i * TILE + LANES + AHEAD);
        let Some(row) = row[lane..].first_chunk() else {
            return;
        };
        let k = load(row);
        for n in 0..N {
            multiply_add(&mut sums[n], q[n][i], k);
        }
    }
    for (sums, out) in sums.into_iter().zip(out) {
        if let Some(out) = out[lane..].first_chunk_mut() {
            put(sums, out);
        }
    }
}

/// `wide::weigh_two` from halves.
#[target_feature(enable = "avx2,f16c")]
fn weigh_two(
    values: Values<'_>,
    weights: &[[f32; TILE]],
    seen: &[Seen],
    lane: usize,
    out: &mut [f32],
) {
    let dim = values.dim;
    if let ([w0, w1], [s0, s1]) = (weights, seen) {
        let (one, two) = out.split_at_mut(dim);
        let (from, to) = (s1.from, s0.to.max(s1.from));
        let first = s0.to.min(from);
        weigh_some(values, [w0], s0.from, first, lane, [&mut *one]);
        weigh_some(values, [w0, w1], from, to, lane, [one, &mut *two]);
        weigh_some(values, [w1], to, s1.to, lane, [two]);
    } else if let ([w], [s]) = (weights, seen) {
        weigh_some(values, [w], s.from, s.to, lane, [out]);
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn weigh_some<const N: usize>(
    values: Values<'_>,
    weights: [&[f32; TILE]; N],
    from: usize,
    to: usize,
    lane: usize,
    mut out: [&mut [f32]; N],
) {
    let mut sums = [[_mm256_setzero_ps(); REGS]; N];
    for (sums, out) in sums.iter_mut().zip(&out) {
        if let Some(out) = out[lane..].first_chunk() {
            *sums = take(out);
        }
    }
    let (rows, dim) = (values.values, values.dim);
    for p in from..to {
        if lane == 0 {
            // All of the row: the other lanes find it in the cache.
            values.fetch(p);
        }
        let Some(row) = rows[p * dim + lane..].first_chunk() else {
            return;
        };
        let v = load(row);
        for n in 0..N {
            multiply_add(&mut sums[n], weights[n][p], v);
        }
    }
    for (sums, out) in sums.into_iter().zip(&mut out) {
        if let Some(out) = out[lane..].first_chunk_mut() {
            put(sums, out);
        }
    }
}
