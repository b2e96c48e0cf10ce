//! AVX2 for many tokens: two products with one multiplication.
//!
//! For a pair of elements, w0 x0 + w1 x1 = (w0 + x1)(w1 + x0) - w0 w1 - x0 x1 (Winograd,
//! "A New Algorithm for Inner Product", 1968). What is taken off belongs to a row or to a
//! token alone, so four elements of a row and a token cost two additions, a `madd` and an
//! addition. The sign trick of `avx2` has as many instructions, but three instead of one
//! of them must share two of a processor's four vector units. All of it is exact in i32,
//! so the bits are those of [`super::tile`]. Weights are widened to i16 once for up to
//! [`BATCH`] tokens.

use super::{Acts, BLOCK, Block, ROWS, TILE, WORDS};
use crate::cpu::{Simd, SimdLevel, versions};
use crate::ops::avx2::{STEP, Two, halves, two};
use crate::pool::Pool;
use std::arch::x86_64::*;

/// Tokens from which widening is worth it.
const MANY: usize = 16;
/// Tokens for which weights are widened once: their sums take a quarter of a first-level
/// cache.
pub(crate) const BATCH: usize = 128;
/// Blocks of a group widened at once: a quarter of a first-level cache.
const STRETCH: usize = 8;
/// Steps of four tokens in a tile.
const STEPS: usize = TILE / STEP;

/// One block of four tokens.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Four {
    scale: [f32; STEP],
    /// What the dots of all rows start at.
    start: [i32; STEP],
    /// Two i16 of each token: elements `4 j` and `4 j + 2`, and `4 j + 1` and `4 j + 3`.
    x: [[[u32; BLOCK / 4]; 2]; STEP],
}

impl Four {
    const ZERO: Self = Self {
        scale: [0.0; STEP],
        start: [0; STEP],
        x: [[[0; BLOCK / 4]; 2]; STEP],
    };
}

/// Up to [`BATCH`] tokens: `[four tokens][block of K]`, zero beyond the last token.
#[derive(Clone, Copy)]
pub(crate) struct Batch<'a> {
    pub tokens: usize,
    fours: &'a [Four],
}

impl Acts {
    /// Prepare for [`batch`] what is quantised, where that is faster. Whoever finds
    /// batches knows that the processor has AVX2.
    pub fn fill_batches(&mut self, simd: Simd, pool: &Pool) {
        if simd.level() != SimdLevel::Avx2 || self.tokens < MANY {
            return;
        }
        let mut fours = std::mem::take(&mut self.fours);
        let each = STEPS * self.blocks;
        fours.resize(self.tiles() * each, Four::ZERO);
        pool.pieces(&mut fours, each, |i, fours| {
            let tile = self.tile(i);
            fill(simd, tile.words, tile.tokens, fours);
        });
        self.fours = fours;
    }

    /// Number of batches.
    pub fn batches(&self) -> usize {
        self.fours.len().div_ceil(BATCH / STEP * self.blocks.max(1))
    }

    /// One batch.
    pub fn batch(&self, i: usize) -> Batch<'_> {
        let (first, each) = (i * BATCH, BATCH / STEP * self.blocks);
        Batch {
            tokens: BATCH.min(self.tokens - first),
            fours: &self.fours[i * each..self.fours.len().min((i + 1) * each)],
        }
    }
}

versions! {
    /// One tile's words, as two times four tokens.
    fn fill(words: &[u32], tokens: usize, out: &mut [Four]) = fill_body;
}

#[inline(always)]
fn fill_body(words: &[u32], tokens: usize, out: &mut [Four]) {
    let blocks = out.len() / STEPS;
    for (i, out) in out.iter_mut().enumerate() {
        let (first, block) = (i / blocks * STEP, i % blocks);
        let words = &words[block * tokens * WORDS..][..tokens * WORDS];
        *out = Four::ZERO;
        for t in first..tokens.min(first + STEP) {
            let (mut pairs, codes) = ([0; 8], &words[2 * tokens + 8 * t..][..8]);
            for j in 0..8 {
                // Bytes to the upper halves of i16, then down with their signs.
                let down = |pair: u32| [(pair as i16) >> 8, (pair >> 16) as i16 >> 8];
                let (even, odd) = (down(codes[j] << 8), down(codes[j]));
                let pair = |x: [i16; 2]| u32::from(x[0] as u16) | u32::from(x[1] as u16) << 16;
                out.x[t - first][0][j] = pair(even);
                out.x[t - first][1][j] = pair(odd);
                pairs[j] =
                    i32::from(even[0]) * i32::from(odd[0]) + i32::from(even[1]) * i32::from(odd[1]);
            }
            out.scale[t - first] = f32::from_bits(words[t]);
            out.start[t - first] = words[tokens + t] as i32 - pairs.iter().sum::<i32>();
        }
    }
}

/// The dots of one group of sixteen rows with a batch: `out[t][row]`.
pub(crate) fn batch(group: &[Block], batch: Batch<'_>, out: &mut [[f32; ROWS]]) {
    let steps = batch.tokens.div_ceil(STEP);
    assert!(out.len() == batch.tokens && batch.tokens <= BATCH);
    assert!(batch.fours.len() >= steps * group.len());
    // SAFETY: there are batches only where the processor has AVX2 (and F16C, by the
    // level); lengths were compared above.
    unsafe { sums_of(group, &batch.fours[..steps * group.len()], out) }
}

/// A block with its codes in i16.
#[derive(Clone, Copy)]
struct Wide {
    scale: [__m256; 2],
    /// Elements `4 j` and `4 j + 2`, and `4 j + 1` and `4 j + 3`, of each row.
    code: [[Two; 2]; BLOCK / 4],
    /// Sums of the products of these pairs.
    pairs: Two,
}

/// # Safety
/// As asserted in [`batch`].
#[target_feature(enable = "avx2,f16c")]
unsafe fn sums_of(group: &[Block], fours: &[Four], out: &mut [[f32; ROWS]]) {
    let none = _mm256_setzero_si256();
    let mut wide = [Wide {
        scale: [_mm256_setzero_ps(); 2],
        code: [[[none; 2]; 2]; BLOCK / 4],
        pairs: [none; 2],
    }; STRETCH];
    let mut sums = [[[_mm256_setzero_ps(); 2]; STEP]; BATCH / STEP];
    for (s, blocks) in group.chunks(STRETCH).enumerate() {
        for (wide, block) in wide.iter_mut().zip(blocks) {
            widen(block, wide);
        }
        let wide = &wide[..blocks.len()];
        for (sums, fours) in sums.iter_mut().zip(fours.chunks_exact(group.len())) {
            for (wide, four) in wide.iter().zip(&fours[s * STRETCH..]) {
                add(wide, four, sums);
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(sums.as_flattened()) {
        // SAFETY: two registers are sixteen floats; there is no lifetime.
        *out = unsafe { std::mem::transmute::<[__m256; 2], [f32; ROWS]>(*sums) };
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn widen(block: &Block, wide: &mut Wide) {
    let mask = _mm256_set1_epi16(0xff);
    let mut pairs = [_mm256_setzero_si256(); 2];
    for (bytes, code) in block.code.iter().zip(&mut wide.code) {
        let bytes = two(bytes);
        for h in 0..2 {
            code[0][h] = _mm256_and_si256(bytes[h], mask);
            code[1][h] = _mm256_srli_epi16::<8>(bytes[h]);
            pairs[h] = _mm256_add_epi32(pairs[h], _mm256_madd_epi16(code[0][h], code[1][h]));
        }
    }
    wide.pairs = pairs;
    wide.scale = halves(&block.scale);
}

/// One block of sixteen rows and four tokens.
#[inline]
#[target_feature(enable = "avx2")]
fn add(wide: &Wide, four: &Four, sums: &mut [[__m256; 2]; STEP]) {
    let mut dots = [[_mm256_setzero_si256(); 2]; STEP];
    for i in 0..STEP {
        let start = _mm256_set1_epi32(four.start[i]);
        for h in 0..2 {
            dots[i][h] = _mm256_sub_epi32(start, wide.pairs[h]);
        }
    }
    for j in 0..BLOCK / 4 {
        let [even, odd] = wide.code[j];
        for i in 0..STEP {
            let x_even = _mm256_set1_epi32(four.x[i][0][j] as i32);
            let x_odd = _mm256_set1_epi32(four.x[i][1][j] as i32);
            for h in 0..2 {
                let a = _mm256_add_epi16(even[h], x_odd);
                let b = _mm256_add_epi16(odd[h], x_even);
                dots[i][h] = _mm256_add_epi32(dots[i][h], _mm256_madd_epi16(a, b));
            }
        }
    }
    for i in 0..STEP {
        let s = _mm256_set1_ps(four.scale[i]);
        for h in 0..2 {
            let d = _mm256_mul_ps(wide.scale[h], s);
            let product = _mm256_mul_ps(_mm256_cvtepi32_ps(dots[i][h]), d);
            sums[i][h] = _mm256_add_ps(sums[i][h], product);
        }
    }
}
