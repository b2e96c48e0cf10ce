//! Q2_K and Q3_K times f32 activations: sixteen rows at a time.
//!
//! Each element is computed as f32 by its format's formula, which for both is
//! `code * factor`, plus an offset where the format has minima, and then used as an F32
//! weight is: the bits are those of a matrix of these elements in F32, at a third of its
//! memory. Codes lie in bytes and factors in f32, so that widening is one multiply and
//! one add, the same at every instruction level. (A factor, a scale times a sub-block's
//! scale, is exact in f32, and so is its product with a code.)

use super::buffer::{Buffer, Zero};
use super::dequant::k;
use super::float::ROWS;
use super::weights::{PackError, Stored, endless, in_groups};
use crate::cpu::{Simd, versions};
use crate::pool::Pool;

/// Elements of K in a block.
pub(crate) const BLOCK: usize = 32;

/// 32 elements of each of sixteen rows, in `SUBS` sub-blocks, with `OFFSETS` offsets: as
/// many, or none.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Block<const SUBS: usize, const OFFSETS: usize> {
    factor: [[f32; ROWS]; SUBS],
    offset: [[f32; ROWS]; OFFSETS],
    code: [[i8; ROWS]; BLOCK],
}

// SAFETY: integers and f32; 64-byte alignment. All elements are then +0, as padding rows
// want.
unsafe impl<const SUBS: usize, const OFFSETS: usize> Zero for Block<SUBS, OFFSETS> {}

pub(crate) type Q2 = [Block<2, 2>; 8];
pub(crate) type Q3 = [Block<2, 0>; 8];

pub(crate) fn pack_q2(
    pool: &Pool,
    stored: Stored<'_>,
    (groups, k): (usize, usize),
) -> Result<Buffer<Q2>, PackError> {
    let good = |b: &[u8; 84]| !endless(b[81]) && !endless(b[83]);
    in_groups(pool, stored, (groups, k / 256), good, |out, b, row| {
        put(out, row, |j| k::q2_scale(b, j), |i| k::q2_code(b, i) as i8);
    })
}

pub(crate) fn pack_q3(
    pool: &Pool,
    stored: Stored<'_>,
    (groups, k): (usize, usize),
) -> Result<Buffer<Q3>, PackError> {
    let good = |b: &[u8; 110]| !endless(b[109]);
    in_groups(pool, stored, (groups, k / 256), good, |out, b, row| {
        put(out, row, |j| (k::q3_scale(b, j), 0.0), |i| k::q3_code(b, i));
    })
}

/// One row of some blocks: `scale` gives the factor and the offset of a sub-block,
/// `code` an element.
fn put<const N: usize, const SUBS: usize, const OFFSETS: usize>(
    out: &mut [Block<SUBS, OFFSETS>; N],
    row: usize,
    scale: impl Fn(usize) -> (f32, f32),
    code: impl Fn(usize) -> i8,
) {
    for (j, block) in out.iter_mut().enumerate() {
        for s in 0..SUBS {
            let (factor, offset) = scale(j * SUBS + s);
            block.factor[s][row] = factor;
            if let Some(to) = block.offset.get_mut(s) {
                to[row] = offset;
            }
        }
        for (i, out) in block.code.iter_mut().enumerate() {
            out[row] = code(j * BLOCK + i);
        }
    }
}

/// Elements `[k][row]` of some blocks.
#[inline(always)]
fn widen_body<const SUBS: usize, const OFFSETS: usize>(
    blocks: &[Block<SUBS, OFFSETS>],
    out: &mut [f32],
) {
    let rows = out.as_chunks_mut::<ROWS>().0;
    for (block, rows) in blocks.iter().zip(rows.chunks_exact_mut(BLOCK)) {
        let subs = block.code.chunks_exact(BLOCK / SUBS);
        let rows = rows.chunks_exact_mut(BLOCK / SUBS);
        for (s, (codes, rows)) in subs.zip(rows).enumerate() {
            let factor = &block.factor[s];
            for (code, row) in codes.iter().zip(rows) {
                for r in 0..ROWS {
                    row[r] = f32::from(code[r]) * factor[r];
                }
                if let Some(offset) = block.offset.get(s) {
                    for r in 0..ROWS {
                        row[r] += offset[r];
                    }
                }
            }
        }
    }
}

/// How blocks become f32.
pub(crate) trait Widen: Sized {
    /// Elements `[k][row]` of some blocks.
    fn widen(simd: Simd, blocks: &[Self], out: &mut [f32]);
}

macro_rules! widen {
    ($($name:ident = $subs:literal, $offsets:literal;)*) => {$(
        versions! {
            fn $name(blocks: &[Block<$subs, $offsets>], out: &mut [f32]) = widen_body;
        }
        impl Widen for Block<$subs, $offsets> {
            fn widen(simd: Simd, blocks: &[Self], out: &mut [f32]) {
                $name(simd, blocks, out);
            }
        }
    )*};
}
widen! {
    two_with_offsets = 2, 2;
    two = 2, 0;
}

#[cfg(test)]
mod tests {
    use super::super::dequant;
    use super::*;
    use crate::cpu::SimdLevel;
    use crate::gguf::TensorType;
    use crate::ops::float;
    use crate::ops::linear::{Input, Product, linear};
    use crate::ops::weights::Matrix;
    use crate::synthetic::weights;

    #[test]
    fn the_bits_are_those_of_the_elements_stored_as_f32() {
        use TensorType::{Q2_K, Q3_K};
        let (pool, k, rows, tokens) = (Pool::new(2), 768, 37, 11);
        let x: Vec<f32> = (0..k * tokens)
            .map(|i| ((i * 7919) % 2003) as f32 / 97.0 - 10.0)
            .collect();
        for ty in [Q2_K, Q3_K] {
            let bytes = weights(ty, k, rows, 5);
            let mut elements = vec![0.0f32; k * rows];
            dequant::row(ty, &bytes, &mut elements);
            let floats: Vec<u8> = elements.iter().flat_map(|x| x.to_le_bytes()).collect();
            let product = |ty, bytes: &[u8], level| {
                let matrix = Matrix::pack(&pool, ty, bytes, k, rows).unwrap();
                let mut out = vec![f32::NAN; rows * tokens];
                let mut products = [Product {
                    matrix: &matrix,
                    out: &mut out,
                }];
                let (simd, input) = (Simd::at_most(level), &mut Input::default());
                linear(simd, &pool, input, &x, k, &mut products);
                let small = matrix.group_bytes() * 2 < k * float::ROWS * 4;
                (out, small)
            };
            let (expected, _) = product(TensorType::F32, &floats, SimdLevel::Portable);
            for level in [SimdLevel::Portable, SimdLevel::Avx2, SimdLevel::Avx512Vnni] {
                let (found, small) = product(ty, &bytes, level);
                let mut pairs = found.iter().zip(&expected);
                assert!(
                    pairs.all(|(a, b)| a.to_bits() == b.to_bits() && *a != 0.0),
                    "{ty}"
                );
                assert!(small, "{ty}");
            }
        }
    }
}
