//! Q8_0 times quantised activations: sixteen rows at a time.
//!
//! Weights are repacked once ([`Block`]): sixteen rows interleaved, so that each
//! vector lane is a row and every instruction level adds a row's blocks in the
//! same order. Activations are quantised per 32 elements ([`Acts`]). The dot of a
//! block is exact in i32; then `acc = acc + f32(dot) * (d_weight * d_activation)`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(any(test, target_arch = "x86_64"))]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod portable;
mod quantise;
pub(crate) mod rows;

#[cfg(target_arch = "x86_64")]
pub(crate) use pairs::{BATCH, Batch, batch};
pub(crate) use quantise::{Acts, quantise_block};

use super::buffer::Zero;
use super::half::widen_one;
use crate::cpu::{Simd, SimdLevel};

/// Elements per quantisation block, of weights and of activations.
pub(crate) const BLOCK: usize = 32;
/// Rows interleaved in one [`Block`].
pub(crate) const ROWS: usize = 16;
/// Rows of activations (tokens) in one tile: eight i32 and eight f32 accumulators
/// leave room for the weights among 32 registers.
pub(crate) const TILE: usize = 8;

/// 32 elements of each of sixteen rows. As large as the sixteen Q8_0 blocks.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct Block {
    /// Scales as f16, one per row.
    pub scale: [u16; ROWS],
    /// `code[j][4 * row + i]` is element `4 j + i` of that row, plus 128.
    pub code: [[u8; 64]; 8],
}

impl Block {
    pub(super) const ZERO: Self = Self {
        scale: [0; ROWS],
        code: [[0; 64]; 8],
    };
}

// SAFETY: integers; 32-byte alignment. (Of padding rows only the scale matters.)
unsafe impl Zero for Block {}

/// The dots of one group of sixteen rows (all its blocks, in order of K) with the
/// tokens of one tile: `out[t][row]`.
pub(crate) fn tile(simd: Simd, group: &[Block], acts: Tile<'_>, out: &mut [[f32; ROWS]]) {
    assert!(out.len() == acts.tokens && acts.tokens <= TILE);
    assert_eq!(acts.words.len(), group.len() * acts.tokens * WORDS);
    match simd.level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level proves the features; lengths were compared above.
        SimdLevel::Avx512Vnni => unsafe { avx512::hardware(group, acts, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        SimdLevel::Avx2 => unsafe { avx2::tile(group, acts, out) },
        _ => portable::tile(group, acts, out),
    }
}

/// One row of a group, as the file's block gives it: scale times code.
pub(crate) fn row(group: &[Block], row: usize, out: &mut [f32]) {
    for (block, out) in group.iter().zip(out.chunks_exact_mut(BLOCK)) {
        let d = widen_one(block.scale[row]);
        let words = block.code.iter().map(|code| &code[4 * row..4 * row + 4]);
        for (out, code) in out.iter_mut().zip(words.flatten()) {
            *out = d * f32::from((code ^ 0x80) as i8);
        }
    }
}

/// Words of one token's block in a tile: scale, sum, and eight words of codes.
pub(super) const WORDS: usize = 10;

/// The activations of up to [`TILE`] tokens. For each block of K: `tokens` scales
/// (f32 bits), `tokens` starting sums (-128 times the sum of the codes), then
/// eight words of four codes for each token.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub tokens: usize,
    pub words: &'a [u32],
}

#[cfg(test)]
mod tests;
