//! f16 to f32 and back. Both directions are exact or rounded to nearest even, in
//! hardware and here alike.

use crate::cpu::Simd;
use ::half::f16;

/// Largest finite f16.
const MAX: f32 = 65504.0;

/// f32 to f16, round to nearest even, clamped to the finite range (NaN stays NaN).
pub(crate) fn narrow(x: f32) -> u16 {
    let x = if x > MAX { MAX } else { x };
    let x = if x < -MAX { -MAX } else { x };
    f16::from_f32(x).to_bits()
}

/// f16 to f32, exact.
pub(crate) fn widen_one(x: u16) -> f32 {
    f16::from_bits(x).to_f32()
}

/// f16 to f32, exact, for a slice. Both slices have the same length.
pub(crate) fn widen(simd: Simd, from: &[u16], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    #[cfg(target_arch = "x86_64")]
    if simd.level() >= crate::cpu::SimdLevel::Avx2 {
        // SAFETY: the level proves AVX2 and F16C; lengths were compared above.
        return unsafe { widen_avx2(from, to) };
    }
    let _ = simd;
    from.iter().zip(to).for_each(|(x, y)| *y = widen_one(*x));
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn widen_avx2(from: &[u16], to: &mut [f32]) {
    use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
    let (from, from_tail) = from.as_chunks::<8>();
    let (to, to_tail) = to.as_chunks_mut::<8>();
    for (x, y) in from.iter().zip(to) {
        // SAFETY: lifetime: both are borrowed arrays of eight. Bounds: 16 bytes read,
        // 32 written. Alignment: the unaligned forms are used.
        unsafe {
            let half = _mm_loadu_si128(x.as_ptr().cast());
            _mm256_storeu_ps(y.as_mut_ptr(), _mm256_cvtph_ps(half));
        }
    }
    from_tail
        .iter()
        .zip(to_tail)
        .for_each(|(x, y)| *y = widen_one(*x));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_widens_to_the_same_bits_at_every_level() {
        let all: Vec<u16> = (0..=u16::MAX)
            .filter(|x| !f16::from_bits(*x).is_nan())
            .collect();
        let mut fast = vec![0.0; all.len()];
        widen(Simd::detect(), &all, &mut fast);
        for (x, y) in all.iter().zip(fast) {
            assert_eq!(widen_one(*x).to_bits(), y.to_bits());
            if f16::from_bits(*x).is_finite() {
                assert_eq!(narrow(y), *x);
            }
        }
        assert_eq!(narrow(1e9), f16::MAX.to_bits());
        assert_eq!(narrow(f32::NEG_INFINITY), f16::MIN.to_bits());
    }
}
