//! Weight matrices, repacked from the file's layout into the kernels'.

use super::dequant::{self, five};
use super::k;
use super::q4;
use super::q8::{BLOCK, Block, ROWS};
use crate::gguf::TensorType;
use crate::pool::Pool;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A matrix of `rows` x `k`, sixteen rows interleaved; missing rows of the last
/// group are zero.
pub(crate) struct Matrix {
    pub source: Source,
    pub rows: usize,
    pub k: usize,
    pub data: Packed,
}

/// The rows of the file that a matrix was made of: a device packs the same bytes in
/// its own way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source {
    /// The tensor's name.
    pub tensor: String,
    /// The first of its rows.
    pub from: usize,
}

/// The storage types that the kernels compute with.
pub(crate) enum Packed {
    /// `[group][block of K]`.
    Q8(Vec<Block>),
    /// `[group][block of K]`.
    Q4(Vec<q4::Q4>),
    /// `[group][block of K]`.
    Mx(Vec<q4::Mx>),
    /// `[group][block of K]`.
    Nl(Vec<q4::Nl>),
    /// `[group][super-block of K]`.
    Q4K(Vec<k::Q4>),
    /// `[group][super-block of K]`.
    Q5K(Vec<k::Q5>),
    /// `[group][super-block of K]`.
    Q6K(Vec<k::Signed>),
    /// `[group][k][16]`.
    F16(Vec<u16>),
    /// `[group][k][16]`.
    Bf16(Vec<u16>),
    /// `[group][k][16]`.
    F32(Vec<f32>),
}

/// Why a tensor cannot be packed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PackError {
    /// No kernel for this type.
    Type,
    /// A scale or weight is infinite or NaN.
    NotFinite,
}

impl Matrix {
    /// Repack `rows` rows of `k` elements from file bytes of the right length.
    pub fn pack(
        pool: &Pool,
        ty: TensorType,
        bytes: &[u8],
        k: usize,
        rows: usize,
    ) -> Result<Self, PackError> {
        let groups = rows.div_ceil(ROWS);
        let data = match ty {
            TensorType::Q8_0 => {
                let code = |b: &[u8; 34], i: usize| b[2 + i] as i8;
                Packed::Q8(pack_q8(pool, bytes, k / BLOCK, groups, code)?)
            }
            TensorType::Q4_0 => Packed::Q4(q4::pack::<0, 18>(pool, bytes, k / BLOCK, groups)?),
            TensorType::MXFP4 => Packed::Mx(q4::pack::<1, 17>(pool, bytes, k / BLOCK, groups)?),
            TensorType::IQ4_NL => Packed::Nl(q4::pack::<2, 18>(pool, bytes, k / BLOCK, groups)?),
            TensorType::Q5_0 => {
                let code = |b: &[u8; 22], i| five(&b[2..], i) as i8 - 16;
                Packed::Q8(pack_q8(pool, bytes, k / BLOCK, groups, code)?)
            }
            TensorType::Q4_K => {
                Packed::Q4K(k::pack_affine::<0, 144>(pool, bytes, k / k::SUPER, groups)?)
            }
            TensorType::Q5_K => {
                Packed::Q5K(k::pack_affine::<8, 176>(pool, bytes, k / k::SUPER, groups)?)
            }
            TensorType::Q6_K => Packed::Q6K(k::pack_signed(pool, bytes, k / k::SUPER, groups)?),
            TensorType::F16 => {
                let all = bytes.as_chunks::<2>().0;
                if all
                    .iter()
                    .any(|b| u16::from_le_bytes(*b) & 0x7c00 == 0x7c00)
                {
                    return Err(PackError::NotFinite);
                }
                let at = |i| all.get(i).map_or(0, |b| u16::from_le_bytes(*b));
                Packed::F16(interleave(pool, k, rows, groups, at))
            }
            TensorType::F32 => {
                let all = bytes.as_chunks::<4>().0;
                if !all.iter().all(|b| f32::from_le_bytes(*b).is_finite()) {
                    return Err(PackError::NotFinite);
                }
                let at = |i| all.get(i).map_or(0.0, |b| f32::from_le_bytes(*b));
                Packed::F32(interleave(pool, k, rows, groups, at))
            }
            TensorType::BF16 => {
                let all = bytes.as_chunks::<2>().0;
                if all
                    .iter()
                    .any(|b| u16::from_le_bytes(*b) & 0x7f80 == 0x7f80)
                {
                    return Err(PackError::NotFinite);
                }
                let at = |i| all.get(i).map_or(0, |b| u16::from_le_bytes(*b));
                Packed::Bf16(interleave(pool, k, rows, groups, at))
            }
            ty if dequant::reads(ty) => Packed::F32(pack_floats(pool, ty, bytes, k, groups)?),
            _ => return Err(PackError::Type),
        };
        Ok(Self {
            source: Source::default(),
            rows,
            k,
            data,
        })
    }

    /// Groups of sixteen rows.
    pub fn groups(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// Bytes of one group: what a thread streams through for sixteen outputs.
    pub fn group_bytes(&self) -> usize {
        match self.data {
            Packed::Q8(_) => self.k / BLOCK * size_of::<Block>(),
            Packed::Q4(_) | Packed::Mx(_) | Packed::Nl(_) => self.k / BLOCK * size_of::<q4::Q4>(),
            Packed::Q4K(_) => self.k / k::SUPER * size_of::<k::Q4>(),
            Packed::Q5K(_) => self.k / k::SUPER * size_of::<k::Q5>(),
            Packed::Q6K(_) => self.k / k::SUPER * size_of::<k::Signed>(),
            Packed::F16(_) | Packed::Bf16(_) => self.k * ROWS * 2,
            Packed::F32(_) => self.k * ROWS * 4,
        }
    }
}

/// Blocks of 32 that begin with an f16 scale and hold codes within eight bits.
fn pack_q8<const SIZE: usize>(
    pool: &Pool,
    bytes: &[u8],
    blocks: usize,
    groups: usize,
    code: impl Fn(&[u8; SIZE], usize) -> i8 + Sync,
) -> Result<Vec<Block>, PackError> {
    let source = bytes.as_chunks::<SIZE>().0;
    if source.iter().any(|b| endless(b[1])) {
        return Err(PackError::NotFinite);
    }
    let mut out = vec![Block::ZERO; groups * blocks];
    in_groups(pool, source, blocks, &mut out, |block, source, row| {
        block.scale[row] = u16::from_le_bytes([source[0], source[1]]);
        for (j, out) in block.code.iter_mut().enumerate() {
            for i in 0..4 {
                out[4 * row + i] = code(source, 4 * j + i) as u8 ^ 0x80;
            }
        }
    });
    Ok(out)
}

/// Whether an f16 with this upper byte is infinite or NaN: all exponent bits set.
pub(super) fn endless(upper: u8) -> bool {
    upper & 0x7c == 0x7c
}

/// Put block `i` of row `r` of each group into row `r` of the group's block `i`.
pub(super) fn in_groups<S: Sync, T: Send>(
    pool: &Pool,
    source: &[S],
    blocks: usize,
    out: &mut [T],
    put: impl Fn(&mut T, &S, usize) + Sync,
) {
    pool.pieces(out, blocks, |group, out| {
        for row in 0..ROWS {
            let first = (group * ROWS + row) * blocks;
            let Some(source) = source.get(first..first + blocks) else {
                break;
            };
            for (out, source) in out.iter_mut().zip(source) {
                put(out, source, row);
            }
        }
    });
}

/// A type without a kernel of its own: its elements as f32.
fn pack_floats(
    pool: &Pool,
    ty: TensorType,
    bytes: &[u8],
    k: usize,
    groups: usize,
) -> Result<Vec<f32>, PackError> {
    let row_bytes = k / ty.block_len() as usize * ty.block_bytes() as usize;
    let finite = AtomicBool::new(true);
    let mut out = vec![0.0; groups * k * ROWS];
    pool.pieces(&mut out, k * ROWS, |group, out| {
        let mut row = vec![0.0; k];
        let rows = bytes.chunks_exact(row_bytes).skip(group * ROWS).take(ROWS);
        for (r, bytes) in rows.enumerate() {
            dequant::row(ty, bytes, &mut row);
            if !row.iter().all(|x| x.is_finite()) {
                finite.store(false, Relaxed);
            }
            for (out, x) in out.chunks_exact_mut(ROWS).zip(&row) {
                out[r] = *x;
            }
        }
    });
    match finite.into_inner() {
        true => Ok(out),
        false => Err(PackError::NotFinite),
    }
}

fn interleave<T: Copy + Default + Send>(
    pool: &Pool,
    k: usize,
    rows: usize,
    groups: usize,
    at: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    let mut out = vec![T::default(); groups * k * ROWS];
    pool.pieces(&mut out, k * ROWS, |group, out| {
        for row in 0..ROWS.min(rows - group * ROWS) {
            for i in 0..k {
                out[i * ROWS + row] = at((group * ROWS + row) * k + i);
            }
        }
    });
    out
}
