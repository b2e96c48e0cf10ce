//! AVX2: eight rows a register; signed dots by the sign trick.
//!
//! `maddubs` wants unsigned times signed: |w| (at most 128) times x with w's sign.
//! Two such products stay within i16 because activation codes stay within 127.

use super::{Block, ROWS, Tile, WORDS};
use std::arch::x86_64::*;

/// How far ahead of the weights in use to fetch when one token is computed.
const AHEAD: usize = 4096;
/// Tokens at a time: four i32 and four f32 accumulators among sixteen registers.
const STEP: usize = 4;

/// See [`super::tile`].
///
/// # Safety
/// `acts.words` holds `group.len() * acts.tokens * WORDS` words and `out` has
/// `acts.tokens` rows.
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn tile(group: &[Block], acts: Tile<'_>, out: &mut [[f32; ROWS]]) {
    let mut t = 0;
    while t < acts.tokens {
        let n = STEP.min(acts.tokens - t);
        // SAFETY: tokens `t..t + n` exist, which is what these ask for.
        unsafe {
            match n {
                1 => one(group, acts, t, out),
                2 => both::<2>(group, acts, t, out),
                3 => both::<3>(group, acts, t, out),
                _ => both::<4>(group, acts, t, out),
            }
        }
        t += n;
    }
}

/// # Safety
/// As for [`tile`], and `t + N <= acts.tokens`.
#[target_feature(enable = "avx2,f16c")]
unsafe fn both<const N: usize>(group: &[Block], acts: Tile<'_>, t: usize, out: &mut [[f32; ROWS]]) {
    // SAFETY: as for this function; there are two halves.
    unsafe {
        rows::<N>(group, acts, t, 0, out);
        rows::<N>(group, acts, t, 1, out);
    }
}

/// All sixteen rows with one token: every byte of the weights is read once, in order,
/// and asked for beforehand.
///
/// # Safety
/// As for [`tile`], and `t < acts.tokens`.
#[target_feature(enable = "avx2,f16c")]
unsafe fn one(group: &[Block], acts: Tile<'_>, t: usize, out: &mut [[f32; ROWS]]) {
    let (flip, ones) = (_mm256_set1_epi8(-128), _mm256_set1_epi16(1));
    let mut sums = [_mm256_setzero_ps(); 2];
    for (block, words) in group
        .iter()
        .zip(acts.words.chunks_exact(acts.tokens * WORDS))
    {
        let codes = &words[2 * acts.tokens + 8 * t..][..8];
        let ahead = std::ptr::from_ref(block).cast::<i8>().wrapping_add(AHEAD);
        let mut dots = [_mm256_setzero_si256(); 2];
        let s = _mm256_set1_ps(f32::from_bits(words[t]));
        for j in 0..8 {
            let x = _mm256_set1_epi32(codes[j] as i32);
            for h in 0..2 {
                // SAFETY: lifetime: borrowed. Bounds: 32 bytes at `32 h` of 64; a
                // prefetch faults nowhere and its address is computed with
                // `wrapping_add`. Alignment: the unaligned form is used.
                let w = unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(64 * j + 32 * h));
                    _mm256_loadu_si256(block.code[j].as_ptr().add(32 * h).cast())
                };
                let w = _mm256_xor_si256(w, flip);
                let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
                dots[h] = _mm256_add_epi32(dots[h], _mm256_madd_epi16(pairs, ones));
            }
        }
        for h in 0..2 {
            // SAFETY: as above, sixteen bytes at half of 32.
            let scale = unsafe { _mm_loadu_si128(block.scale.as_ptr().add(8 * h).cast()) };
            let d = _mm256_mul_ps(_mm256_cvtph_ps(scale), s);
            sums[h] = _mm256_add_ps(sums[h], _mm256_mul_ps(_mm256_cvtepi32_ps(dots[h]), d));
        }
    }
    for h in 0..2 {
        // SAFETY: eight floats at `8 h` of a row of sixteen; unaligned form.
        unsafe { _mm256_storeu_ps(out[t].as_mut_ptr().add(8 * h), sums[h]) };
    }
}

/// Rows `8 half ..` of the group with tokens `t .. t + N`.
///
/// # Safety
/// As for [`tile`], and `t + N <= acts.tokens`, `half < 2`.
#[target_feature(enable = "avx2,f16c")]
unsafe fn rows<const N: usize>(
    group: &[Block],
    acts: Tile<'_>,
    t: usize,
    half: usize,
    out: &mut [[f32; ROWS]],
) {
    let (flip, ones) = (_mm256_set1_epi8(-128), _mm256_set1_epi16(1));
    let mut sums = [_mm256_setzero_ps(); N];
    let mut words = acts.words.as_ptr();
    for block in group {
        let mut dots = [_mm256_setzero_si256(); N];
        // SAFETY: lifetime: `group` and `acts` are borrowed. Bounds: `words` points at
        // this block's `tokens * WORDS` words, of which scale `t + i`, and codes
        // `8 (t + i) + j` after the two arrays of `tokens`, are read; 32 bytes at
        // `32 half` of a 64-byte array and 16 bytes at half of a 32-byte array.
        // Alignment: the unaligned forms are used.
        unsafe {
            let codes = words.add(2 * acts.tokens + 8 * t);
            for j in 0..8 {
                let w = _mm256_loadu_si256(block.code[j].as_ptr().add(32 * half).cast());
                let w = _mm256_xor_si256(w, flip);
                let magnitude = _mm256_abs_epi8(w);
                for i in 0..N {
                    let x = _mm256_set1_epi32(*codes.add(8 * i + j) as i32);
                    let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, w));
                    dots[i] = _mm256_add_epi32(dots[i], _mm256_madd_epi16(pairs, ones));
                }
            }
            let scale = _mm_loadu_si128(block.scale.as_ptr().add(8 * half).cast());
            let scale = _mm256_cvtph_ps(scale);
            for i in 0..N {
                let d = _mm256_mul_ps(scale, _mm256_set1_ps(f32::from_bits(*words.add(t + i))));
                let product = _mm256_mul_ps(_mm256_cvtepi32_ps(dots[i]), d);
                sums[i] = _mm256_add_ps(sums[i], product);
            }
            words = words.add(acts.tokens * WORDS);
        }
    }
    for i in 0..N {
        // SAFETY: eight floats at `8 half` of a row of sixteen; unaligned form.
        unsafe { _mm256_storeu_ps(out[t + i].as_mut_ptr().add(8 * half), sums[i]) };
    }
}
