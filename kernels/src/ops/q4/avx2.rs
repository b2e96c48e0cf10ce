//! AVX2: eight rows a register, two registers and four tokens at a time.
//!
//! All but IQ4_NL are small enough to be taken as unsigned, so that `maddubs` sums
//! can be added in i16; their bias is taken off afterwards. IQ4_NL needs the sign
//! trick of `q8`.

use super::{Block, Kind, ROWS, Tile, WORDS};
use crate::ops::avx2::*;
use crate::ops::dequant::IQ4;
use std::arch::x86_64::*;

/// See [`super::tile`].
///
/// # Safety
/// `acts.words` holds `group.len() * acts.tokens * WORDS` words and `out` has
/// `acts.tokens` rows.
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn tile<const KIND: u8, const MIN: usize, const HIGH: usize>(
    group: &[Block<KIND, MIN, HIGH>],
    acts: Tile<'_>,
    out: &mut [[f32; ROWS]],
) {
    tokens_at_a_time!(few, group, acts, out, KIND, MIN, HIGH);
}

/// # Safety
/// As for [`tile`], and `t + N <= acts.tokens`.
#[target_feature(enable = "avx2,f16c")]
unsafe fn few<const KIND: u8, const MIN: usize, const HIGH: usize, const N: usize>(
    group: &[Block<KIND, MIN, HIGH>],
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
            fetch(block, 0, 1);
        }
        // SAFETY: lifetime: borrowed. Bounds: after twice `tokens` words come eight for
        // each token, and `t + N <= tokens`. Alignment: u32 in a slice of u32.
        let codes: &[[u32; 8]; N] = unsafe { &*words.as_ptr().add(2 * acts.tokens + 8 * t).cast() };
        let dots = match Block::<KIND, MIN, HIGH>::KIND {
            Kind::Nl => by_sign(block, codes),
            _ => biased(block, codes, &words[acts.tokens + t..][..N]),
        };
        let scale = match Block::<KIND, MIN, HIGH>::KIND {
            Kind::Mx => brains(&block.scale),
            _ => halves(&block.scale),
        };
        let mut min = [_mm256_setzero_ps(); 2];
        if let Some(bits) = block.min.first() {
            min = halves(bits);
        }
        for i in 0..N {
            let s = _mm256_set1_ps(f32::from_bits(words[t + i]));
            for h in 0..2 {
                let d = _mm256_mul_ps(scale[h], s);
                let mut term = _mm256_mul_ps(_mm256_cvtepi32_ps(dots[i][h]), d);
                if MIN > 0 {
                    let sum = words[acts.tokens + t + i] as i32 / -128;
                    let sum = _mm256_set1_ps(sum as f32 * f32::from_bits(words[t + i]));
                    term = _mm256_add_ps(term, _mm256_mul_ps(min[h], sum));
                }
                sums[i][h] = _mm256_add_ps(sums[i][h], term);
            }
        }
    }
    store(&sums, &mut out[t..t + N]);
}

/// Dots of all kinds but IQ4_NL; `starts` are -128 times the sums of the codes.
#[inline]
#[target_feature(enable = "avx2")]
fn biased<const KIND: u8, const MIN: usize, const HIGH: usize, const N: usize>(
    block: &Block<KIND, MIN, HIGH>,
    codes: &[[u32; 8]; N],
    starts: &[u32],
) -> [Two; N] {
    let ones = _mm256_set1_epi16(1);
    let mut dots = [[_mm256_setzero_si256(); 2]; N];
    for i in 0..N {
        let start = starts[i] as i32 / 128 * Block::<KIND, MIN, HIGH>::BIAS;
        dots[i] = [_mm256_set1_epi32(start); 2];
    }
    let mut acc = [[_mm256_setzero_si256(); 2]; N];
    for b in 0..2 {
        let mut fifth = [_mm256_setzero_si256(); 2];
        if let Some(bits) = block.high.first() {
            fifth = two(bits);
            if b == 0 {
                fifth = left::<4>(fifth);
            }
        }
        for p in 0..2 {
            let both = two(&block.low[b][p]);
            for n in 0..2 {
                let mut w = if n == 0 { low(both) } else { upper(both) };
                if Block::<KIND, MIN, HIGH>::KIND.looks_up() {
                    w = looked_up(&Block::<KIND, MIN, HIGH>::TABLE, w);
                }
                if HIGH > 0 {
                    w = or(w, masked(fifth, 0x10));
                    fifth = right::<1>(fifth);
                }
                for i in 0..N {
                    let x = _mm256_set1_epi32(codes[i][4 * b + 2 * n + p] as i32);
                    for h in 0..2 {
                        acc[i][h] = _mm256_add_epi16(acc[i][h], _mm256_maddubs_epi16(w[h], x));
                    }
                }
            }
        }
        // Sixteen products of 15 * 127 fit into i16, and eight of 24 or 31 * 127.
        if b == 1 || HIGH > 0 || Block::<KIND, MIN, HIGH>::KIND == Kind::Mx {
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
fn by_sign<const KIND: u8, const MIN: usize, const HIGH: usize, const N: usize>(
    block: &Block<KIND, MIN, HIGH>,
    codes: &[[u32; 8]; N],
) -> [Two; N] {
    let ones = [_mm256_set1_epi16(1); 2];
    let mut dots = [[_mm256_setzero_si256(); 2]; N];
    for b in 0..2 {
        for p in 0..2 {
            let both = two(&block.low[b][p]);
            for n in 0..2 {
                let w = if n == 0 { low(both) } else { upper(both) };
                let mut x = [0; N];
                for i in 0..N {
                    x[i] = codes[i][4 * b + 2 * n + p] as i32;
                }
                add_signed(&mut dots, looked_up(&IQ4, w), &x, ones);
            }
        }
    }
    dots
}
