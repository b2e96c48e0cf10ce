//! The operations of a transformer, with fixed bits.
//!
//! Every function here follows NUMERICS.md: the same bits for any thread count,
//! batch and instruction level. Loops are plain Rust compiled per level; integer
//! dots have intrinsics. Called by `model` and `bench`. `reference` (tests only)
//! holds the slow and obvious versions.

pub(crate) mod attention;
// As for `q8` below.
#[cfg(target_arch = "x86_64")]
#[allow(clippy::needless_range_loop)]
mod avx2;
pub(crate) mod buffer;
pub(crate) mod dequant;
pub(crate) mod float;
pub(crate) mod half;
// As for `q8` below.
#[allow(clippy::needless_range_loop)]
pub(crate) mod k;
pub(crate) mod linear;
pub(crate) mod math;
pub(crate) mod norm;
// As for `q8` below.
#[allow(clippy::needless_range_loop)]
pub(crate) mod q4;
// Fixed arrays indexed by constants stay in registers; iterators over them do not
// always.
#[allow(clippy::needless_range_loop)]
pub(crate) mod q8;
pub(crate) mod rope;
pub(crate) mod scaled;
pub(crate) mod weights;
#[cfg(any(test, target_arch = "x86_64"))]
pub(crate) mod wide;

#[cfg(test)]
pub(crate) mod reference;
#[cfg(test)]
mod tests;
