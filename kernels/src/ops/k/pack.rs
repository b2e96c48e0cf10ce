//! From the file's blocks to sixteen interleaved rows.

use super::{Affine, Low, Q4, Signed, Xs};
use crate::ops::buffer::Buffer;
use crate::ops::dequant::k::{iq4_xs_scale, scale_min};
use crate::ops::weights::{PackError, Stored, endless, in_groups};
use crate::pool::Pool;

/// Q4_K (`HIGH` = 0, `SIZE` = 144) or Q5_K (`HIGH` = 8, `SIZE` = 176).
pub(crate) fn pack_affine<const HIGH: usize, const SIZE: usize>(
    pool: &Pool,
    stored: Stored<'_>,
    blocks: usize,
    groups: usize,
) -> Result<Buffer<Affine<HIGH>>, PackError> {
    let good = |b: &[u8; SIZE]| !endless(b[1]) && !endless(b[3]);
    in_groups(pool, stored, (groups, blocks), good, affine)
}

/// Q6_K.
pub(crate) fn pack_signed(
    pool: &Pool,
    stored: Stored<'_>,
    blocks: usize,
    groups: usize,
) -> Result<Buffer<Signed>, PackError> {
    let good = |b: &[u8; 210]| !endless(b[209]);
    in_groups(pool, stored, (groups, blocks), good, signed)
}

/// IQ4_XS.
pub(crate) fn pack_xs(
    pool: &Pool,
    stored: Stored<'_>,
    blocks: usize,
    groups: usize,
) -> Result<Buffer<Xs>, PackError> {
    let good = |b: &[u8; 136]| !endless(b[1]);
    in_groups(pool, stored, (groups, blocks), good, xs)
}

fn affine<const HIGH: usize, const SIZE: usize>(
    out: &mut Affine<HIGH>,
    b: &[u8; SIZE],
    row: usize,
) {
    out.d[row] = u16::from_le_bytes([b[0], b[1]]);
    out.min[row] = u16::from_le_bytes([b[2], b[3]]);
    for j in 0..8 {
        let (scale, m) = scale_min(&b[4..16], j);
        out.scale[j][row] = scale;
        out.m[j / 2][row][j % 2] = m;
    }
    let codes = words(|out| match HIGH {
        0 => four_bits(&b[16..], out),
        _ => {
            four_bits(&b[48..], out);
            for (j, out) in out.chunks_exact_mut(32).enumerate() {
                for (out, fifth) in out.iter_mut().zip(&b[16..48]) {
                    *out |= (fifth >> j & 1) << 4;
                }
            }
        }
    });
    low(&mut out.low, row, &codes);
    for (out, codes) in out.high.iter_mut().zip(codes.as_chunks::<8>().0) {
        let bits = |g: usize| (codes[g] >> 4 & 0x0101_0101) << g;
        put(out, row, (0..8).map(bits).fold(0, |a, b| a | b));
    }
}

fn signed(out: &mut Signed, b: &[u8; 210], row: usize) {
    out.d[row] = u16::from_le_bytes([b[208], b[209]]);
    for j in 0..16 {
        out.scale[j][row] = b[192 + j] as i8;
    }
    let codes = words(|out| {
        for (half, out) in out.chunks_exact_mut(128).enumerate() {
            let (low, high) = (&b[64 * half..][..64], &b[128 + 32 * half..][..32]);
            for i in 0..32 {
                out[i] = low[i] & 15 | (high[i] & 3) << 4;
                out[i + 32] = low[i + 32] & 15 | (high[i] >> 2 & 3) << 4;
                out[i + 64] = low[i] >> 4 | (high[i] >> 4 & 3) << 4;
                out[i + 96] = low[i + 32] >> 4 | (high[i] >> 6) << 4;
            }
        }
    });
    low(&mut out.low, row, &codes);
    for (out, codes) in out.high.iter_mut().zip(codes.as_chunks::<4>().0) {
        let bits = |g: usize| (codes[g] >> 4 & 0x0303_0303) << (2 * g);
        put(out, row, bits(0) | bits(1) | bits(2) | bits(3));
    }
}

fn xs(out: &mut Xs, b: &[u8; 136], row: usize) {
    out.d[row] = u16::from_le_bytes([b[0], b[1]]);
    for j in 0..8 {
        out.scale[j][row] = iq4_xs_scale(b, j);
    }
    let codes = words(|out| {
        for (bytes, out) in b[8..].chunks_exact(16).zip(out.chunks_exact_mut(32)) {
            for i in 0..16 {
                out[i] = bytes[i] & 15;
                out[i + 16] = bytes[i] >> 4;
            }
        }
    });
    low(&mut out.low, row, &codes);
}

/// A block's codes, four to a word.
fn words(fill: impl FnOnce(&mut [u8; 256])) -> [u32; 64] {
    let mut codes = [0; 256];
    fill(&mut codes);
    let mut words = [0; 64];
    for (word, codes) in words.iter_mut().zip(codes.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*codes);
    }
    words
}

/// The four-bit codes of Q4_K and Q5_K.
fn four_bits(bytes: &[u8], out: &mut [u8; 256]) {
    for (bytes, out) in bytes.chunks_exact(32).zip(out.chunks_exact_mut(64)) {
        for i in 0..32 {
            out[i] = bytes[i] & 15;
            out[i + 32] = bytes[i] >> 4;
        }
    }
}

/// The four-bit parts of one row's block.
fn low(out: &mut Low, row: usize, codes: &[u32; 64]) {
    const MASK: u32 = 0x0f0f_0f0f;
    for (out, codes) in out.iter_mut().zip(codes.as_chunks::<4>().0) {
        put(&mut out[0], row, codes[0] & MASK | (codes[2] & MASK) << 4);
        put(&mut out[1], row, codes[1] & MASK | (codes[3] & MASK) << 4);
    }
}

fn put(out: &mut [u8; 64], row: usize, word: u32) {
    out[4 * row..4 * row + 4].copy_from_slice(&word.to_le_bytes());
}

// The sizes that the file formats give to sixteen blocks, and what the expansion of
// six-bit scales to bytes adds.
const _: () = assert!(size_of::<Q4>() == 16 * 144 + 64 && size_of::<Signed>() == 16 * 210);
const _: () = assert!(size_of::<Xs>() == 16 * 136 + 32);
