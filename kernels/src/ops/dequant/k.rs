//! The super-blocks of 256 elements.

use super::{IQ4, each, half};

/// Scale and minimum of sub-block `j`, six bits each, from the twelve bytes of Q4_K
/// and Q5_K.
pub(crate) fn scale_min(s: &[u8], j: usize) -> (u8, u8) {
    match j {
        0..4 => (s[j] & 63, s[j + 4] & 63),
        _ => (
            s[j + 4] & 15 | s[j - 4] >> 6 << 4,
            s[j + 4] >> 4 | s[j] >> 6 << 4,
        ),
    }
}

/// Four-bit code `i` of Q4_K and Q5_K: 32 low halves, 32 high halves, four times.
pub(crate) fn q4_code(codes: &[u8], i: usize) -> u8 {
    let byte = codes[i / 64 * 32 + i % 32];
    if (i / 32).is_multiple_of(2) {
        byte & 15
    } else {
        byte >> 4
    }
}

/// Code `i` of a Q5_K block, five bits.
pub(crate) fn q5_code(b: &[u8], i: usize) -> u8 {
    q4_code(&b[48..], i) | (b[16 + i % 32] >> (i / 32) & 1) << 4
}

/// Code `i` of a Q6_K block, 0 to 63.
pub(crate) fn q6_code(b: &[u8], i: usize) -> u8 {
    let (half, i) = (i / 128, i % 128);
    let low = b[half * 64 + i % 64];
    let low = if i < 64 { low & 15 } else { low >> 4 };
    let high = b[128 + half * 32 + i % 32] >> (i / 32 * 2) & 3;
    low | high << 4
}

/// Scale of sub-block `j` of an IQ4_XS block, -32 to 31.
pub(crate) fn iq4_xs_scale(b: &[u8], j: usize) -> i8 {
    let high = u16::from_le_bytes([b[2], b[3]]) >> (2 * j) & 3;
    let low = b[4 + j / 2] >> (4 * (j % 2)) & 15;
    (low | (high as u8) << 4) as i8 - 32
}

/// Code `i` of an IQ4_XS block: per 32 elements, low halves first.
pub(crate) fn iq4_xs_code(b: &[u8], i: usize) -> u8 {
    super::nibble(&b[8 + i / 32 * 16..], i % 32)
}

/// Factor and offset of sub-block `j` of sixteen of a Q2_K block.
pub(crate) fn q2_scale(b: &[u8], j: usize) -> (f32, f32) {
    let (d, min) = (half(b, 80), half(b, 82));
    (d * f32::from(b[j] & 15), -(min * f32::from(b[j] >> 4)))
}

/// Code `i` of a Q2_K block, 0 to 3.
pub(crate) fn q2_code(b: &[u8], i: usize) -> u8 {
    b[16 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
}

/// Factor of sub-block `j` of sixteen of a Q3_K block.
pub(crate) fn q3_scale(b: &[u8], j: usize) -> f32 {
    let s = &b[96..108];
    let four = if j < 8 { s[j] & 15 } else { s[j - 8] >> 4 };
    let two = s[8 + j % 4] >> (j / 4 * 2) & 3;
    half(b, 108) * f32::from((four | two << 4) as i8 - 32)
}

/// Code `i` of a Q3_K block, -4 to 3.
pub(crate) fn q3_code(b: &[u8], i: usize) -> i8 {
    let (high, low) = (&b[..32], &b[32..96]);
    let q = low[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
    let low = if high[i % 32] >> (i / 32) & 1 == 0 {
        4
    } else {
        0
    };
    q as i8 - low
}

pub(super) fn q2(b: &[u8], out: &mut [f32]) {
    let scales: [(f32, f32); 16] = std::array::from_fn(|j| q2_scale(b, j));
    each(out, |i| {
        let (factor, offset) = scales[i / 16];
        factor * f32::from(q2_code(b, i)) + offset
    });
}

pub(super) fn q3(b: &[u8], out: &mut [f32]) {
    let scales: [f32; 16] = std::array::from_fn(|j| q3_scale(b, j));
    each(out, |i| scales[i / 16] * f32::from(q3_code(b, i)));
}

pub(super) fn q4(b: &[u8], out: &mut [f32]) {
    with_min(b, out, |i| q4_code(&b[16..], i));
}

pub(super) fn q5(b: &[u8], out: &mut [f32]) {
    with_min(b, out, |i| q5_code(b, i));
}

fn with_min(b: &[u8], out: &mut [f32], code: impl Fn(usize) -> u8) {
    let (d, min) = (half(b, 0), half(b, 2));
    each(out, |i| {
        let (scale, m) = scale_min(&b[4..16], i / 32);
        d * f32::from(scale) * f32::from(code(i)) - min * f32::from(m)
    });
}

pub(super) fn q6(b: &[u8], out: &mut [f32]) {
    let d = half(b, 208);
    each(out, |i| {
        let scale = f32::from(b[192 + i / 16] as i8);
        d * scale * (f32::from(q6_code(b, i)) - 32.0)
    });
}

pub(super) fn iq4_xs(b: &[u8], out: &mut [f32]) {
    let d = half(b, 0);
    each(out, |i| {
        let scale = f32::from(iq4_xs_scale(b, i / 32));
        d * scale * f32::from(IQ4[usize::from(iq4_xs_code(b, i))])
    });
}
