//! Elementary functions with the same bits everywhere: IEEE add, subtract,
//! multiply, divide and bit operations only, in the order written.
//!
//! `exp` (f32) serves softmax and activations; the f64 functions serve position
//! tables and sampling noise, where a few calls per token are made.

/// e^x in f32, within 2 ulp on [-87, 88]; 0 below -87, e^88 above 88; NaN for NaN.
/// Branch-free, so that loops over it become vector code.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts; the first (0.693359375, exactly) has few enough bits for
    // n * HI to be exact.
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    let small = x < -87.0;
    let x = if x > 88.0 { 88.0 } else { x };
    let x = if small { -87.0 } else { x };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN2_HI;
    let r = r - n * LN2_LO;
    // Taylor coefficients 1/7! to 1/2!: the remainder at |r| <= ln(2)/2 is below
    // 6e-9.
    let mut p = 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * (r * r) + r;
    p += 1.0;
    let power = rounded
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127)
        << 23;
    let y = p * f32::from_bits(power);
    if small { 0.0 } else { y }
}

/// x / (1 + e^-x).
#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// tanh(x) = 1 - 2 / (e^2x + 1), within 2e-7.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// GELU in its tanh form, within a few ulp of it: with
/// `u = sqrt(8/pi) (x + 0.044715 x^3)` it is `x / (1 + e^-u)`.
#[inline(always)]
pub(crate) fn gelu_tanh(x: f32) -> f32 {
    // sqrt(8/pi), and 0.044715 of it.
    let u = x * (1.595_769 + 0.071_354_814 * (x * x));
    x / (1.0 + exp(-u))
}

/// GELU in its exact form, `x * (1 + erf(x / sqrt 2)) / 2`, within 3e-7 of max(1, |x|):
/// erf by formula 7.1.26 of Abramowitz and Stegun.
#[inline(always)]
pub(crate) fn gelu_erf(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let mut p = 1.061_405_4;
    p = p * t - 1.453_152;
    p = p * t + 1.421_413_7;
    p = p * t - 0.284_496_74;
    p = p * t + 0.254_829_6;
    // Half of 1 - erf(z): the part of the bell beyond z.
    let tail = 0.5 * ((p * t) * exp(-(z * z)));
    if x < 0.0 { x * tail } else { x - x * tail }
}

/// The gate of gpt-oss: `g / (1 + e^(-1.702 g)) * (u + 1)` with g at most 7 and u
/// within ±7.
#[inline(always)]
pub(crate) fn swiglu_clamped(gate: f32, up: f32) -> f32 {
    let g = if gate > 7.0 { 7.0 } else { gate };
    let u = if up > 7.0 { 7.0 } else { up };
    let u = if u < -7.0 { -7.0 } else { u };
    (g / (1.0 + exp(-1.702 * g))) * (u + 1.0)
}

/// 1.5 * 2^52: adding it rounds an f64 to an integer.
const ROUND64: f64 = 6_755_399_441_055_744.0;
/// ln 2 and pi/2 in two parts each; the first parts end in zeros, so that products
/// with integers below 2^20 are exact (the split of fdlibm).
const LN2_HI: f64 = 6.931_471_803_691_238e-1;
const LN2_LO: f64 = 1.908_214_929_270_587_7e-10;
const PIO2_HI: f64 = 1.570_796_326_734_125_6;
const PIO2_LO: f64 = 6.077_100_506_506_192e-11;

/// e^x in f64 for |x| < 700, relative error below 1e-15.
pub(crate) fn exp64(x: f64) -> f64 {
    let n = (x * std::f64::consts::LOG2_E + ROUND64) - ROUND64;
    let r = (x - n * LN2_HI) - n * LN2_LO;
    let mut p = 1.0;
    let mut i = 14.0;
    while i > 0.0 {
        p = p * (r / i) + 1.0;
        i -= 1.0;
    }
    p * f64::from_bits(((n as i64 + 1023) as u64) << 52)
}

/// Natural logarithm of a positive, finite, normal f64; relative error below 1e-15.
pub(crate) fn ln64(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) as i64 - 1023) as f64;
    let mut m = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        exponent += 1.0;
    }
    // ln m = 2 atanh(s), |s| <= 0.172: fourteen odd terms.
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut p = 0.0;
    let mut i = 27.0;
    while i > 0.0 {
        p = p * z + 1.0 / i;
        i -= 2.0;
    }
    exponent * LN2_HI + (2.0 * s * p + exponent * LN2_LO)
}

/// (sin x, cos x) in f64 for 0 <= x < 2^20, absolute error below 1e-14.
pub(crate) fn sin_cos64(x: f64) -> (f64, f64) {
    let n = (x * std::f64::consts::FRAC_2_PI + ROUND64) - ROUND64;
    let r = (x - n * PIO2_HI) - n * PIO2_LO;
    let z = r * r;
    // Taylor: sin to r^17, cos to r^18, |r| <= pi/4.
    let (mut sin, mut cos) = (1.0, 1.0);
    let mut i = 16.0;
    while i > 0.0 {
        sin = 1.0 - sin * (z / (i * (i + 1.0)));
        i -= 2.0;
    }
    let mut i = 18.0;
    while i > 0.0 {
        cos = 1.0 - cos * (z / (i * (i - 1.0)));
        i -= 2.0;
    }
    let sin = sin * r;
    match (n as i64) & 3 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_stays_within_two_ulp_of_the_truth() {
        let mut worst = 0.0f64;
        for i in 0..2_000_000 {
            let x = -87.0 + 175.0 * (i as f32 / 2e6);
            let truth = f64::from(x).exp();
            let ulp = f64::from(f32::EPSILON) * truth / 2.0;
            worst = worst.max((f64::from(exp(x)) - truth).abs() / ulp);
        }
        assert!(worst <= 4.0, "{worst} half ulp");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-88.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), exp(88.0));
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn activations_stay_close_to_the_truth() {
        // erf(z) as its series, good to 1e-12 below 5.
        let erf = |z: f64| {
            let (mut term, mut sum) = (z, z);
            for n in 1..200 {
                term *= -z * z / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            sum * 2.0 / std::f64::consts::PI.sqrt()
        };
        for i in -60_000..=60_000 {
            let x = i as f32 / 9_000.0;
            let y = f64::from(x);
            let near = |found: f32, truth: f64, what: &str| {
                let error = (f64::from(found) - truth).abs();
                assert!(error < 4e-7 * y.abs().max(1.0), "{what}({x}): {error:e}");
            };
            near(tanh(x), y.tanh(), "tanh");
            let u = (2.0 / std::f64::consts::PI).sqrt() * (y + 0.044715 * y * y * y);
            near(gelu_tanh(x), 0.5 * y * (1.0 + u.tanh()), "gelu_tanh");
            let z = y / std::f64::consts::SQRT_2;
            near(gelu_erf(x), 0.5 * y * (1.0 + erf(z)), "gelu_erf");
        }
        assert_eq!((tanh(100.0), tanh(-100.0)), (1.0, -1.0));
        assert_eq!((gelu_tanh(50.0), gelu_erf(50.0)), (50.0, 50.0));
        assert_eq!(gelu_erf(-50.0), 0.0);
        assert_eq!(swiglu_clamped(9.0, 9.0), swiglu_clamped(7.0, 7.0));
        assert_eq!(swiglu_clamped(1.0, -9.0), swiglu_clamped(1.0, -7.0));
    }

    #[test]
    fn the_f64_functions_agree_with_the_system_library() {
        for i in 1..200_000 {
            let x = f64::from(i) * 0.003;
            let (sin, cos) = sin_cos64(x * 1000.0);
            assert!((sin - (x * 1000.0).sin()).abs() < 1e-13, "sin {x}");
            assert!((cos - (x * 1000.0).cos()).abs() < 1e-13, "cos {x}");
            assert!(
                (ln64(x) - x.ln()).abs() <= 1e-15 * x.ln().abs().max(1e-3),
                "ln {x}"
            );
            let y = x - 300.0;
            assert!((exp64(y) / y.exp() - 1.0).abs() < 1e-15, "exp {y}");
        }
    }

    #[test]
    fn golden_bits_do_not_change() {
        assert_eq!(exp(-1.0).to_bits(), GOLDEN_EXP);
        assert_eq!(sin_cos64(12345.0).0.to_bits(), 12345f64.sin().to_bits());
    }
    const GOLDEN_EXP: u32 = 0x3ebc_5ab2;
}
