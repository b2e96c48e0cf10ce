//! What each instruction does, by Intel's description, in plain Rust.

use super::Wide;
use crate::ops::dequant;
use crate::ops::half::widen_one;
use std::array::from_fn;

/// No instructions at all: safe to call everywhere.
pub(crate) struct Emulated;

type Bytes = [u8; 64];

fn words(a: Bytes) -> [i32; 16] {
    from_fn(|i| i32::from_le_bytes(from_fn(|j| a[4 * i + j])))
}

fn from_words(a: [i32; 16]) -> Bytes {
    from_fn(|i| a[i / 4].to_le_bytes()[i % 4])
}

fn shorts(a: Bytes) -> [i16; 32] {
    from_fn(|i| i16::from_le_bytes([a[2 * i], a[2 * i + 1]]))
}

fn from_shorts(a: [i16; 32]) -> Bytes {
    from_fn(|i| a[i / 2].to_le_bytes()[i % 2])
}

impl Wide for Emulated {
    type Int = Bytes;
    type Float = [f32; 16];

    unsafe fn zero() -> Bytes {
        [0; 64]
    }
    unsafe fn zero_f32() -> [f32; 16] {
        [0.0; 16]
    }
    unsafe fn load(bytes: &[u8; 64]) -> Bytes {
        *bytes
    }
    unsafe fn load_quarter(bytes: &[u8; 16]) -> Bytes {
        from_fn(|i| bytes[i % 16])
    }
    unsafe fn splat(word: u32) -> Bytes {
        from_words([word as i32; 16])
    }
    unsafe fn splat_f32(x: f32) -> [f32; 16] {
        [x; 16]
    }
    unsafe fn dot(acc: Bytes, unsigned: Bytes, signed: Bytes) -> Bytes {
        let product = |i: usize| i32::from(unsigned[i]) * i32::from(signed[i] as i8);
        let acc = words(acc);
        from_words(from_fn(|i| {
            acc[i].wrapping_add((4 * i..4 * i + 4).map(product).sum())
        }))
    }
    unsafe fn and(a: Bytes, b: Bytes) -> Bytes {
        from_fn(|i| a[i] & b[i])
    }
    unsafe fn or(a: Bytes, b: Bytes) -> Bytes {
        from_fn(|i| a[i] | b[i])
    }
    unsafe fn right<const BITS: u32>(a: Bytes) -> Bytes {
        from_shorts(shorts(a).map(|x| (x as u16 >> BITS) as i16))
    }
    unsafe fn left<const BITS: u32>(a: Bytes) -> Bytes {
        from_shorts(shorts(a).map(|x| x << BITS))
    }
    unsafe fn add(a: Bytes, b: Bytes) -> Bytes {
        let (a, b) = (words(a), words(b));
        from_words(from_fn(|i| a[i].wrapping_add(b[i])))
    }
    unsafe fn mul(a: Bytes, b: Bytes) -> Bytes {
        let (a, b) = (words(a), words(b));
        from_words(from_fn(|i| a[i].wrapping_mul(b[i])))
    }
    unsafe fn mul_pairs(a: Bytes, b: Bytes) -> Bytes {
        let (a, b) = (shorts(a).map(i32::from), shorts(b).map(i32::from));
        from_words(from_fn(|i| {
            (a[2 * i] * b[2 * i]).wrapping_add(a[2 * i + 1] * b[2 * i + 1])
        }))
    }
    unsafe fn look_up(table: Bytes, index: Bytes) -> Bytes {
        from_fn(|i| match index[i] {
            128.. => 0,
            at => table[i / 16 * 16 + usize::from(at % 16)],
        })
    }
    unsafe fn widen_u8(bytes: &[u8; 16]) -> Bytes {
        from_words(bytes.map(i32::from))
    }
    unsafe fn widen_i8(bytes: &[i8; 16]) -> Bytes {
        from_words(bytes.map(i32::from))
    }
    unsafe fn widen_pairs(bytes: &[[u8; 2]; 16]) -> Bytes {
        from_shorts(from_fn(|i| i16::from(bytes[i / 2][i % 2])))
    }
    unsafe fn half(bits: &[u16; 16]) -> [f32; 16] {
        bits.map(widen_one)
    }
    unsafe fn bf16(bits: &[u16; 16]) -> [f32; 16] {
        bits.map(dequant::bf16)
    }
    unsafe fn to_f32(a: Bytes) -> [f32; 16] {
        words(a).map(|x| x as f32)
    }
    unsafe fn add_f32(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] + b[i])
    }
    unsafe fn sub_f32(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] - b[i])
    }
    unsafe fn mul_f32(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] * b[i])
    }
    unsafe fn store(a: [f32; 16], to: &mut [f32; 16]) {
        *to = a;
    }
    unsafe fn prefetch(_: *const u8) {}
}
