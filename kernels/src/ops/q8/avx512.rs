//! AVX-512 VNNI: sixteen rows a register, `vpdpbusd` on the stored bytes.
//!
//! The weights' +128 is undone by starting each block's dot at -128 times the sum
//! of the activation codes.

use super::{Block, ROWS, Tile, WORDS};
use std::arch::x86_64::*;

/// How far ahead of the weights in use to fetch: far enough for memory latency at
/// the rate of one core, near enough to stay in the first-level cache.
const AHEAD: usize = 4096;

/// See [`super::tile`].
///
/// # Safety
/// `acts.words` holds `group.len() * acts.tokens * WORDS` words and `out` has
/// `acts.tokens` rows, at most eight.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn tile(group: &[Block], acts: Tile<'_>, out: &mut [[f32; ROWS]]) {
    // SAFETY: `N` is the number of tokens, as `all` asks.
    unsafe {
        match acts.tokens {
            0 => {}
            1 => all::<1>(group, acts, out),
            2 => all::<2>(group, acts, out),
            3 => all::<3>(group, acts, out),
            4 => all::<4>(group, acts, out),
            5 => all::<5>(group, acts, out),
            6 => all::<6>(group, acts, out),
            7 => all::<7>(group, acts, out),
            _ => all::<8>(group, acts, out),
        }
    }
}

/// # Safety
/// As for [`tile`], with `acts.tokens == N`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn all<const N: usize>(group: &[Block], acts: Tile<'_>, out: &mut [[f32; ROWS]]) {
    let mut sums = [_mm512_setzero_ps(); N];
    let mut words = acts.words.as_ptr();
    for block in group {
        // SAFETY: lifetime: `group` and `acts` are borrowed. Bounds: `words` points at
        // this block's `N * WORDS` words and all offsets are below that; 64 and 32
        // bytes are read from arrays of that size; prefetching faults nowhere and its
        // address is computed with `wrapping_add`. Alignment: unaligned forms.
        unsafe {
            if N == 1 {
                let ahead = std::ptr::from_ref(block).cast::<i8>().wrapping_add(AHEAD);
                for line in 0..9 {
                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(64 * line));
                }
            }
            let mut dots = [_mm512_setzero_si512(); N];
            for i in 0..N {
                dots[i] = _mm512_set1_epi32(*words.add(N + i) as i32);
            }
            for j in 0..8 {
                let w = _mm512_loadu_si512(block.code[j].as_ptr().cast());
                for i in 0..N {
                    let x = _mm512_set1_epi32(*words.add(2 * N + 8 * i + j) as i32);
                    dots[i] = _mm512_dpbusd_epi32(dots[i], w, x);
                }
            }
            let scale = _mm512_cvtph_ps(_mm256_loadu_si256(block.scale.as_ptr().cast()));
            for i in 0..N {
                let d = _mm512_mul_ps(scale, _mm512_set1_ps(f32::from_bits(*words.add(i))));
                let product = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[i]), d);
                sums[i] = _mm512_add_ps(sums[i], product);
            }
            words = words.add(N * WORDS);
        }
    }
    for i in 0..N {
        // SAFETY: sixteen floats of a row of sixteen; unaligned form.
        unsafe { _mm512_storeu_ps(out[i].as_mut_ptr(), sums[i]) };
    }
}
