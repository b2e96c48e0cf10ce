//! Sixteen 32-bit lanes: the few operations from which the 512-bit kernels are made.
//!
//! The kernels are written once over [`Wide`]. [`Hardware`] is AVX-512; `Emulated`
//! (tests only) states what each instruction does, so that the very same kernels
//! are checked bit for bit on machines without it.

#[cfg(target_arch = "x86_64")]
mod hardware;
#[cfg(target_arch = "x86_64")]
pub(crate) use hardware::Hardware;

#[cfg(test)]
mod emulated;
#[cfg(test)]
pub(crate) use emulated::Emulated;

/// A register as integers (512 bits) and as sixteen f32.
///
/// # Safety
/// Every method needs the processor to have the implementor's instructions. The
/// kernels over it are `#[inline(always)]` and called from functions that enable
/// them.
pub(crate) trait Wide {
    type Int: Copy;
    type Float: Copy;

    /// All zero.
    unsafe fn zero() -> Self::Int;
    /// All +0.
    unsafe fn zero_f32() -> Self::Float;
    /// 64 bytes.
    unsafe fn load(bytes: &[u8; 64]) -> Self::Int;
    /// Sixteen bytes in each quarter.
    unsafe fn load_quarter(bytes: &[u8; 16]) -> Self::Int;
    /// A word in every lane.
    unsafe fn splat(word: u32) -> Self::Int;
    /// A number in every lane.
    unsafe fn splat_f32(x: f32) -> Self::Float;
    /// Per lane: `acc` plus four unsigned bytes times four signed ones (`vpdpbusd`).
    unsafe fn dot(acc: Self::Int, unsigned: Self::Int, signed: Self::Int) -> Self::Int;
    /// Bits in both.
    unsafe fn and(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Bits in either.
    unsafe fn or(a: Self::Int, b: Self::Int) -> Self::Int;
    /// 16-bit lanes shifted to the right by `BITS` (zeros come in).
    unsafe fn right<const BITS: u32>(a: Self::Int) -> Self::Int;
    /// 16-bit lanes shifted to the left by `BITS`.
    unsafe fn left<const BITS: u32>(a: Self::Int) -> Self::Int;
    /// 32-bit lanes: a + b.
    unsafe fn add(a: Self::Int, b: Self::Int) -> Self::Int;
    /// 32-bit lanes: the low half of a * b.
    unsafe fn mul(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Per lane: the sum of two products of i16 (`vpmaddwd`).
    unsafe fn mul_pairs(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Per quarter: the byte of `table` that each byte of `index` (below 16) names.
    unsafe fn look_up(table: Self::Int, index: Self::Int) -> Self::Int;
    /// u8 to the 32-bit lanes.
    unsafe fn widen_u8(bytes: &[u8; 16]) -> Self::Int;
    /// i8 to the 32-bit lanes.
    unsafe fn widen_i8(bytes: &[i8; 16]) -> Self::Int;
    /// Pairs of u8 to pairs of 16-bit lanes.
    unsafe fn widen_pairs(bytes: &[[u8; 2]; 16]) -> Self::Int;
    /// f16 to f32.
    unsafe fn half(bits: &[u16; 16]) -> Self::Float;
    /// bf16 to f32.
    unsafe fn bf16(bits: &[u16; 16]) -> Self::Float;
    /// i32 to f32, rounded to nearest even.
    unsafe fn to_f32(a: Self::Int) -> Self::Float;
    /// a + b.
    unsafe fn add_f32(a: Self::Float, b: Self::Float) -> Self::Float;
    /// a - b.
    unsafe fn sub_f32(a: Self::Float, b: Self::Float) -> Self::Float;
    /// a * b.
    unsafe fn mul_f32(a: Self::Float, b: Self::Float) -> Self::Float;
    /// Into memory.
    unsafe fn store(a: Self::Float, to: &mut [f32; 16]);
    /// Ask for the cache line at this address, which need not exist.
    unsafe fn prefetch(at: *const u8);
}

/// Call the body with the number of tokens as a constant.
macro_rules! by_tokens {
    ($tokens:expr, $n:ident => $call:expr) => {
        $crate::ops::wide::by_tokens!(@ $tokens, $n => $call, 1 2 3 4 5 6 7 8)
    };
    (@ $tokens:expr, $n:ident => $call:expr, $($k:literal)*) => {
        // SAFETY: as for the caller; the constant is the number of tokens, so that
        // `group.len() * N` elements are in `acts` and `N` in `out`.
        unsafe {
            match $tokens {
                $($k => { const $n: usize = $k; $call })*
                _ => {}
            }
        }
    };
}
pub(crate) use by_tokens;
