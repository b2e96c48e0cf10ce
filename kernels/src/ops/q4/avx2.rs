//! AVX2: eight rows a register, two registers and four tokens at a time.
//!
//! Q4_0 and MXFP4 are small enough to be taken as unsigned, so that `maddubs` sums
//! can be added in i16; their bias is taken off afterwards. IQ4_NL needs the sign
//! trick of `q8`.

use super::{Block, Kind, ROWS, Tile, WORDS};
use std::arch::x86_64::*;

/// Tokens at a time: with two registers of rows, eight i16 accumulators among
/// sixteen registers.
const STEP: usize = 4;

/// How far ahead of the weights in use to fetch when one token is computed.
const AHEAD: usize = 4096;

/// Two registers: rows 0 to 7 and 8 to 15.
type Two = [__m256i; 2];

/// See [`super::tile`].
///
/// # Safety
/// `acts.words` holds `group.len() * acts.tokens * WORDS` words and `out` has
/// `acts.tokens` rows.
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn tile<const KIND: u8>(
    group: &[Block<KIND>],
    acts: Tile<'_>,
    out: &mut [[f32; ROWS]],
) {
    let mut t = 0;
    while t < acts.tokens {
        let n = STEP.min(acts.tokens - t);
        // SAFETY: tokens `t .. t + n` exist, which is what `few` asks for.
        unsafe {
            match n {
                1 => few::<KIND, 1>(group, acts, t, out),
                2 => few::<KIND, 2>(group, acts, t, out),
                3 => few::<KIND, 3>(group, acts, t, out),
                _ => few::<KIND, 4>(group, acts, t, out),
            }
        }
        t += n;
    }
}

/// # Safety
/// As for [`tile`], and `t + N <= acts.tokens`.
#[target_feature(enable = "avx2,f16c")]
unsafe fn few<const KIND: u8, const N: usize>(
    group: &[Block<KIND>],
    acts: Tile<'_>,
    t: usize,
    out: &mut [[f32; ROWS]],
) {
    let mut sums = [[_mm256_setzero_ps(); 2]; N];
    for (block, words) in group
        .iter()
        .zip(acts.words.chunks_exact(acts.tokens * WORDS))
    {
        if N == 1 {
            let ahead = std::ptr::from_ref(block).cast::<i8>().wrapping_add(AHEAD);
            for line in 0..5 {
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(64 * line));
            }
        }
        // SAFETY: lifetime: borrowed. Bounds: after twice `tokens` words come eight for
        // each token, and `t + N <= tokens`. Alignment: u32 in a slice of u32.
        let codes: &[[u32; 8]; N] = unsafe { &*words.as_ptr().add(2 * acts.tokens + 8 * t).cast() };
        let dots = match Block::<KIND>::KIND {
            Kind::Q4 | Kind::Mx => biased(block, codes, &words[acts.tokens + t..][..N]),
            Kind::Nl => by_sign(block, codes),
        };
        let scale = scales(block);
        for i in 0..N {
            let s = _mm256_set1_ps(f32::from_bits(words[t + i]));
            for h in 0..2 {
                let d = _mm256_mul_ps(scale[h], s);
                let product = _mm256_mul_ps(_mm256_cvtepi32_ps(dots[i][h]), d);
                sums[i][h] = _mm256_add_ps(sums[i][h], product);
            }
        }
    }
    for i in 0..N {
        for h in 0..2 {
            // SAFETY: eight floats at `8 h` of a row of sixteen; unaligned form.
            unsafe { _mm256_storeu_ps(out[t + i].as_mut_ptr().add(8 * h), sums[i][h]) };
        }
    }
}

/// Dots of Q4_0 and MXFP4; `starts` are -128 times the sums of the codes.
#[inline]
#[target_feature(enable = "avx2")]
fn biased<const KIND: u8, const N: usize>(
    block: &Block<KIND>,
    codes: &[[u32; 8]; N],
    starts: &[u32],
) -> [Two; N] {
    let ones = _mm256_set1_epi16(1);
    let mut dots = [[_mm256_setzero_si256(); 2]; N];
    for i in 0..N {
        let start = starts[i] as i32 / 128 * Block::<KIND>::BIAS;
        dots[i] = [_mm256_set1_epi32(start); 2];
    }
    let mut acc = [[_mm256_setzero_si256(); 2]; N];
    for b in 0..2 {
        for p in 0..2 {
            let both = two(&block.low[b][p]);
            for n in 0..2 {
                let w = values::<KIND>(both, n == 1);
                for i in 0..N {
                    let x = _mm256_set1_epi32(codes[i][4 * b + 2 * n + p] as i32);
                    for h in 0..2 {
                        acc[i][h] = _mm256_add_epi16(acc[i][h], _mm256_maddubs_epi16(w[h], x));
                    }
                }
            }
        }
        // Sixteen products of 15 * 127 fit into i16, and eight of 24 * 127.
        if b == 1 || Block::<KIND>::KIND == Kind::Mx {
            for i in 0..N {
                for h in 0..2 {
                    dots[i][h] = _mm256_add_epi32(dots[i][h], _mm256_madd_epi16(acc[i][h], ones));
                }
            }
            acc = [[_mm256_setzero_si256(); 2]; N];
        }
    }
    dots
}

/// Dots of IQ4_NL.
#[inline]
#[target_feature(enable = "avx2")]
fn by_sign<const KIND: u8, const N: usize>(block: &Block<KIND>, codes: &[[u32; 8]; N]) -> [Two; N] {
    let (ones, bias) = (_mm256_set1_epi16(1), _mm256_set1_epi8(-128));
    let mut dots = [[_mm256_setzero_si256(); 2]; N];
    for b in 0..2 {
        for p in 0..2 {
            let both = two(&block.low[b][p]);
            for n in 0..2 {
                let w = values::<KIND>(both, n == 1);
                let w = [_mm256_xor_si256(w[0], bias), _mm256_xor_si256(w[1], bias)];
                for h in 0..2 {
                    let magnitude = _mm256_abs_epi8(w[h]);
                    for i in 0..N {
                        let x = _mm256_set1_epi32(codes[i][4 * b + 2 * n + p] as i32);
                        let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, w[h]));
                        dots[i][h] = _mm256_add_epi32(dots[i][h], _mm256_madd_epi16(pairs, ones));
                    }
                }
            }
        }
    }
    dots
}

/// The biased values of the low or the high halves of bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn values<const KIND: u8>(w: Two, high: bool) -> Two {
    let mask = _mm256_set1_epi8(15);
    let mut w = w;
    if high {
        w = [_mm256_srli_epi16::<4>(w[0]), _mm256_srli_epi16::<4>(w[1])];
    }
    w = [_mm256_and_si256(w[0], mask), _mm256_and_si256(w[1], mask)];
    if Block::<KIND>::KIND == Kind::Q4 {
        return w;
    }
    // SAFETY: lifetime: a constant. Bounds: sixteen bytes of sixteen. Alignment: the
    // unaligned form is used.
    let table = unsafe { _mm_loadu_si128(Block::<KIND>::TABLE.as_ptr().cast()) };
    let table = _mm256_broadcastsi128_si256(table);
    [
        _mm256_shuffle_epi8(table, w[0]),
        _mm256_shuffle_epi8(table, w[1]),
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
fn two(bytes: &[u8; 64]) -> Two {
    // SAFETY: lifetime: borrowed. Bounds: 32 bytes at 0 and at 32 of 64. Alignment: the
    // unaligned form is used.
    unsafe {
        let at = bytes.as_ptr().cast::<__m256i>();
        [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))]
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn scales<const KIND: u8>(block: &Block<KIND>) -> [__m256; 2] {
    let mut out = [_mm256_setzero_ps(); 2];
    for h in 0..2 {
        // SAFETY: lifetime: borrowed. Bounds: eight u16 at 0 and at 8 of sixteen.
        // Alignment: the unaligned form is used.
        let bits = unsafe { _mm_loadu_si128(block.scale.as_ptr().add(8 * h).cast()) };
        out[h] = match Block::<KIND>::KIND {
            Kind::Mx => _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits))),
            _ => _mm256_cvtph_ps(bits),
        };
    }
    out
}
