//! Four- and five-bit codes in blocks of 32 times quantised activations: Q4_0, Q4_1,
//! Q5_0, Q5_1, MXFP4, IQ4_NL.
//!
//! As [`super::q8`], with which it shares the activations and the arithmetic, but
//! codes stay packed: as large as in the file (MXFP4 spends a byte more on its
//! scale). Where a format has minima, a block's step in f32 adds the minimum times the
//! activations' sum.

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
    /// f16 scale, code minus 16.
    Five,
    /// f16 scale, the code itself, and a minimum.
    Plain,
}

impl Kind {
    /// From the constant that a block carries in its type.
    const fn of(kind: u8) -> Self {
        match kind {
            0 => Self::Q4,
            1 => Self::Mx,
            2 => Self::Nl,
            3 => Self::Five,
            _ => Self::Plain,
        }
    }

    /// Whether a code names a value of the table; otherwise it is the biased value.
    const fn looks_up(self) -> bool {
        matches!(self, Self::Mx | Self::Nl)
    }

    /// What is added to make all values unsigned.
    const fn bias(self) -> i32 {
        match self {
            Self::Q4 => 8,
            Self::Mx => 12,
            Self::Nl => 128,
            Self::Five => 16,
            Self::Plain => 0,
        }
    }

    /// The value of each code plus the bias, for those that look it up.
    const fn table(self) -> [u8; 16] {
        let mut table = [0; 16];
        let mut code = 0;
        while code < 16 {
            let value = match self {
                Self::Mx => dequant::E2M1_DOUBLED[code] as i32 + self.bias(),
                Self::Nl => dequant::IQ4[code] as i32 + self.bias(),
                _ => 0,
            };
            table[code] = value as u8;
            code += 1;
        }
        table
    }
}

/// 32 elements of each of sixteen rows, of kind `KIND`, with (1) or without (0) minima
/// and fifth bits.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct Block<const KIND: u8, const MIN: usize = 0, const HIGH: usize = 0> {
    /// f16, or bf16 for MXFP4; one per row.
    scale: [u16; ROWS],
    /// f16.
    min: [[u16; ROWS]; MIN],
    /// Element `16 b + 8 n + 4 p + i` of row `r` is nibble `n` of byte `4 r + i` of
    /// `[b][p]`.
    low: [[[u8; 64]; 2]; 2],
    /// Fifth bits: of that element, bit `4 b + 2 p + n` of byte `4 r + i`.
    high: [[u8; 64]; HIGH],
}

pub(crate) type Q4 = Block<0>;
pub(crate) type Mx = Block<1>;
pub(crate) type Nl = Block<2>;
pub(crate) type Q5 = Block<3, 0, 1>;
pub(crate) type Q4Min = Block<4, 1>;
pub(crate) type Q5Min = Block<4, 1, 1>;

// What sixteen blocks take in a file.
const _: () = assert!(size_of::<Q5>() == 16 * 22 && size_of::<Q5Min>() == 16 * 24);

impl<const KIND: u8, const MIN: usize, const HIGH: usize> Block<KIND, MIN, HIGH> {
    const KIND: Kind = Kind::of(KIND);
    /// Constants, so that no kernel computes them.
    const BIAS: i32 = Self::KIND.bias();
    const TABLE: [u8; 16] = Self::KIND.table();
}

// SAFETY: integers; 32-byte alignment. (Of padding rows only scale and minimum matter.)
unsafe impl<const KIND: u8, const MIN: usize, const HIGH: usize> Zero for Block<KIND, MIN, HIGH> {}

/// Repack file blocks of `SIZE` bytes: a scale, a minimum, four bytes of fifth bits,
/// sixteen of codes.
pub(crate) fn pack<const KIND: u8, const MIN: usize, const HIGH: usize, const SIZE: usize>(
    pool: &Pool,
    stored: Stored<'_>,
    blocks: usize,
    groups: usize,
) -> Result<Buffer<Block<KIND, MIN, HIGH>>, PackError> {
    let mx = Kind::of(KIND) == Kind::Mx;
    let good = |b: &[u8; SIZE]| match mx {
        true => b[0] != 255,
        false => !endless(b[1]) && (MIN == 0 || !endless(b[3])),
    };
    let put = |block: &mut Block<KIND, MIN, HIGH>, source: &[u8; SIZE], row: usize| {
        block.scale[row] = match mx {
            true => dequant::exponent(source[0]),
            false => u16::from_le_bytes([source[0], source[1]]),
        };
        for min in &mut block.min {
            min[row] = u16::from_le_bytes([source[2], source[3]]);
        }
        let codes = &source[SIZE - 16..];
        for (b, out) in block.low.iter_mut().enumerate() {
            for (p, out) in out.iter_mut().enumerate() {
                for i in 0..4 {
                    let at = 16 * b + 4 * p + i;
                    out[4 * row + i] = nibble(codes, at) | nibble(codes, at + 8) << 4;
                }
            }
        }
        for out in &mut block.high {
            out[4 * row..4 * row + 4].copy_from_slice(&fifths(&source[SIZE - 20..SIZE - 16]));
        }
    };
    in_groups(pool, stored, (groups, blocks), good, put)
}

/// Fifth bits in the order of [`Block::high`], from those of elements 0 to 31.
fn fifths(bits: &[u8]) -> [u8; 4] {
    let mut out = [0; 4];
    for at in 0..32 {
        let (b, n, p) = (at / 16, at / 8 % 2, at / 4 % 2);
        out[at % 4] |= (bits[at / 8] >> (at % 8) & 1) << (4 * b + 2 * p + n);
    }
    out
}

/// The dots of one group of sixteen rows with the tokens of one tile.
pub(crate) fn tile<const KIND: u8, const MIN: usize, const HIGH: usize>(
    simd: Simd,
    group: &[Block<KIND, MIN, HIGH>],
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
