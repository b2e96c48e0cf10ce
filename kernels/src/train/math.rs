//! Elementary functions and reductions with fixed roundings.
//!
//! Only IEEE additions, multiplications, divisions and square roots are used, each rounded
//! once, so the results are the same bits on every machine and at every SIMD level. The
//! functions are accurate to a few ulp over the ranges that training needs; they are not
//! replacements for libm. Called by the rest of [`crate::train`].

/// 2^23 + 2^22: adding and subtracting it rounds an f32 below 2^22 to the nearest integer, ties to even.
const ROUND: f32 = 12_582_912.0;

/// e^x. Arguments are clamped to [-87, 88], where the result is a normal f32.
/// Within 3 ulp.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    // ln 2 in two parts, so that n * HI is exact.
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 0.166_666_65;
    p = p * r + 0.5;
    let y = (p * r) * r + r + 1.0;
    y * f32::from_bits((((n as i32) + 127) as u32) << 23)
}

/// Natural logarithm of a positive normal f32. Within 4 ulp for results away from zero.
pub fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    let mut e = ((bits >> 23) as i32) - 127;
    let mut m = f32::from_bits((bits & 0x007f_ffff) | 0x3f80_0000);
    if m > std::f32::consts::SQRT_2 {
        m *= 0.5;
        e += 1;
    }
    // ln m = 2 artanh s with s = (m - 1) / (m + 1), |s| < 0.172.
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut p = 2.0 / 11.0;
    p = p * z + 2.0 / 9.0;
    p = p * z + 2.0 / 7.0;
    p = p * z + 2.0 / 5.0;
    p = p * z + 2.0 / 3.0;
    let e = e as f32;
    e * 0.693_359_4 + ((2.0 * s + (p * z) * s) + e * -2.121_944_4e-4)
}

/// (sin x, cos x) for |x| up to a few thousand radians; absolute error below 1e-6 up to 1,024.
pub fn sin_cos(x: f32) -> (f32, f32) {
    let n = (x * std::f32::consts::FRAC_2_PI + ROUND) - ROUND;
    // pi/2 in three parts; the first two have few enough bits that their products are exact.
    let r = ((x - n * 1.570_312_5) - n * 4.837_513e-4) - n * 7.549_79e-8;
    let z = r * r;
    let s = ((-1.951_529_6e-4 * z + 8.332_161e-3) * z - 0.166_666_55) * z * r + r;
    let c = ((2.443_315_7e-5 * z - 1.388_731_6e-3) * z + 4.166_664_6e-2) * z * z - 0.5 * z + 1.0;
    match (n as i32) & 3 {
        0 => (s, c),
        1 => (c, -s),
        2 => (-s, -c),
        _ => (-c, s),
    }
}

/// Adds sixteen partial sums by halving: lane i takes lane i + 8, then i + 4, i + 2, i + 1.
#[inline(always)]
pub fn tree16(mut p: [f32; 16]) -> f32 {
    let mut half = 8;
    while half > 0 {
        for i in 0..half {
            p[i] += p[i + half];
        }
        half /= 2;
    }
    p[0]
}

/// Dot product of two slices of equal length: element i goes to partial sum i mod 16, in
/// ascending order, then [`tree16`].
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut p = [0.0f32; 16];
    for (x, y) in a.chunks(16).zip(b.chunks(16)) {
        for ((p, &x), &y) in p.iter_mut().zip(x).zip(y) {
            *p += x * y;
        }
    }
    tree16(p)
}

/// Sum of a slice in the order of [`dot`].
pub fn sum(a: &[f32]) -> f32 {
    let mut p = [0.0f32; 16];
    for x in a.chunks(16) {
        for (p, &x) in p.iter_mut().zip(x) {
            *p += x;
        }
    }
    tree16(p)
}

/// Replaces logits by probabilities and returns ln of the sum of e^logit. The maximum is
/// subtracted first; the sum runs in the order of [`sum`].
pub fn softmax(row: &mut [f32]) -> f32 {
    let max = row
        .iter()
        .fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
    for x in row.iter_mut() {
        *x = exp(*x - max);
    }
    let total = sum(row);
    let inv = 1.0 / total;
    for x in row.iter_mut() {
        *x *= inv;
    }
    max + ln(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_ln_stay_close_to_the_exact_values() {
        for i in -8000..8000 {
            let x = i as f32 * 0.01;
            let want = (x as f64).exp();
            assert!(((exp(x) as f64 - want) / want).abs() < 5e-7, "exp {x}");
            let y = (i + 8001) as f32 * 0.37;
            assert!((ln(y) as f64 - (y as f64).ln()).abs() < 2e-6, "ln {y}");
        }
    }

    #[test]
    fn sine_and_cosine_stay_close_to_the_exact_values() {
        for i in 0..40_000 {
            let x = i as f32 * 0.0317;
            let (s, c) = sin_cos(x);
            assert!((s as f64 - (x as f64).sin()).abs() < 2e-6, "sin {x}");
            assert!((c as f64 - (x as f64).cos()).abs() < 2e-6, "cos {x}");
        }
    }

    #[test]
    fn a_softmax_sums_to_one_and_returns_the_log_of_the_sum() {
        let mut row: Vec<f32> = (0..100).map(|i| (i % 7) as f32).collect();
        let want = row.iter().map(|&x| (x as f64).exp()).sum::<f64>().ln();
        let got = softmax(&mut row);
        assert!((got as f64 - want).abs() < 1e-5);
        assert!((sum(&row) - 1.0).abs() < 1e-5);
    }
}
