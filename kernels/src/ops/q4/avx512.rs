//! AVX-512 VNNI: sixteen rows a register, up to eight tokens at a time.
//!
//! The bias of the values is undone by starting each block's dot at minus the bias
//! times the sum of the activation codes. Written over [`Wide`], so that it is
//! checked without the hardware, too.

use super::{Block, Kind, ROWS, Tile, WORDS};
use crate::ops::wide::{Wide, by_tokens};

/// How far ahead of the weights in use to fetch, as in `q8`.
const AHEAD: usize = 4096;

/// [`tile`] on the processor's instructions.
///
/// # Safety
/// The processor has them; otherwise as for [`tile`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn hardware<const KIND: u8, const MIN: usize, const HIGH: usize>(
    group: &[Block<KIND, MIN, HIGH>],
    acts: Tile<'_>,
    out: &mut [[f32; ROWS]],
) {
    // SAFETY: this function's features are the instructions.
    unsafe { tile::<crate::ops::wide::Hardware, KIND, MIN, HIGH>(group, acts, out) }
}

/// See [`super::tile`].
///
/// # Safety
/// The processor has the instructions of `W`; `acts.words` holds
/// `group.len() * acts.tokens * WORDS` words and `out` has `acts.tokens` rows, at most
/// eight.
#[inline(always)]
pub(super) unsafe fn tile<W: Wide, const KIND: u8, const MIN: usize, const HIGH: usize>(
    group: &[Block<KIND, MIN, HIGH>],
    acts: Tile<'_>,
    out: &mut [[f32; ROWS]],
) {
    by_tokens!(acts.tokens, N => all::<W, KIND, MIN, HIGH, N>(group, acts, out));
}

/// # Safety
/// As for [`tile`], with `acts.tokens == N`.
#[inline(always)]
unsafe fn all<W: Wide, const KIND: u8, const MIN: usize, const HIGH: usize, const N: usize>(
    group: &[Block<KIND, MIN, HIGH>],
    acts: Tile<'_>,
    out: &mut [[f32; ROWS]],
) {
    let kind = Block::<KIND, MIN, HIGH>::KIND;
    // SAFETY: the caller proves the instructions. Lifetime: `group` and `acts` are
    // borrowed. Bounds: `words` points at this block's `N * WORDS` words and all offsets
    // are below that. Alignment: u32 in a slice of u32.
    unsafe {
        let table = W::load_quarter(&Block::<KIND, MIN, HIGH>::TABLE);
        let mut sums = [W::zero_f32(); N];
        let mut words = acts.words.as_ptr();
        for block in group {
            if N == 1 {
                let ahead = std::ptr::from_ref(block).cast::<u8>().wrapping_add(AHEAD);
                for line in 0..size_of_val(block).div_ceil(64) {
                    W::prefetch(ahead.wrapping_add(64 * line));
                }
            }
            let mut dots = [W::zero(); N];
            for i in 0..N {
                // The activations carry -128 times the sum.
                let start = *words.add(N + i) as i32 / 128 * Block::<KIND, MIN, HIGH>::BIAS;
                dots[i] = W::splat(start as u32);
            }
            for b in 0..2 {
                let mut fifth = match block.high.first() {
                    Some(bits) if b == 0 => W::left::<4>(W::load(bits)),
                    Some(bits) => W::load(bits),
                    None => W::zero(),
                };
                for p in 0..2 {
                    let both = W::load(&block.low[b][p]);
                    for n in 0..2 {
                        let w = if n == 0 { both } else { W::right::<4>(both) };
                        let mut w = W::and(w, W::splat(0x0f0f_0f0f));
                        if kind.looks_up() {
                            w = W::look_up(table, w);
                        }
                        if HIGH > 0 {
                            w = W::or(w, W::and(fifth, W::splat(0x1010_1010)));
                            fifth = W::right::<1>(fifth);
                        }
                        for i in 0..N {
                            let x = W::splat(*words.add(2 * N + 8 * i + 4 * b + 2 * n + p));
                            dots[i] = W::dot(dots[i], w, x);
                        }
                    }
                }
            }
            let scale = match kind {
                Kind::Mx => W::bf16(&block.scale),
                _ => W::half(&block.scale),
            };
            for i in 0..N {
                let d = W::mul_f32(scale, W::splat_f32(f32::from_bits(*words.add(i))));
                let mut term = W::mul_f32(W::to_f32(dots[i]), d);
                if let Some(min) = block.min.first() {
                    let sum = *words.add(N + i) as i32 / -128;
                    let sum = sum as f32 * f32::from_bits(*words.add(i));
                    term = W::add_f32(term, W::mul_f32(W::half(min), W::splat_f32(sum)));
                }
                sums[i] = W::add_f32(sums[i], term);
            }
            words = words.add(N * WORDS);
        }
        for i in 0..N {
            W::store(sums[i], &mut out[i]);
        }
    }
}
