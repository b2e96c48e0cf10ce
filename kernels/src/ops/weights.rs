//! Weight matrices, repacked from the file's layout into the kernels'.

use super::buffer::{Arena, Buffer, Zero};
use super::dequant;
use super::half::widen_one;
use super::k;
use super::q4;
use super::q8::rows::{self, Keep, Rows, State};
use super::q8::{self, BLOCK, Block, ROWS};
use super::scaled;
use crate::gguf::TensorType;
use crate::pool::Pool;
use std::sync::Arc;
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
    Q8(Buffer<Block>),
    /// The same, before it is packed and afterwards.
    Rows(Arc<Rows>),
    /// `[group][block of K]`.
    Q4(Buffer<q4::Q4>),
    /// `[group][block of K]`.
    Q4Min(Buffer<q4::Q4Min>),
    /// `[group][block of K]`.
    Q5(Buffer<q4::Q5>),
    /// `[group][block of K]`.
    Q5Min(Buffer<q4::Q5Min>),
    /// `[group][block of K]`.
    Mx(Buffer<q4::Mx>),
    /// `[group][block of K]`.
    Nl(Buffer<q4::Nl>),
    /// `[group][super-block of K]`.
    Q4K(Buffer<k::Q4>),
    /// `[group][super-block of K]`.
    Q5K(Buffer<k::Q5>),
    /// `[group][super-block of K]`.
    Q6K(Buffer<k::Signed>),
    /// `[group][super-block of K]`.
    Xs(Buffer<k::Xs>),
    /// `[group][super-block of K]`.
    Q2K(Buffer<scaled::Q2>),
    /// `[group][super-block of K]`.
    Q3K(Buffer<scaled::Q3>),
    /// `[group][k]`.
    F16(Buffer<[u16; ROWS]>),
    /// `[group][k]`.
    Bf16(Buffer<[u16; ROWS]>),
    /// `[group][k]`.
    F32(Buffer<[f32; ROWS]>),
}

/// Rows as the file has them.
#[derive(Clone, Copy)]
pub(crate) struct Stored<'a> {
    pub bytes: &'a [u8],
    /// Where they are packed.
    pub arena: &'a Arena,
    /// Told of each part that is about to be read.
    pub begin: &'a (dyn Fn(&[u8]) + Sync),
    /// Told of each part that has been read and is not needed again.
    pub done: &'a (dyn Fn(&[u8]) + Sync),
}

impl<'a> Stored<'a> {
    /// Bytes that are nobody else's concern.
    pub fn whole(bytes: &'a [u8], arena: &'a Arena) -> Self {
        Self {
            bytes,
            arena,
            begin: &|_| {},
            done: &|_| {},
        }
    }
}

/// Bytes of a file that a thread packs before it lets them go: much more than a page,
/// much less than a large tensor.
const PIECE: usize = 2 << 20;

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
        Self::pack_stored(pool, ty, Stored::whole(bytes, &Arena::default()), k, rows)
    }

    /// [`Self::pack`] of bytes that are not read again.
    pub fn pack_stored(
        pool: &Pool,
        ty: TensorType,
        stored: Stored<'_>,
        k: usize,
        rows: usize,
    ) -> Result<Self, PackError> {
        let groups = rows.div_ceil(ROWS);
        let data = match ty {
            TensorType::Q8_0 => Packed::Q8(pack_q8(pool, stored, k / BLOCK, groups)?),
            TensorType::Q4_0 => {
                Packed::Q4(q4::pack::<_, _, _, 18>(pool, stored, k / BLOCK, groups)?)
            }
            TensorType::Q4_1 => {
                Packed::Q4Min(q4::pack::<_, _, _, 20>(pool, stored, k / BLOCK, groups)?)
            }
            TensorType::Q5_0 => {
                Packed::Q5(q4::pack::<_, _, _, 22>(pool, stored, k / BLOCK, groups)?)
            }
            TensorType::Q5_1 => {
                Packed::Q5Min(q4::pack::<_, _, _, 24>(pool, stored, k / BLOCK, groups)?)
            }
            TensorType::MXFP4 => {
                Packed::Mx(q4::pack::<_, _, _, 17>(pool, stored, k / BLOCK, groups)?)
            }
            TensorType::IQ4_NL => {
                Packed::Nl(q4::pack::<_, _, _, 18>(pool, stored, k / BLOCK, groups)?)
            }
            TensorType::Q4_K => Packed::Q4K(k::pack_affine::<0, 144>(
                pool,
                stored,
                k / k::SUPER,
                groups,
            )?),
            TensorType::Q5_K => Packed::Q5K(k::pack_affine::<8, 176>(
                pool,
                stored,
                k / k::SUPER,
                groups,
            )?),
            TensorType::Q6_K => Packed::Q6K(k::pack_signed(pool, stored, k / k::SUPER, groups)?),
            TensorType::IQ4_XS => Packed::Xs(k::pack_xs(pool, stored, k / k::SUPER, groups)?),
            TensorType::F16 => {
                let good = |b: &[u8; 2]| b[1] & 0x7c != 0x7c;
                Packed::F16(in_groups(pool, stored, (groups, k), good, half)?)
            }
            TensorType::BF16 => {
                let good = |b: &[u8; 2]| u16::from_le_bytes(*b) & 0x7f80 != 0x7f80;
                Packed::Bf16(in_groups(pool, stored, (groups, k), good, half)?)
            }
            TensorType::F32 => {
                let good = |b: &[u8; 4]| f32::from_le_bytes(*b).is_finite();
                let put = |out: &mut [f32; ROWS], b: &[u8; 4], row: usize| {
                    out[row] = f32::from_le_bytes(*b);
                };
                Packed::F32(in_groups(pool, stored, (groups, k), good, put)?)
            }
            TensorType::Q2_K => Packed::Q2K(scaled::pack_q2(pool, stored, (groups, k))?),
            TensorType::Q3_K => Packed::Q3K(scaled::pack_q3(pool, stored, (groups, k))?),
            _ => return Err(PackError::Type),
        };
        Ok(Self {
            source: Source::default(),
            rows,
            k,
            data,
        })
    }

    /// Whether rows of this type can be computed with before they are packed.
    pub fn can_wait(ty: TensorType) -> bool {
        ty == TensorType::Q8_0
    }

    /// A matrix of rows of `k` elements that are packed later; none where this type
    /// cannot wait.
    pub fn later(
        pool: &Pool,
        ty: TensorType,
        kept: Box<dyn Keep>,
        k: usize,
    ) -> Option<Result<Self, PackError>> {
        if !Self::can_wait(ty) {
            return None;
        }
        let sound = AtomicBool::new(true);
        let raw = kept.bytes().as_chunks().0;
        let pieces: Vec<&[rows::Raw]> = raw.chunks(PIECE / size_of::<rows::Raw>()).collect();
        let rows = raw.len() / (k / BLOCK);
        pool.run(pieces.len(), &|i| {
            if !pieces[i].iter().all(rows::good) {
                sound.store(false, Relaxed);
            }
        });
        Some(match sound.into_inner() {
            true => Ok(Self {
                source: Source::default(),
                rows,
                k,
                data: Packed::Rows(Arc::new(Rows::new(kept, k / BLOCK))),
            }),
            false => Err(PackError::NotFinite),
        })
    }

    /// Whether [`Self::row`] gives rows.
    pub fn has_rows(&self) -> bool {
        match &self.data {
            Packed::Q8(_) | Packed::Rows(_) | Packed::F16(_) | Packed::Bf16(_) => true,
            // What is left of a matrix that was forgotten has no element.
            Packed::F32(w) => !w.is_empty(),
            _ => false,
        }
    }

    /// One row as `dequant::row` reads it from the file; NaN where there are none.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let (group, lane, k) = (row / ROWS, row % ROWS, self.k);
        let q8 = |packed: &[Block], out: &mut [f32]| {
            let blocks = k / BLOCK;
            q8::row(&packed[group * blocks..][..blocks], lane, out);
        };
        match &self.data {
            Packed::Q8(packed) => q8(packed, out),
            Packed::Rows(rows) => match rows.state() {
                State::Packed(packed) => q8(packed, out),
                State::Stored(kept) => {
                    let raw = &kept.bytes().as_chunks().0[row * (k / BLOCK)..][..k / BLOCK];
                    let raw: &[rows::Raw] = raw;
                    dequant::row(TensorType::Q8_0, raw.as_flattened(), out);
                }
            },
            Packed::F16(w) => lanes(&w[group * k..][..k], lane, out, widen_one),
            Packed::Bf16(w) => lanes(&w[group * k..][..k], lane, out, |x| {
                f32::from_bits(u32::from(x) << 16)
            }),
            Packed::F32(w) if w.is_empty() => out.fill(f32::NAN),
            Packed::F32(w) => lanes(&w[group * k..][..k], lane, out, |x| x),
            _ => out.fill(f32::NAN),
        }
    }

    /// Let the packed rows go; nothing can be computed with it afterwards.
    pub fn forget(&mut self) {
        self.data = Packed::F32(Arena::default().zeroed(0));
    }

    /// Groups of sixteen rows.
    pub fn groups(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// Bytes of one group: what a thread streams through for sixteen outputs.
    pub fn group_bytes(&self) -> usize {
        match self.data {
            Packed::Q8(_) | Packed::Rows(_) => self.k / BLOCK * size_of::<Block>(),
            Packed::Q4(_) | Packed::Mx(_) | Packed::Nl(_) => self.k / BLOCK * size_of::<q4::Q4>(),
            Packed::Q4Min(_) => self.k / BLOCK * size_of::<q4::Q4Min>(),
            Packed::Q5(_) => self.k / BLOCK * size_of::<q4::Q5>(),
            Packed::Q5Min(_) => self.k / BLOCK * size_of::<q4::Q5Min>(),
            Packed::Q4K(_) => self.k / k::SUPER * size_of::<k::Q4>(),
            Packed::Q5K(_) => self.k / k::SUPER * size_of::<k::Q5>(),
            Packed::Q6K(_) => self.k / k::SUPER * size_of::<k::Signed>(),
            Packed::Xs(_) => self.k / k::SUPER * size_of::<k::Xs>(),
            Packed::Q2K(_) => self.k / k::SUPER * size_of::<scaled::Q2>(),
            Packed::Q3K(_) => self.k / k::SUPER * size_of::<scaled::Q3>(),
            Packed::F16(_) | Packed::Bf16(_) => self.k * ROWS * 2,
            Packed::F32(_) => self.k * ROWS * 4,
        }
    }
}

/// One row of a group of interleaved rows.
fn lanes<T: Copy>(group: &[[T; ROWS]], lane: usize, out: &mut [f32], widen: impl Fn(T) -> f32) {
    for (out, rows) in out.iter_mut().zip(group) {
        *out = widen(rows[lane]);
    }
}

/// Q8_0.
pub(super) fn pack_q8(
    pool: &Pool,
    stored: Stored<'_>,
    blocks: usize,
    groups: usize,
) -> Result<Buffer<Block>, PackError> {
    in_groups(pool, stored, (groups, blocks), rows::good, put_q8)
}

/// A row's part of a block.
pub(super) fn put_q8(block: &mut Block, raw: &rows::Raw, row: usize) {
    block.scale[row] = u16::from_le_bytes([raw[0], raw[1]]);
    let codes = raw[2..].as_chunks::<4>().0;
    for (out, codes) in block.code.iter_mut().zip(codes) {
        out[4 * row..4 * row + 4].copy_from_slice(&codes.map(|code| code ^ 0x80));
    }
}

/// An f16 or bf16 as it is.
fn half(out: &mut [u16; ROWS], b: &[u8; 2], row: usize) {
    out[row] = u16::from_le_bytes(*b);
}

/// Whether an f16 with this upper byte is infinite or NaN: all exponent bits set.
pub(super) fn endless(upper: u8) -> bool {
    upper & 0x7c == 0x7c
}

/// `groups` groups of `blocks` packed blocks: `put` gets block `i` of row `r` of each
/// group for row `r` of the group's block `i`, if `good` finds nothing wrong with it.
/// Rows that the file does not have stay zero.
pub(super) fn in_groups<const SIZE: usize, T: Zero>(
    pool: &Pool,
    stored: Stored<'_>,
    (groups, blocks): (usize, usize),
    good: impl Fn(&[u8; SIZE]) -> bool + Sync,
    put: impl Fn(&mut T, &[u8; SIZE], usize) + Sync,
) -> Result<Buffer<T>, PackError> {
    let source = stored.bytes.as_chunks::<SIZE>().0;
    let sound = AtomicBool::new(true);
    let mut out = stored.arena.zeroed(groups * blocks);
    let some = groups_at_once(pool, groups, blocks * ROWS * SIZE);
    pool.pieces(&mut out, some * blocks, |i, out| {
        let first = i * some * ROWS * blocks;
        let source = &source[first..source.len().min(first + out.len() * ROWS)];
        (stored.begin)(source.as_flattened());
        if !source.iter().all(&good) {
            sound.store(false, Relaxed);
        }
        interleave(out, source, blocks, &put);
        (stored.done)(source.as_flattened());
    });
    match sound.into_inner() {
        true => Ok(out),
        false => Err(PackError::NotFinite),
    }
}

/// `put` block `i` of row `r` of each group for row `r` of the group's block `i`.
pub(super) fn interleave<S, T>(
    out: &mut [T],
    source: &[S],
    blocks: usize,
    put: impl Fn(&mut T, &S, usize),
) {
    let groups = source.chunks(ROWS * blocks);
    for (out, source) in out.chunks_exact_mut(blocks).zip(groups) {
        for (row, source) in source.chunks_exact(blocks).enumerate() {
            for (out, source) in out.iter_mut().zip(source) {
                put(out, source, row);
            }
        }
    }
}

/// Groups, of `bytes` bytes in the file, that a thread packs before it lets them go.
fn groups_at_once(pool: &Pool, groups: usize, bytes: usize) -> usize {
    let even = groups.div_ceil(2 * pool.threads());
    (PIECE / bytes).min(even).max(1)
}
