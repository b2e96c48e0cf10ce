//! Weight matrices, repacked from the file's layout into the kernels'.

use super::q8::{BLOCK, Block, ROWS};
use crate::gguf::TensorType;
use crate::pool::Pool;

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
    /// `[group][k][16]`.
    F16(Vec<u16>),
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
            TensorType::Q8_0 => Packed::Q8(pack_q8(pool, bytes, k / BLOCK, groups)?),
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
            Packed::F16(_) => self.k * ROWS * 2,
            Packed::F32(_) => self.k * ROWS * 4,
        }
    }
}

fn pack_q8(
    pool: &Pool,
    bytes: &[u8],
    blocks: usize,
    groups: usize,
) -> Result<Vec<Block>, PackError> {
    let source = bytes.as_chunks::<34>().0;
    // A scale with all exponent bits set is infinite or NaN.
    if source.iter().any(|b| b[1] & 0x7c == 0x7c) {
        return Err(PackError::NotFinite);
    }
    let mut out = vec![Block::ZERO; groups * blocks];
    pool.pieces(&mut out, blocks, |group, out| {
        for row in 0..ROWS {
            let first = (group * ROWS + row) * blocks;
            let Some(source) = source.get(first..first + blocks) else {
                break;
            };
            for (block, source) in out.iter_mut().zip(source) {
                block.scale[row] = u16::from_le_bytes([source[0], source[1]]);
                for (code, four) in block.code.iter_mut().zip(source[2..].as_chunks::<4>().0) {
                    code[4 * row..4 * row + 4].copy_from_slice(&four.map(|b| b ^ 0x80));
                }
            }
        }
    });
    Ok(out)
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
