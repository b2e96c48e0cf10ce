//! Four-bit codes in blocks of 32 times quantised activations: Q4_0, MXFP4, IQ4_NL.
//!
//! As [`super::q8`], with which it shares the activations and the arithmetic, but
//! codes stay packed: as large as in the file (MXFP4 spends a byte more on its
//! scale).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(any(test, target_arch = "x86_64"))]
mod avx512;
mod portable;

use super::buffer::{Buffer, Zero};
use super::dequant::{self, nibble};
use super::q8::{ROWS, TILE, Tile, WORDS};
use super::weights::{PackError, Stored, endless, in_groups};
use crate::cpu::{Simd, SimdLevel};
use crate::pool::Pool;

/// What codes and scales mean.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// f16 scale, code minus 8.
    Q4,
    /// Half of the scale as bf16, doubled E2M1.
    Mx,
    /// f16 scale, a table of i8.
    Nl,
}

impl Kind {
    /// From the constant that a block carries in its type.
    const fn of(kind: u8) -> Self {
        match kind {
            0 => Self::Q4,
            1 => Self::Mx,
            _ => Self::Nl,
        }
    }

    /// What is added to make all values unsigned.
    const fn bias(self) -> i32 {
        match self {
            Self::Q4 => 8,
            Self::Mx => 12,
            Self::Nl => 128,
        }
    }

    /// The value of each code plus the bias.
    const fn table(self) -> [u8; 16] {
        let mut table = [0; 16];
        let mut code = 0;
        while code < 16 {
            let value = match self {
                Self::Q4 => code as i32 - 8,
                Self::Mx => dequant::E2M1_DOUBLED[code] as i32,
                Self::Nl => dequant::IQ4[code] as i32,
            };
            table[code] = (value + self.bias()) as u8;
            code += 1;
        }
        table
    }
}

/// 32 elements of each of sixteen rows, of kind `KIND`.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct Block<const KIND: u8> {
    /// f16, or bf16 for MXFP4; one per row.
    scale: [u16; ROWS],
    /// Element `16 b + 8 n + 4 p + i` of row `r` is nibble `n` of byte `4 r + i` of
    /// `[b][p]`.
    low: [[[u8; 64]; 2]; 2],
}

pub(crate) type Q4 = Block<0>;
pub(crate) type Mx = Block<1>;
pub(crate) type Nl = Block<2>;

impl<const KIND: u8> Block<KIND> {
    const KIND: Kind = Kind::of(KIND);
    /// Constants, so that no kernel computes them.
    const BIAS: i32 = Self::KIND.bias();
    const TABLE: [u8; 16] = Self::KIND.table();
}

// SAFETY: integers; 32-byte alignment. (Of padding rows only the scale matters.)
unsafe impl<const KIND: u8> Zero for Block<KIND> {}

/// Repack file blocks of `SIZE` bytes: a scale, then sixteen bytes of codes.
pub(crate) fn pack<const KIND: u8, const SIZE: usize>(
    pool: &Pool,
    stored: Stored<'_>,
    blocks: usize,
    groups: usize,
) -> Result<Buffer<Block<KIND>>, PackError> {
    let mx = Kind::of(KIND) == Kind::Mx;
    let good = |b: &[u8; SIZE]| if mx { b[0] != 255 } else { !endless(b[1]) };
    let put = |block: &mut Block<KIND>, source: &[u8; SIZE], row: usize| {
        block.scale[row] = match mx {
            true => dequant::exponent(source[0]),
            false => u16::from_le_bytes([source[0], source[1]]),
        };
        let codes = &source[SIZE - 16..];
        for (b, out) in block.low.iter_mut().enumerate() {
            for (p, out) in out.iter_mut().enumerate() {
                for i in 0..4 {
                    let at = 16 * b + 4 * p + i;
                    out[4 * row + i] = nibble(codes, at) | nibble(codes, at + 8) << 4;
                }
            }
        }
    };
    in_groups(pool, stored, (groups, blocks), good, put)
}

/// The dots of one group of sixteen rows with the tokens of one tile.
pub(crate) fn tile<const KIND: u8>(
    simd: Simd,
    group: &[Block<KIND>],
    acts: Tile<'_>,
    out: &mut [[f32; ROWS]],
) {
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

#[cfg(test)]
mod tests;
