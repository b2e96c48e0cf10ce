//! Activations to eight bits, per block of 32.

use super::{BLOCK, TILE, Tile, WORDS};
use crate::cpu::{Simd, versions};
use crate::pool::Pool;

/// Blocks whose largest magnitude is below this quantise to zero. It keeps
/// `127 / amax` finite and scales normal: denormal scales cost three times the
/// time on x86.
const TINY: f32 = 1e-30;

/// Quantised activations of `tokens` rows, in tiles of [`TILE`].
#[derive(Default)]
pub(crate) struct Acts {
    words: Vec<u32>,
    pub(super) tokens: usize,
    pub(super) blocks: usize,
    /// The same for many tokens, where that is faster.
    #[cfg(target_arch = "x86_64")]
    pub(super) fours: Vec<super::pairs::Four>,
}

impl Acts {
    /// Quantise rows of `k` elements (a multiple of 32).
    pub fn fill(&mut self, simd: Simd, pool: &Pool, x: &[f32], k: usize) {
        self.tokens = x.len() / k;
        self.blocks = k / BLOCK;
        #[cfg(target_arch = "x86_64")]
        self.fours.clear();
        self.words.resize(self.tokens * self.blocks * WORDS, 0);
        let stride = TILE * self.blocks * WORDS;
        pool.pieces(&mut self.words, stride, |i, words| {
            let first = i * TILE * k;
            let tokens = words.len() / (self.blocks * WORDS);
            quantise(simd, &x[first..first + tokens * k], k, words);
        });
    }

    /// Number of tiles.
    pub fn tiles(&self) -> usize {
        self.tokens.div_ceil(TILE)
    }

    /// The tile, where there is one token.
    pub fn only(&self) -> Option<Tile<'_>> {
        (self.tokens == 1).then(|| self.tile(0))
    }

    /// One tile.
    pub fn tile(&self, i: usize) -> Tile<'_> {
        let tokens = TILE.min(self.tokens - i * TILE);
        let start = i * TILE * self.blocks * WORDS;
        Tile {
            tokens,
            words: &self.words[start..start + tokens * self.blocks * WORDS],
        }
    }
}

/// One block: amax as an integer maximum of magnitudes (so that NaN wins and the
/// order cannot matter), `d = amax / 127`, codes rounded to nearest even.
#[inline(always)]
pub(crate) fn quantise_block<const N: usize>(x: &[f32; N], codes: &mut [i32; N]) -> f32 {
    let mut magnitude = 0u32;
    for x in x {
        magnitude = magnitude.max(x.to_bits() & 0x7fff_ffff);
    }
    let amax = f32::from_bits(magnitude);
    if amax < TINY {
        *codes = [0; N];
        return 0.0;
    }
    if !amax.is_finite() {
        // The result is NaN whatever the codes; `forward` reports it.
        *codes = [0; N];
        return f32::NAN;
    }
    // 1.5 * 2^23: adding it rounds to nearest even into the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    let inverse = 127.0 / amax;
    for i in 0..N {
        let rounded = x[i] * inverse + ROUND;
        codes[i] = rounded.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    }
    amax / 127.0
}

#[inline(always)]
fn quantise_body(x: &[f32], k: usize, words: &mut [u32]) {
    let tokens = x.len() / k;
    let mut codes = [0; BLOCK];
    for (t, row) in x.chunks_exact(k).enumerate() {
        let blocks = row.as_chunks::<BLOCK>().0;
        for (x, words) in blocks.iter().zip(words.chunks_exact_mut(tokens * WORDS)) {
            let d = quantise_block(x, &mut codes);
            let mut sum = 0;
            for code in codes {
                sum += code;
            }
            words[t] = d.to_bits();
            words[tokens + t] = (-128 * sum) as u32;
            let out = &mut words[2 * tokens + 8 * t..2 * tokens + 8 * t + 8];
            for j in 0..8 {
                let byte = |i: usize| (codes[4 * j + i] as u32) & 0xff;
                out[j] = byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24;
            }
        }
    }
}

versions! {
    /// Rows of `k` elements into one tile's words.
    fn quantise(x: &[f32], k: usize, words: &mut [u32]) = quantise_body;
}
