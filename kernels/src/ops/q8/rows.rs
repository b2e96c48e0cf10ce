//! Rows as the file has them, to compute with before they are packed.
//!
//! Packing a large model takes seconds, most of them waits for fresh memory. So a model
//! may answer from the mapped file at once, while somebody packs its rows one matrix
//! after the other ([`Rows::pack`]). Until then one token is multiplied with the rows
//! themselves where there is a kernel for it; otherwise a chunk of rows is packed into
//! the thread's own scratch first, which costs little beside many tokens. The bits are
//! those of packed rows.

use super::{Block, ROWS, Tile, WORDS};
use crate::cpu::{Simd, SimdLevel};
use crate::ops::buffer::{Arena, Buffer};
use crate::ops::weights::{PackError, Stored, endless, interleave, pack_q8, put_q8};
use crate::pool::Pool;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A block in the file: scale (f16), then 32 codes.
pub(crate) type Raw = [u8; 34];

/// Has the bytes of some rows for as long as it lives.
pub(crate) trait Keep: Send + Sync {
    /// All of them.
    fn bytes(&self) -> &[u8];
    /// Told of a part that is not likely to be read again.
    fn release(&self, part: &[u8]);
}

/// Rows that are packed later.
pub(crate) struct Rows {
    /// Gone when the rows are packed: the file may go with it.
    kept: Mutex<Option<Arc<dyn Keep>>>,
    len: usize,
    /// Blocks of a row.
    blocks: usize,
    packed: OnceLock<Buffer<Block>>,
}

/// How rows can be read now.
pub(crate) enum State<'a> {
    Packed(&'a [Block]),
    /// The file's bytes, for as long as this is held.
    Stored(Arc<dyn Keep>),
}

thread_local! {
    /// A chunk of rows, packed.
    static CHUNK: RefCell<Vec<Block>> = const { RefCell::new(Vec::new()) };
}

impl Rows {
    /// Rows of `blocks` blocks with finite scales.
    pub fn new(kept: Box<dyn Keep>, blocks: usize) -> Self {
        Self {
            len: kept.bytes().len(),
            kept: Mutex::new(Some(Arc::from(kept))),
            blocks,
            packed: OnceLock::new(),
        }
    }

    /// The packed rows, once there are.
    pub fn packed(&self) -> Option<&[Block]> {
        self.packed.get().map(|packed| &packed[..])
    }

    /// How the rows can be read now.
    pub fn state(&self) -> State<'_> {
        let kept = || {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.clone()
        };
        match (self.packed(), kept()) {
            (Some(packed), _) => State::Packed(packed),
            (None, Some(kept)) => State::Stored(kept),
            // Packed between the two looks.
            (None, None) => State::Packed(self.packed().unwrap_or(&[])),
        }
    }

    /// Bytes that packed rows take.
    pub fn bytes(&self) -> u64 {
        self.len as u64
    }

    /// Pack on this thread, and let the stored rows go.
    pub fn pack(&self, arena: &Arena) -> Result<(), PackError> {
        let State::Stored(kept) = self.state() else {
            return Ok(());
        };
        let bytes = kept.bytes();
        let stored = Stored {
            bytes,
            arena,
            begin: &|_| {},
            done: &|part| kept.release(part),
        };
        let rows = bytes.len() / (self.blocks * size_of::<Raw>());
        let packed = pack_q8(&Pool::new(1), stored, self.blocks, rows.div_ceil(ROWS))?;
        let _ = self.packed.set(packed);
        // With what readers have brought back in.
        kept.release(bytes);
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    /// The rows of groups of sixteen; fewer in the last one of a matrix.
    pub fn groups<'a>(&self, kept: &'a dyn Keep, groups: Range<usize>) -> &'a [Raw] {
        let all = kept.bytes().as_chunks().0;
        let each = ROWS * self.blocks;
        &all[groups.start * each..all.len().min(groups.end * each)]
    }

    /// Call `compute` with these groups, packed into the thread's scratch.
    pub fn with_packed(
        &self,
        kept: &dyn Keep,
        groups: Range<usize>,
        compute: impl FnOnce(&[Block]),
    ) {
        CHUNK.with_borrow_mut(|chunk| {
            let raw = self.groups(kept, groups.clone());
            chunk.resize(groups.len() * self.blocks, Block::ZERO);
            // Rows that the last group of a matrix does not have.
            chunk[raw.len() / ROWS / self.blocks * self.blocks..].fill(Block::ZERO);
            interleave(chunk, raw, self.blocks, put_q8);
            compute(chunk);
        });
    }
}

/// Whether a block can be computed with: its scale is finite.
pub(crate) fn good(raw: &Raw) -> bool {
    !endless(raw[1])
}

/// Whether [`one`] knows this level.
pub(crate) fn has_one(simd: Simd) -> bool {
    simd.level() >= SimdLevel::Avx2
}

/// The dots of one whole group with the only token of a tile, where [`has_one`].
pub(crate) fn one(simd: Simd, group: &[Raw], acts: Tile<'_>, out: &mut [f32; ROWS]) {
    assert!(has_one(simd) && acts.tokens == 1);
    assert_eq!(acts.words.len() * ROWS, group.len() * WORDS);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the level proves the features; lengths were compared above.
    unsafe {
        avx2(group, acts.words, out);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = out;
}

/// Eight rows at a time: each row's block gives eight partial dots, a tree of additions
/// turns eight rows' partial dots into the dots of eight rows. All of it is exact.
///
/// # Safety
/// `group` is sixteen rows of blocks, `words` a token's words for each block of a row.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
unsafe fn avx2(group: &[Raw], words: &[u32], out: &mut [f32; ROWS]) {
    use std::arch::x86_64::*;
    const HALF: usize = ROWS / 2;
    let (ones, blocks) = (_mm256_set1_epi16(1), words.len() / WORDS);
    for (rows, out) in group
        .chunks_exact(HALF * blocks)
        .zip(out.chunks_exact_mut(HALF))
    {
        let mut sums = _mm256_setzero_ps();
        for (b, words) in words.chunks_exact(WORDS).enumerate() {
            // SAFETY: eight words of codes follow scale and sum; unaligned form.
            let x = unsafe { _mm256_loadu_si256(words.as_ptr().add(2).cast()) };
            let (mut scales, mut dots) = ([0u16; HALF], [_mm256_setzero_si256(); HALF]);
            for r in 0..HALF {
                // SAFETY: eight rows of `blocks` blocks. A prefetch faults nowhere and
                // its address is computed with `wrapping_add`: the same block of the
                // row after eight.
                let w = unsafe {
                    let raw = rows.as_ptr().add(r * blocks + b);
                    _mm_prefetch::<_MM_HINT_T0>(raw.wrapping_add(HALF * blocks).cast());
                    scales[r] = u16::from_le_bytes([(*raw)[0], (*raw)[1]]);
                    // Bounds: 32 of the 34 bytes; unaligned form.
                    _mm256_loadu_si256(raw.cast::<u8>().add(2).cast())
                };
                let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
                dots[r] = _mm256_madd_epi16(pairs, ones);
            }
            let four = |i: usize| {
                let (a, b) = (
                    _mm256_hadd_epi32(dots[i], dots[i + 1]),
                    _mm256_hadd_epi32(dots[i + 2], dots[i + 3]),
                );
                _mm256_hadd_epi32(a, b)
            };
            let (a, b) = (four(0), four(4));
            let dot = _mm256_add_epi32(
                _mm256_permute2x128_si256::<0x20>(a, b),
                _mm256_permute2x128_si256::<0x31>(a, b),
            );
            // SAFETY: sixteen bytes of the array; unaligned form.
            let scale = unsafe { _mm_loadu_si128(scales.as_ptr().cast()) };
            let s = _mm256_set1_ps(f32::from_bits(words[0]));
            let d = _mm256_mul_ps(_mm256_cvtph_ps(scale), s);
            sums = _mm256_add_ps(sums, _mm256_mul_ps(_mm256_cvtepi32_ps(dot), d));
        }
        // SAFETY: eight floats; unaligned form.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), sums) };
    }
}
