//! From the file's blocks to sixteen interleaved rows.

use super::{Affine, Low, Q4, Signed};
use crate::ops::dequant::k::{q4_code, q5_code, q6_code, scale_min};
use crate::ops::weights::{PackError, endless, in_groups};
use crate::pool::Pool;

/// Q4_K (`HIGH` = 0, `SIZE` = 144) or Q5_K (`HIGH` = 8, `SIZE` = 176).
pub(crate) fn pack_affine<const HIGH: usize, const SIZE: usize>(
    pool: &Pool,
    bytes: &[u8],
    blocks: usize,
    groups: usize,
) -> Result<Vec<Affine<HIGH>>, PackError> {
    let source = bytes.as_chunks::<SIZE>().0;
    if source.iter().any(|b| endless(b[1]) || endless(b[3])) {
        return Err(PackError::NotFinite);
    }
    let mut out = vec![Affine::ZERO; groups * blocks];
    in_groups(pool, source, blocks, &mut out, affine);
    Ok(out)
}

/// Q6_K.
pub(crate) fn pack_signed(
    pool: &Pool,
    bytes: &[u8],
    blocks: usize,
    groups: usize,
) -> Result<Vec<Signed>, PackError> {
    let source = bytes.as_chunks::<210>().0;
    if source.iter().any(|b| endless(b[209])) {
        return Err(PackError::NotFinite);
    }
    let mut out = vec![Signed::ZERO; groups * blocks];
    in_groups(pool, source, blocks, &mut out, signed);
    Ok(out)
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
    match HIGH {
        0 => low(&mut out.low, row, |i| q4_code(&b[16..], i)),
        _ => {
            low(&mut out.low, row, |i| q4_code(&b[48..], i));
            for i in 0..256 {
                let (j, g) = (i / 32, i / 4 % 8);
                out.high[j][4 * row + i % 4] |= (q5_code(b, i) >> 4) << g;
            }
        }
    }
}

fn signed(out: &mut Signed, b: &[u8; 210], row: usize) {
    out.d[row] = u16::from_le_bytes([b[208], b[209]]);
    for j in 0..16 {
        out.scale[j][row] = b[192 + j] as i8;
    }
    low(&mut out.low, row, |i| q6_code(b, i) & 15);
    for i in 0..256 {
        let (j, g) = (i / 16, i / 4 % 4);
        out.high[j][4 * row + i % 4] |= (q6_code(b, i) >> 4) << (2 * g);
    }
}

/// The four-bit parts of one row's block.
fn low(out: &mut Low, row: usize, code: impl Fn(usize) -> u8) {
    for (b, out) in out.iter_mut().enumerate() {
        for (p, out) in out.iter_mut().enumerate() {
            for i in 0..4 {
                let at = 16 * b + 4 * p + i;
                out[4 * row + i] = code(at) | code(at + 8) << 4;
            }
        }
    }
}

// The sizes that the file formats give to sixteen blocks, and what the expansion of
// six-bit scales to bytes adds.
const _: () = assert!(size_of::<Q4>() == 16 * 144 + 64 && size_of::<Signed>() == 16 * 210);
