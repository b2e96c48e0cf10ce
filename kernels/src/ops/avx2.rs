//! What the AVX2 kernels share: two registers of rows, and up to four tokens at a time.
//!
//! No closures here or in the kernels: what takes them is not compiled for these
//! instructions and so not inlined. Called by `k`, `q4` and `q8`.

use super::q8::ROWS;
use std::arch::x86_64::*;

/// Tokens at a time: with two registers of rows, eight i16 accumulators among
/// sixteen registers.
pub(super) const STEP: usize = 4;

/// How far ahead of the weights in use to fetch: far enough for memory latency at
/// the rate of one core, near enough to stay in the first-level cache.
const AHEAD: usize = 4096;

/// Two registers: rows 0 to 7 and 8 to 15.
pub(super) type Two = [__m256i; 2];

/// Call `body::<…, N>(group, acts, t, out)` for at most [`STEP`] tokens at a time.
macro_rules! tokens_at_a_time {
    ($body:ident, $group:ident, $acts:ident, $out:ident $(, $constant:ident)*) => {
        let mut t = 0;
        while t < $acts.tokens {
            let n = $crate::ops::avx2::STEP.min($acts.tokens - t);
            // SAFETY: tokens `t .. t + n` exist, which is what the body asks for.
            unsafe {
                match n {
                    1 => $body::<$($constant,)* 1>($group, $acts, t, $out),
                    2 => $body::<$($constant,)* 2>($group, $acts, t, $out),
                    3 => $body::<$($constant,)* 3>($group, $acts, t, $out),
                    _ => $body::<$($constant,)* 4>($group, $acts, t, $out),
                }
            }
            t += n;
        }
    };
}
pub(super) use tokens_at_a_time;

/// Ask for part `i` of `n` of what lies [`AHEAD`] of a block.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn fetch<T>(block: &T, i: usize, n: usize) {
    let ahead = std::ptr::from_ref(block).cast::<i8>().wrapping_add(AHEAD);
    let lines = size_of::<T>().div_ceil(64);
    for line in i * lines / n..(i + 1) * lines / n {
        // Safe: a prefetch faults nowhere.
        _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(64 * line));
    }
}

/// 64 bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn two(bytes: &[u8; 64]) -> Two {
    // SAFETY: lifetime: borrowed. Bounds: 32 bytes at 0 and at 32 of 64. Alignment: the
    // unaligned form is used.
    unsafe {
        let at = bytes.as_ptr().cast::<__m256i>();
        [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))]
    }
}

/// f16 to f32.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn halves(bits: &[u16; ROWS]) -> [__m256; 2] {
    let mut out = [_mm256_setzero_ps(); 2];
    for h in 0..2 {
        out[h] = _mm256_cvtph_ps(eight(bits, h));
    }
    out
}

/// bf16 to f32.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn brains(bits: &[u16; ROWS]) -> [__m256; 2] {
    let mut out = [_mm256_setzero_ps(); 2];
    for h in 0..2 {
        let wide = _mm256_cvtepu16_epi32(eight(bits, h));
        out[h] = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide));
    }
    out
}

#[inline]
#[target_feature(enable = "avx2")]
fn eight(bits: &[u16; ROWS], h: usize) -> __m128i {
    let bits: &[u16; 8] = &bits.as_chunks::<8>().0[h];
    // SAFETY: lifetime: borrowed. Bounds: sixteen bytes of eight u16. Alignment: the
    // unaligned form is used.
    unsafe { _mm_loadu_si128(bits.as_ptr().cast()) }
}

/// Sixteen rows of each token.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store(sums: &[[__m256; 2]], out: &mut [[f32; ROWS]]) {
    for (sums, out) in sums.iter().zip(out) {
        for h in 0..2 {
            // SAFETY: lifetime: borrowed. Bounds: eight floats at `8 h` of sixteen.
            // Alignment: the unaligned form is used.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(8 * h), sums[h]) };
        }
    }
}

/// `dots += w * x` for signed bytes, sums of pairs (within i16, as no `x` is -128) times
/// the i16 in `scale`: `maddubs` wants unsigned times signed, so |w| times x with w's
/// sign.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn add_signed<const N: usize>(dots: &mut [Two; N], w: Two, x: &[i32; N], scale: Two) {
    for h in 0..2 {
        let magnitude = _mm256_abs_epi8(w[h]);
        for i in 0..N {
            let x = _mm256_sign_epi8(_mm256_set1_epi32(x[i]), w[h]);
            let pairs = _mm256_maddubs_epi16(magnitude, x);
            dots[i][h] = _mm256_add_epi32(dots[i][h], _mm256_madd_epi16(pairs, scale[h]));
        }
    }
}

/// The bytes that sixteen codes below sixteen name.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn looked_up<T: Byte>(table: &[T; 16], codes: Two) -> Two {
    // SAFETY: lifetime: borrowed. Bounds: sixteen bytes of sixteen. Alignment: the
    // unaligned form is used.
    let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
    let table = _mm256_broadcastsi128_si256(table);
    [
        _mm256_shuffle_epi8(table, codes[0]),
        _mm256_shuffle_epi8(table, codes[1]),
    ]
}

/// One byte, with a sign or without.
pub(super) trait Byte {}
impl Byte for u8 {}
impl Byte for i8 {}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn or(a: Two, b: Two) -> Two {
    [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])]
}

/// Each byte's bits that are in `mask`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn masked(w: Two, mask: i8) -> Two {
    let mask = _mm256_set1_epi8(mask);
    [_mm256_and_si256(w[0], mask), _mm256_and_si256(w[1], mask)]
}

/// The low halves of all bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn low(w: Two) -> Two {
    masked(w, 15)
}

/// The high halves of all bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn upper(w: Two) -> Two {
    masked(right::<4>(w), 15)
}

/// 16-bit lanes shifted to the left.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn left<const BITS: i32>(w: Two) -> Two {
    [
        _mm256_slli_epi16::<BITS>(w[0]),
        _mm256_slli_epi16::<BITS>(w[1]),
    ]
}

/// 16-bit lanes shifted to the right.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn right<const BITS: i32>(w: Two) -> Two {
    [
        _mm256_srli_epi16::<BITS>(w[0]),
        _mm256_srli_epi16::<BITS>(w[1]),
    ]
}
