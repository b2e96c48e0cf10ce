//! F32, F16 and BF16 weights (and those of `scaled`) times f32 activations: sixteen rows at a time.
//!
//! `acc = acc + w * x` for K ascending, one multiply and one add. Others
//! are widened to f32 a stretch of K at a time.

use super::dequant::bf16;
use super::half::widen;
use super::scaled::{self, Widen};
use crate::cpu::{Simd, versions};

/// Rows interleaved: element `k` of row `r` of a group is at `16 k + r`.
pub(crate) const ROWS: usize = 16;
/// Elements of K widened at once: 4 KB of f32 weights, an eighth of a first-level
/// cache.
const STRETCH: usize = 64;
/// Tokens at a time.
const STEP: usize = 4;

/// One group of sixteen rows with every row of `x` (rows of `k` elements):
/// `out[t][row]`.
pub(crate) fn group_f32(simd: Simd, w: &[f32], x: &[f32], k: usize, out: &mut [[f32; ROWS]]) {
    out.fill([0.0; ROWS]);
    dots(simd, w, x, k, 0, out);
}

/// [`group_f32`] for f16 weights.
pub(crate) fn group_f16(simd: Simd, w: &[u16], x: &[f32], k: usize, out: &mut [[f32; ROWS]]) {
    widened(simd, (widen, 1), w, x, k, out);
}

/// [`group_f32`] for bf16 weights.
pub(crate) fn group_bf16(simd: Simd, w: &[u16], x: &[f32], k: usize, out: &mut [[f32; ROWS]]) {
    widened(simd, (widen_bf16, 1), w, x, k, out);
}

/// [`group_f32`] for blocks of factors and codes.
pub(crate) fn group_scaled<B: Widen>(
    simd: Simd,
    w: &[B],
    x: &[f32],
    k: usize,
    out: &mut [[f32; ROWS]],
) {
    widened(simd, (B::widen, scaled::BLOCK * ROWS), w, x, k, out);
}

/// Makes f32 of parts of weights.
type Widener<T> = fn(Simd, &[T], &mut [f32]);

/// `widen` makes `each` elements of every part of `w`.
fn widened<T>(
    simd: Simd,
    (widen, each): (Widener<T>, usize),
    w: &[T],
    x: &[f32],
    k: usize,
    out: &mut [[f32; ROWS]],
) {
    out.fill([0.0; ROWS]);
    let mut wide = [0.0; STRETCH * ROWS];
    for (i, w) in w.chunks(STRETCH * ROWS / each).enumerate() {
        let wide = &mut wide[..w.len() * each];
        widen(simd, w, wide);
        dots(simd, wide, x, k, i * STRETCH, out);
    }
}

#[inline(always)]
fn widen_bf16_body(from: &[u16], to: &mut [f32]) {
    from.iter().zip(to).for_each(|(x, y)| *y = bf16(*x));
}

versions! {
    /// bf16 to f32, exact, for slices of one length.
    fn widen_bf16(from: &[u16], to: &mut [f32]) = widen_bf16_body;
}

/// Add the products of elements `from ..` of K (as many as `w` holds) to `out`.
#[inline(always)]
fn dots_body(w: &[f32], x: &[f32], k: usize, from: usize, out: &mut [[f32; ROWS]]) {
    let steps = w.len() / ROWS;
    for (x, out) in x.chunks(STEP * k).zip(out.chunks_mut(STEP)) {
        let row = |t: usize| &x[t * k + from..t * k + from + steps];
        match out.len() {
            1 => few(w, [row(0)], out),
            2 => few(w, [row(0), row(1)], out),
            3 => few(w, [row(0), row(1), row(2)], out),
            _ => few(w, [row(0), row(1), row(2), row(3)], out),
        }
    }
}

#[inline(always)]
fn few<const N: usize>(w: &[f32], x: [&[f32]; N], out: &mut [[f32; ROWS]]) {
    let mut sums = [[0.0; ROWS]; N];
    sums.copy_from_slice(&out[..N]);
    for (k, w) in w.as_chunks::<ROWS>().0.iter().enumerate() {
        for t in 0..N {
            let x = x[t][k];
            for row in 0..ROWS {
                sums[t][row] += w[row] * x;
            }
        }
    }
    out[..N].copy_from_slice(&sums);
}

versions! {
    fn dots(w: &[f32], x: &[f32], k: usize, from: usize, out: &mut [[f32; ROWS]]) = dots_body;
}
