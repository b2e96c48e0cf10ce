//! AVX-512 F, BW, DQ, VL and VNNI.

use super::Wide;
use std::arch::x86_64::*;

/// The processor's own instructions.
pub(crate) struct Hardware;

/// One-line methods over one intrinsic each.
macro_rules! methods {
    ($($(<const $bits:ident: u32>)? $name:ident($($arg:ident: $ty:ty),*) $(-> $out:ty)? = $body:expr;)*) => {
        $(
            #[inline(always)]
            unsafe fn $name $(<const $bits: u32>)? ($($arg: $ty),*) $(-> $out)? {
                // SAFETY: the caller proves the features. Bounds: references are to
                // arrays of the size that is read or written; a prefetch may name any
                // address. Alignment: the unaligned forms are used.
                unsafe { $body }
            }
        )*
    };
}

impl Wide for Hardware {
    type Int = __m512i;
    type Float = __m512;

    methods! {
        zero() -> __m512i = _mm512_setzero_si512();
        zero_f32() -> __m512 = _mm512_setzero_ps();
        load(bytes: &[u8; 64]) -> __m512i = _mm512_loadu_si512(bytes.as_ptr().cast());
        load_quarter(bytes: &[u8; 16]) -> __m512i =
            _mm512_broadcast_i32x4(_mm_loadu_si128(bytes.as_ptr().cast()));
        splat(word: u32) -> __m512i = _mm512_set1_epi32(word as i32);
        splat_f32(x: f32) -> __m512 = _mm512_set1_ps(x);
        dot(acc: __m512i, unsigned: __m512i, signed: __m512i) -> __m512i =
            _mm512_dpbusd_epi32(acc, unsigned, signed);
        and(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512(a, b);
        or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        <const BITS: u32> right(a: __m512i) -> __m512i = _mm512_srli_epi16::<BITS>(a);
        <const BITS: u32> left(a: __m512i) -> __m512i = _mm512_slli_epi16::<BITS>(a);
        add(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        mul(a: __m512i, b: __m512i) -> __m512i = _mm512_mullo_epi32(a, b);
        mul_pairs(a: __m512i, b: __m512i) -> __m512i = _mm512_madd_epi16(a, b);
        look_up(table: __m512i, index: __m512i) -> __m512i = _mm512_shuffle_epi8(table, index);
        widen_u8(bytes: &[u8; 16]) -> __m512i =
            _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()));
        widen_i8(bytes: &[i8; 16]) -> __m512i =
            _mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()));
        widen_pairs(bytes: &[[u8; 2]; 16]) -> __m512i =
            _mm512_cvtepu8_epi16(_mm256_loadu_si256(bytes.as_ptr().cast()));
        half(bits: &[u16; 16]) -> __m512 =
            _mm512_cvtph_ps(_mm256_loadu_si256(bits.as_ptr().cast()));
        bf16(bits: &[u16; 16]) -> __m512 = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(
            _mm512_cvtepu16_epi32(_mm256_loadu_si256(bits.as_ptr().cast())),
        ));
        to_f32(a: __m512i) -> __m512 = _mm512_cvtepi32_ps(a);
        add_f32(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        sub_f32(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        mul_f32(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        store(a: __m512, to: &mut [f32; 16]) = _mm512_storeu_ps(to.as_mut_ptr(), a);
        prefetch(at: *const u8) = _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
}
