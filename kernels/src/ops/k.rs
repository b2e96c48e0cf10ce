//! K-quants times quantised activations: sixteen rows at a time.
//!
//! Super-blocks of 256 elements, sixteen rows interleaved, so that each vector lane
//! is a row: [`Affine`] holds Q4_K and Q5_K (unsigned codes, scales and minima of
//! sub-blocks), [`Signed`] holds Q6_K, [`Xs`] IQ4_XS. Activations are quantised per 256 elements
//! ([`Acts`]). All of a super-block, scales and minima included, is exact in i32;
//! then comes one step in f32. The arithmetic is stated in NUMERICS.md.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(any(test, target_arch = "x86_64"))]
mod avx512;
mod pack;
mod portable;
mod quantise;

pub(crate) use pack::{pack_affine, pack_signed, pack_xs};
pub(crate) use quantise::Acts;

use super::buffer::Zero;
use super::q8::ROWS;
use crate::cpu::{Simd, SimdLevel};

/// Elements of a super-block.
pub(crate) const SUPER: usize = 256;
/// Tokens in one tile: two passes of the AVX2 kernel, one of the AVX-512 kernel.
pub(crate) const TILE: usize = 8;

/// Four-bit parts: element `16 b + 8 n + 4 p + i` of row `r` is nibble `n` of byte
/// `4 r + i` of `[b][p]`.
type Low = [[[u8; 64]; 2]; 16];

/// Q4_K (`HIGH` = 0) or Q5_K (`HIGH` = 8): w = d * scale * code - min * m.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct Affine<const HIGH: usize> {
    d: [u16; ROWS],
    min: [u16; ROWS],
    /// Of sub-blocks of 32.
    scale: [[u8; ROWS]; 8],
    /// Of sub-blocks `2 p` and `2 p + 1`.
    m: [[[u8; 2]; ROWS]; 4],
    low: Low,
    /// Fifth bits: of element `32 j + 4 g + i`, bit `g` of byte `4 r + i` of `[j]`.
    high: [[u8; 64]; HIGH],
}

/// Q6_K: w = d * scale * (code - 32).
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct Signed {
    d: [u16; ROWS],
    /// Of sub-blocks of 16.
    scale: [[i8; ROWS]; 16],
    low: Low,
    /// Fifth and sixth bits: of element `16 b + 4 g + i`, bits `2 g` and `2 g + 1` of
    /// byte `4 r + i` of `[b]`.
    high: [[u8; 64]; 16],
}

/// IQ4_XS: w = d * scale * T[code].
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct Xs {
    d: [u16; ROWS],
    /// Of sub-blocks of 32, -32 to 31.
    scale: [[i8; ROWS]; 8],
    low: Low,
}

pub(crate) type Q4 = Affine<0>;
pub(crate) type Q5 = Affine<8>;

// SAFETY: integers; 32-byte alignment. All weights are then zero, as padding rows want.
unsafe impl<const HIGH: usize> Zero for Affine<HIGH> {}
// SAFETY: as above.
unsafe impl Zero for Signed {}
// SAFETY: as above.
unsafe impl Zero for Xs {}

/// One super-block of one token.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Act {
    scale: f32,
    /// Sums of the codes of sub-blocks of 32, two to a word.
    sums: [[i16; 2]; 8 / 2],
    /// Of each sub-block of 16: -32 times the sum of the codes whose place modulo four
    /// is 0 or 1, and 2 or 3: where the dots of [`Signed`] start.
    start: [[i16; 2]; 16],
    /// Codes, four to a word.
    codes: [[i8; 4]; SUPER / 4],
}

/// The activations of up to [`TILE`] tokens: `[super-block][token]`.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub tokens: usize,
    pub acts: &'a [Act],
}

/// The dots of one group of sixteen rows with the tokens of one tile.
pub(crate) fn affine<const HIGH: usize>(
    simd: Simd,
    group: &[Affine<HIGH>],
    acts: Tile<'_>,
    out: &mut [[f32; ROWS]],
) {
    check(group.len(), acts, out);
    match simd.level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level proves the features; lengths were compared above.
        SimdLevel::Avx512Vnni => unsafe { avx512::affine_hardware(group, acts, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        SimdLevel::Avx2 => unsafe { avx2::affine(group, acts, out) },
        _ => portable::affine(group, acts, out),
    }
}

/// [`affine`] for Q6_K.
pub(crate) fn signed(simd: Simd, group: &[Signed], acts: Tile<'_>, out: &mut [[f32; ROWS]]) {
    check(group.len(), acts, out);
    match simd.level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level proves the features; lengths were compared above.
        SimdLevel::Avx512Vnni => unsafe { avx512::signed_hardware(group, acts, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        SimdLevel::Avx2 => unsafe { avx2::signed(group, acts, out) },
        _ => portable::signed(group, acts, out),
    }
}

/// [`affine`] for IQ4_XS.
pub(crate) fn xs(simd: Simd, group: &[Xs], acts: Tile<'_>, out: &mut [[f32; ROWS]]) {
    check(group.len(), acts, out);
    match simd.level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level proves the features; lengths were compared above.
        SimdLevel::Avx512Vnni => unsafe { avx512::xs_hardware(group, acts, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        SimdLevel::Avx2 => unsafe { avx2::xs(group, acts, out) },
        _ => portable::xs(group, acts, out),
    }
}

fn check(blocks: usize, acts: Tile<'_>, out: &[[f32; ROWS]]) {
    assert!(out.len() == acts.tokens && acts.tokens <= TILE);
    assert_eq!(acts.acts.len(), blocks * acts.tokens);
}

#[cfg(test)]
mod tests;
