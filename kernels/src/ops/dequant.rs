//! From a file's bytes to f32, one row at a time, for every storage type we read.
//!
//! Exact: each element is the format's own formula, evaluated so that at most one
//! rounding occurs. Not fast: embeddings, small tensors and the oracle of the tests
//! come through here, matrices through `weights`. Called by `model` and the tests.
//! Layouts: ggml `ggml-common.h`; the values are held against those of the Python
//! package `gguf` by `vectors.json`.

pub(crate) mod k;

use super::half::widen_one;
use crate::gguf::TensorType;

/// The sixteen values of IQ4_NL and IQ4_XS (ggml `kvalues_iq4nl`).
pub(crate) const IQ4: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];
/// Twice the sixteen values of E2M1 (OCP Microscaling Formats 1.0, table 5).
pub(crate) const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Whether [`row`] reads this type.
pub(crate) fn reads(ty: TensorType) -> bool {
    decoder(ty).is_some()
}

/// The elements of whole blocks: `bytes` holds `out.len()` elements of `ty`. A type
/// that [`reads`] denies gives NaN, which nothing downstream accepts.
pub(crate) fn row(ty: TensorType, bytes: &[u8], out: &mut [f32]) {
    let (len, size) = (ty.block_len() as usize, ty.block_bytes() as usize);
    let Some(decode) = decoder(ty) else {
        return out.fill(f32::NAN);
    };
    for (bytes, out) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(len)) {
        decode(bytes, out);
    }
}

type Decoder = fn(&[u8], &mut [f32]);

fn decoder(ty: TensorType) -> Option<Decoder> {
    Some(match ty {
        TensorType::F32 => |b, out| out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        TensorType::F16 => |b, out| out[0] = half(b, 0),
        TensorType::BF16 => |b, out| out[0] = bf16(u16::from_le_bytes([b[0], b[1]])),
        TensorType::Q8_0 => |b, out| {
            let d = half(b, 0);
            each(out, |i| d * f32::from(b[2 + i] as i8));
        },
        TensorType::Q4_0 => |b, out| {
            let d = half(b, 0);
            each(out, |i| d * (f32::from(nibble(&b[2..], i)) - 8.0));
        },
        TensorType::Q4_1 => |b, out| {
            let (d, m) = (half(b, 0), half(b, 2));
            each(out, |i| d * f32::from(nibble(&b[4..], i)) + m);
        },
        TensorType::Q5_0 => |b, out| {
            let d = half(b, 0);
            each(out, |i| d * (f32::from(five(&b[2..], i)) - 16.0));
        },
        TensorType::Q5_1 => |b, out| {
            let (d, m) = (half(b, 0), half(b, 2));
            each(out, |i| d * f32::from(five(&b[4..], i)) + m);
        },
        TensorType::IQ4_NL => |b, out| {
            let d = half(b, 0);
            each(out, |i| d * f32::from(IQ4[usize::from(nibble(&b[2..], i))]));
        },
        TensorType::MXFP4 => |b, out| {
            let d = bf16(exponent(b[0]));
            each(out, |i| {
                d * f32::from(E2M1_DOUBLED[usize::from(nibble(&b[1..], i))])
            });
        },
        TensorType::Q2_K => k::q2,
        TensorType::Q3_K => k::q3,
        TensorType::Q4_K => k::q4,
        TensorType::Q5_K => k::q5,
        TensorType::Q6_K => k::q6,
        TensorType::IQ4_XS => k::iq4_xs,
        _ => return None,
    })
}

/// Half of the scale 2^(e - 127) of an MXFP4 block, as bf16 bits: exact, denormal for
/// the two least exponents, NaN for the greatest, which the format does not use.
pub(crate) fn exponent(e: u8) -> u16 {
    match e {
        0 => 0x20,
        1 => 0x40,
        255 => 0x7fc0,
        _ => (u16::from(e) - 1) << 7,
    }
}

/// bf16 to f32, exact.
pub(crate) fn bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The f16 at a byte of a block, as f32.
pub(crate) fn half(b: &[u8], at: usize) -> f32 {
    widen_one(u16::from_le_bytes([b[at], b[at + 1]]))
}

/// Code `i` of 32 four-bit codes: low halves first.
pub(crate) fn nibble(codes: &[u8], i: usize) -> u8 {
    match i {
        0..16 => codes[i] & 15,
        _ => codes[i - 16] >> 4,
    }
}

/// Code `i` of 32 five-bit codes: four bytes of fifth bits, then the nibbles.
pub(crate) fn five(codes: &[u8], i: usize) -> u8 {
    nibble(&codes[4..], i) | (codes[i / 8] >> (i % 8) & 1) << 4
}

fn each(out: &mut [f32], value: impl Fn(usize) -> f32) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = value(i);
    }
}

#[cfg(test)]
mod tests;
