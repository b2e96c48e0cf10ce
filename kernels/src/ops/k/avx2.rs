//! AVX2: eight rows a register, two registers and four tokens at a time.
//!
//! Codes of K-quants have at most six bits, so `maddubs` does not saturate and its i16
//! sums can be added up over a sub-block before they meet their scale. The values of
//! IQ4_XS have eight: their pairs meet the scale one by one.

use super::{Act, Affine, Signed, Tile, Xs};
use crate::ops::avx2::*;
use crate::ops::dequant::IQ4;
use crate::ops::q8::ROWS;
use std::arch::x86_64::*;

/// Per 32-bit lane, the byte of that lane's row twice, each in the low or the high
/// half of a 16-bit number.
const fn spread(first: u8, high: bool) -> [u8; 32] {
    let mut out = [0x80; 32];
    let mut i = 0;
    while i < 16 {
        out[2 * i + high as usize] = first + i as u8 / 2;
        i += 1;
    }
    out
}
const LOW_HALF: [[u8; 32]; 2] = [spread(0, false), spread(8, false)];
const HIGH_HALF: [[u8; 32]; 2] = [spread(0, true), spread(8, true)];

/// See [`super::affine`].
///
/// # Safety
/// `acts.acts` holds `group.len() * acts.tokens` elements, `out` has `acts.tokens`.
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn affine<const HIGH: usize>(
    group: &[Affine<HIGH>],
    acts: Tile<'_>,
    out: &mut [[f32; ROWS]],
) {
    tokens_at_a_time!(affine_few, group, acts, out, HIGH);
}

/// See [`super::signed`].
///
/// # Safety
/// As for [`affine`].
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn signed(group: &[Signed], acts: Tile<'_>, out: &mut [[f32; ROWS]]) {
    tokens_at_a_time!(signed_few, group, acts, out);
}

/// See [`super::xs`].
///
/// # Safety
/// As for [`affine`].
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn xs(group: &[Xs], acts: Tile<'_>, out: &mut [[f32; ROWS]]) {
    tokens_at_a_time!(xs_few, group, acts, out);
}

/// # Safety
/// As for [`affine`], and `t + N <= acts.tokens`.
#[target_feature(enable = "avx2,f16c")]
unsafe fn affine_few<const HIGH: usize, const N: usize>(
    group: &[Affine<HIGH>],
    acts: Tile<'_>,
    t: usize,
    out: &mut [[f32; ROWS]],
) {
    let mut sums = [[_mm256_setzero_ps(); 2]; N];
    for (s, block) in group.iter().enumerate() {
        // SAFETY: `s` is below the number of blocks and `t + N <= tokens`.
        let act: &[Act; N] = unsafe { &*acts.acts.as_ptr().add(s * acts.tokens + t).cast() };
        let mut dots = [[_mm256_setzero_si256(); 2]; N];
        for j in 0..8 {
            if t == 0 {
                fetch(block, j, 8);
            }
            let mut acc = [[_mm256_setzero_si256(); 2]; N];
            let scale = [
                shuffled(&block.scale[j], &LOW_HALF[0]),
                shuffled(&block.scale[j], &LOW_HALF[1]),
            ];
            if HIGH == 0 {
                add_four(&mut acc, &block.low[2 * j], act, 8 * j);
                add_four(&mut acc, &block.low[2 * j + 1], act, 8 * j + 4);
                add_scaled(&mut dots, &acc, scale);
            } else {
                // Sixteen elements of five bits are as many as i16 can hold.
                let bits = two(&block.high[j]);
                add_five(&mut acc, &block.low[2 * j], bits, act, 8 * j);
                add_scaled(&mut dots, &acc, scale);
                acc = [[_mm256_setzero_si256(); 2]; N];
                add_five(
                    &mut acc,
                    &block.low[2 * j + 1],
                    right::<4>(bits),
                    act,
                    8 * j + 4,
                );
                add_scaled(&mut dots, &acc, scale);
            }
        }
        let d = halves(&block.d);
        let min = halves(&block.min);
        let m = minima(block, act);
        for i in 0..N {
            let s = _mm256_set1_ps(act[i].scale);
            for h in 0..2 {
                let up = _mm256_mul_ps(_mm256_cvtepi32_ps(dots[i][h]), _mm256_mul_ps(d[h], s));
                let down = _mm256_mul_ps(_mm256_cvtepi32_ps(m[i][h]), _mm256_mul_ps(min[h], s));
                sums[i][h] = _mm256_add_ps(sums[i][h], _mm256_sub_ps(up, down));
            }
        }
    }
    store(&sums, &mut out[t..t + N]);
}

/// # Safety
/// As for [`affine`], and `t + N <= acts.tokens`.
#[target_feature(enable = "avx2,f16c")]
unsafe fn signed_few<const N: usize>(
    group: &[Signed],
    acts: Tile<'_>,
    t: usize,
    out: &mut [[f32; ROWS]],
) {
    let mut sums = [[_mm256_setzero_ps(); 2]; N];
    for (s, block) in group.iter().enumerate() {
        // SAFETY: `s` is below the number of blocks and `t + N <= tokens`.
        let act: &[Act; N] = unsafe { &*acts.acts.as_ptr().add(s * acts.tokens + t).cast() };
        let mut dots = [[_mm256_setzero_si256(); 2]; N];
        for b in 0..16 {
            if t == 0 {
                fetch(block, b, 16);
            }
            // Sums may wrap on the way; what remains at the end is within i16.
            let mut acc = [[_mm256_setzero_si256(); 2]; N];
            for i in 0..N {
                acc[i] = [splat16(act[i].start[b]); 2];
            }
            let bits = two(&block.high[b]);
            let [a, c] = [two(&block.low[b][0]), two(&block.low[b][1])];
            add_products(&mut acc, sixth(low(a), left::<4>(bits)), act, 4 * b);
            add_products(&mut acc, sixth(low(c), left::<2>(bits)), act, 4 * b + 1);
            add_products(&mut acc, sixth(upper(a), bits), act, 4 * b + 2);
            add_products(&mut acc, sixth(upper(c), right::<2>(bits)), act, 4 * b + 3);
            add_scaled(&mut dots, &acc, signed_scale(&block.scale[b]));
        }
        add_terms(&mut sums, &dots, &block.d, act);
    }
    store(&sums, &mut out[t..t + N]);
}

/// # Safety
/// As for [`affine`], and `t + N <= acts.tokens`.
#[target_feature(enable = "avx2,f16c")]
unsafe fn xs_few<const N: usize>(group: &[Xs], acts: Tile<'_>, t: usize, out: &mut [[f32; ROWS]]) {
    let mut sums = [[_mm256_setzero_ps(); 2]; N];
    for (s, block) in group.iter().enumerate() {
        // SAFETY: `s` is below the number of blocks and `t + N <= tokens`.
        let act: &[Act; N] = unsafe { &*acts.acts.as_ptr().add(s * acts.tokens + t).cast() };
        let mut dots = [[_mm256_setzero_si256(); 2]; N];
        for b in 0..16 {
            if t == 0 {
                fetch(block, b, 16);
            }
            let scale = signed_scale(&block.scale[b / 2]);
            let [a, c] = [two(&block.low[b][0]), two(&block.low[b][1])];
            for (g, w) in [low(a), low(c), upper(a), upper(c)].into_iter().enumerate() {
                let mut x = [0; N];
                for i in 0..N {
                    x[i] = word(act[i].codes[4 * b + g]);
                }
                add_signed(&mut dots, looked_up(&IQ4, w), &x, scale);
            }
        }
        add_terms(&mut sums, &dots, &block.d, act);
    }
    store(&sums, &mut out[t..t + N]);
}

/// Scales of sixteen rows, each twice in a lane as i16.
#[inline]
#[target_feature(enable = "avx2")]
fn signed_scale(scale: &[i8; ROWS]) -> Two {
    [
        _mm256_srai_epi16::<8>(shuffled(scale, &HIGH_HALF[0])),
        _mm256_srai_epi16::<8>(shuffled(scale, &HIGH_HALF[1])),
    ]
}

/// One super-block's step in f32.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn add_terms<const N: usize>(
    sums: &mut [[__m256; 2]; N],
    dots: &[Two; N],
    d: &[u16; ROWS],
    act: &[Act; N],
) {
    let d = halves(d);
    for i in 0..N {
        let s = _mm256_set1_ps(act[i].scale);
        for h in 0..2 {
            let product = _mm256_mul_ps(_mm256_cvtepi32_ps(dots[i][h]), _mm256_mul_ps(d[h], s));
            sums[i][h] = _mm256_add_ps(sums[i][h], product);
        }
    }
}

/// A sub-block of sixteen codes of four bits.
#[inline]
#[target_feature(enable = "avx2")]
fn add_four<const N: usize>(acc: &mut [Two; N], w: &[[u8; 64]; 2], act: &[Act; N], at: usize) {
    let [a, c] = [two(&w[0]), two(&w[1])];
    add_products(acc, low(a), act, at);
    add_products(acc, low(c), act, at + 1);
    add_products(acc, upper(a), act, at + 2);
    add_products(acc, upper(c), act, at + 3);
}

/// A sub-block of sixteen codes of five bits, the fifth in bits 0 to 3 of `bits`.
#[inline]
#[target_feature(enable = "avx2")]
fn add_five<const N: usize>(
    acc: &mut [Two; N],
    w: &[[u8; 64]; 2],
    bits: Two,
    act: &[Act; N],
    at: usize,
) {
    let [a, c] = [two(&w[0]), two(&w[1])];
    add_products(acc, fifth(low(a), left::<4>(bits)), act, at);
    add_products(acc, fifth(low(c), left::<3>(bits)), act, at + 1);
    add_products(acc, fifth(upper(a), left::<2>(bits)), act, at + 2);
    add_products(acc, fifth(upper(c), left::<1>(bits)), act, at + 3);
}

fn word(codes: [i8; 4]) -> i32 {
    let [a, b, c, d] = codes;
    i32::from_ne_bytes([a as u8, b as u8, c as u8, d as u8])
}

/// `acc += w * x` of word `at` of each token, as pairs in i16.
#[inline]
#[target_feature(enable = "avx2")]
fn add_products<const N: usize>(acc: &mut [Two; N], w: Two, act: &[Act; N], at: usize) {
    for i in 0..N {
        let x = _mm256_set1_epi32(word(act[i].codes[at]));
        for h in 0..2 {
            acc[i][h] = _mm256_add_epi16(acc[i][h], _mm256_maddubs_epi16(w[h], x));
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn add_scaled<const N: usize>(dots: &mut [Two; N], acc: &[Two; N], scale: Two) {
    for i in 0..N {
        for h in 0..2 {
            dots[i][h] = _mm256_add_epi32(dots[i][h], _mm256_madd_epi16(acc[i][h], scale[h]));
        }
    }
}

/// Sum of the minima times the sums of their sub-blocks' codes.
#[inline]
#[target_feature(enable = "avx2")]
fn minima<const HIGH: usize, const N: usize>(block: &Affine<HIGH>, act: &[Act; N]) -> [Two; N] {
    let mut sums = [[_mm256_setzero_si256(); 2]; N];
    for (p, m) in block.m.iter().enumerate() {
        let m = two_of_16(m.as_flattened().as_chunks::<16>().0);
        for i in 0..N {
            let x = splat16(act[i].sums[p]);
            for h in 0..2 {
                sums[i][h] = _mm256_add_epi32(sums[i][h], _mm256_madd_epi16(m[h], x));
            }
        }
    }
    sums
}

/// `w` with bit 4 of `bits`.
#[inline]
#[target_feature(enable = "avx2")]
fn fifth(w: Two, bits: Two) -> Two {
    or(w, masked(bits, 0x10))
}

/// `w` with bits 4 and 5 of `bits`.
#[inline]
#[target_feature(enable = "avx2")]
fn sixth(w: Two, bits: Two) -> Two {
    or(w, masked(bits, 0x30))
}

#[inline]
#[target_feature(enable = "avx2")]
fn splat16(pair: [i16; 2]) -> __m256i {
    _mm256_set1_epi32(i32::from(pair[1]) << 16 | i32::from(pair[0] as u16))
}

/// Twice sixteen bytes, widened to i16.
#[inline]
#[target_feature(enable = "avx2")]
fn two_of_16(bytes: &[[u8; 16]]) -> Two {
    let mut out = [_mm256_setzero_si256(); 2];
    for h in 0..2 {
        // SAFETY: lifetime: borrowed. Bounds: sixteen bytes of an array of sixteen.
        // Alignment: the unaligned form is used.
        let bytes = unsafe { _mm_loadu_si128(bytes[h].as_ptr().cast()) };
        out[h] = _mm256_cvtepu8_epi16(bytes);
    }
    out
}

/// The sixteen bytes in both halves of a register, shuffled.
#[inline]
#[target_feature(enable = "avx2")]
fn shuffled<T: Byte>(bytes: &[T; 16], by: &[u8; 32]) -> __m256i {
    // SAFETY: lifetime: borrowed. Bounds: sixteen and 32 bytes of arrays of that many.
    // Alignment: the unaligned forms are used.
    unsafe {
        let bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128(bytes.as_ptr().cast()));
        _mm256_shuffle_epi8(bytes, _mm256_loadu_si256(by.as_ptr().cast()))
    }
}
