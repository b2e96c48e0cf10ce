//! AVX-512 VNNI: sixteen rows a register, up to eight tokens at a time.
//!
//! Written over [`Wide`], so that it is checked without the hardware, too.

use super::{Act, Affine, Signed, Tile, Xs};
use crate::ops::dequant::IQ4;
use crate::ops::q8::ROWS;
use crate::ops::wide::{Wide, by_tokens};

/// How far ahead of the weights in use to fetch: far enough for memory latency at
/// the rate of one core, near enough to stay in the first-level cache.
const AHEAD: usize = 4096;

/// [`affine`] on the processor's instructions.
///
/// # Safety
/// The processor has them.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn affine_hardware<const HIGH: usize>(
    group: &[Affine<HIGH>],
    acts: Tile<'_>,
    out: &mut [[f32; ROWS]],
) {
    // SAFETY: this function's features are the instructions.
    unsafe { affine::<crate::ops::wide::Hardware, HIGH>(group, acts, out) }
}

/// [`signed`] on the processor's instructions.
///
/// # Safety
/// The processor has them.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn signed_hardware(group: &[Signed], acts: Tile<'_>, out: &mut [[f32; ROWS]]) {
    // SAFETY: this function's features are the instructions.
    unsafe { signed::<crate::ops::wide::Hardware>(group, acts, out) }
}

/// [`xs`] on the processor's instructions.
///
/// # Safety
/// The processor has them.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn xs_hardware(group: &[Xs], acts: Tile<'_>, out: &mut [[f32; ROWS]]) {
    // SAFETY: this function's features are the instructions.
    unsafe { xs::<crate::ops::wide::Hardware>(group, acts, out) }
}

/// See [`super::affine`].
///
/// # Safety
/// The processor has the instructions of `W`.
#[inline(always)]
pub(super) unsafe fn affine<W: Wide, const HIGH: usize>(
    group: &[Affine<HIGH>],
    acts: Tile<'_>,
    out: &mut [[f32; ROWS]],
) {
    by_tokens!(acts.tokens, N => affine_all::<W, N, HIGH>(group, acts.acts, out));
}

/// See [`super::signed`].
///
/// # Safety
/// The processor has the instructions of `W`.
#[inline(always)]
pub(super) unsafe fn signed<W: Wide>(group: &[Signed], acts: Tile<'_>, out: &mut [[f32; ROWS]]) {
    by_tokens!(acts.tokens, N => signed_all::<W, N>(group, acts.acts, out));
}

/// See [`super::xs`].
///
/// # Safety
/// The processor has the instructions of `W`.
#[inline(always)]
pub(super) unsafe fn xs<W: Wide>(group: &[Xs], acts: Tile<'_>, out: &mut [[f32; ROWS]]) {
    by_tokens!(acts.tokens, N => xs_all::<W, N>(group, acts.acts, out));
}

/// # Safety
/// As for [`affine`], with `N` tokens.
#[inline(always)]
unsafe fn affine_all<W: Wide, const N: usize, const HIGH: usize>(
    group: &[Affine<HIGH>],
    acts: &[Act],
    out: &mut [[f32; ROWS]],
) {
    let acts = acts.as_chunks::<N>().0;
    // SAFETY: the caller proves the instructions.
    unsafe {
        let mut sums = [W::zero_f32(); N];
        for (block, act) in group.iter().zip(acts) {
            if N == 1 {
                fetch::<W, _>(block);
            }
            let mut dots = [W::zero(); N];
            let mut minima = [W::zero(); N];
            for j in 0..8 {
                let mut acc = [W::zero(); N];
                for b in 2 * j..2 * j + 2 {
                    let mut w = quarters::<W>(&block.low[b]);
                    if HIGH > 0 {
                        let bits = W::load(&block.high[j]);
                        let bits = if b % 2 == 0 {
                            bits
                        } else {
                            W::right::<4>(bits)
                        };
                        w[0] = or_masked::<W>(w[0], W::left::<4>(bits), 0x1010_1010);
                        w[1] = or_masked::<W>(w[1], W::left::<3>(bits), 0x1010_1010);
                        w[2] = or_masked::<W>(w[2], W::left::<2>(bits), 0x1010_1010);
                        w[3] = or_masked::<W>(w[3], W::left::<1>(bits), 0x1010_1010);
                    }
                    for g in 0..4 {
                        add_products::<W, N>(&mut acc, w[g], act, 4 * b + g);
                    }
                }
                let scale = W::widen_u8(&block.scale[j]);
                for i in 0..N {
                    dots[i] = W::add(dots[i], W::mul(acc[i], scale));
                }
            }
            for p in 0..4 {
                let m = W::widen_pairs(&block.m[p]);
                for i in 0..N {
                    let x = W::splat(pair(act[i].sums[p]));
                    minima[i] = W::add(minima[i], W::mul_pairs(m, x));
                }
            }
            let (d, min) = (W::half(&block.d), W::half(&block.min));
            for i in 0..N {
                let s = W::splat_f32(act[i].scale);
                let up = W::mul_f32(W::to_f32(dots[i]), W::mul_f32(d, s));
                let down = W::mul_f32(W::to_f32(minima[i]), W::mul_f32(min, s));
                sums[i] = W::add_f32(sums[i], W::sub_f32(up, down));
            }
        }
        for i in 0..N {
            W::store(sums[i], &mut out[i]);
        }
    }
}

/// # Safety
/// As for [`affine`], with `N` tokens.
#[inline(always)]
unsafe fn signed_all<W: Wide, const N: usize>(
    group: &[Signed],
    acts: &[Act],
    out: &mut [[f32; ROWS]],
) {
    let acts = acts.as_chunks::<N>().0;
    // SAFETY: the caller proves the instructions.
    unsafe {
        let mut sums = [W::zero_f32(); N];
        for (block, act) in group.iter().zip(acts) {
            if N == 1 {
                fetch::<W, _>(block);
            }
            let mut dots = [W::zero(); N];
            for b in 0..16 {
                let mut acc = [W::zero(); N];
                for i in 0..N {
                    let start = W::splat(pair(act[i].start[b]));
                    acc[i] = W::mul_pairs(start, W::splat(0x0001_0001));
                }
                let bits = W::load(&block.high[b]);
                let mut w = quarters::<W>(&block.low[b]);
                w[0] = or_masked::<W>(w[0], W::left::<4>(bits), 0x3030_3030);
                w[1] = or_masked::<W>(w[1], W::left::<2>(bits), 0x3030_3030);
                w[2] = or_masked::<W>(w[2], bits, 0x3030_3030);
                w[3] = or_masked::<W>(w[3], W::right::<2>(bits), 0x3030_3030);
                for g in 0..4 {
                    add_products::<W, N>(&mut acc, w[g], act, 4 * b + g);
                }
                let scale = W::widen_i8(&block.scale[b]);
                for i in 0..N {
                    dots[i] = W::add(dots[i], W::mul(acc[i], scale));
                }
            }
            add_terms::<W, N>(&mut sums, &dots, &block.d, act);
        }
        for i in 0..N {
            W::store(sums[i], &mut out[i]);
        }
    }
}

/// The values of IQ4_XS plus 128.
const TABLE: [u8; 16] = {
    let mut table = [0; 16];
    let mut code = 0;
    while code < 16 {
        table[code] = (IQ4[code] as i32 + 128) as u8;
        code += 1;
    }
    table
};

/// # Safety
/// As for [`affine`], with `N` tokens.
#[inline(always)]
unsafe fn xs_all<W: Wide, const N: usize>(group: &[Xs], acts: &[Act], out: &mut [[f32; ROWS]]) {
    let acts = acts.as_chunks::<N>().0;
    // SAFETY: the caller proves the instructions.
    unsafe {
        let table = W::load_quarter(&TABLE);
        let mut sums = [W::zero_f32(); N];
        for (block, act) in group.iter().zip(acts) {
            if N == 1 {
                fetch::<W, _>(block);
            }
            let mut dots = [W::zero(); N];
            for j in 0..8 {
                // The table's 128 is undone beforehand.
                let mut acc = [W::zero(); N];
                for i in 0..N {
                    acc[i] = W::splat((-128 * i32::from(act[i].sums[j / 2][j % 2])) as u32);
                }
                for b in 2 * j..2 * j + 2 {
                    let w = quarters::<W>(&block.low[b]);
                    for g in 0..4 {
                        let w = W::look_up(table, w[g]);
                        add_products::<W, N>(&mut acc, w, act, 4 * b + g);
                    }
                }
                let scale = W::widen_i8(&block.scale[j]);
                for i in 0..N {
                    dots[i] = W::add(dots[i], W::mul(acc[i], scale));
                }
            }
            add_terms::<W, N>(&mut sums, &dots, &block.d, act);
        }
        for i in 0..N {
            W::store(sums[i], &mut out[i]);
        }
    }
}

/// One super-block's step in f32.
#[inline(always)]
unsafe fn add_terms<W: Wide, const N: usize>(
    sums: &mut [W::Float; N],
    dots: &[W::Int; N],
    d: &[u16; ROWS],
    act: &[Act; N],
) {
    // SAFETY: the caller proves the instructions.
    unsafe {
        let d = W::half(d);
        for i in 0..N {
            let s = W::splat_f32(act[i].scale);
            let product = W::mul_f32(W::to_f32(dots[i]), W::mul_f32(d, s));
            sums[i] = W::add_f32(sums[i], product);
        }
    }
}

#[inline(always)]
unsafe fn add_products<W: Wide, const N: usize>(
    acc: &mut [W::Int; N],
    w: W::Int,
    act: &[Act; N],
    at: usize,
) {
    for i in 0..N {
        // SAFETY: the caller proves the instructions.
        unsafe {
            let x = W::splat(u32::from_ne_bytes(act[i].codes[at].map(|c| c as u8)));
            acc[i] = W::dot(acc[i], w, x);
        }
    }
}

/// The four-bit parts of a sub-block of sixteen, four elements of each row at a time.
#[inline(always)]
unsafe fn quarters<W: Wide>(low: &[[u8; 64]; 2]) -> [W::Int; 4] {
    // SAFETY: the caller proves the instructions.
    unsafe {
        let (a, c, mask) = (W::load(&low[0]), W::load(&low[1]), W::splat(0x0f0f_0f0f));
        let (a4, c4) = (W::right::<4>(a), W::right::<4>(c));
        [
            W::and(a, mask),
            W::and(c, mask),
            W::and(a4, mask),
            W::and(c4, mask),
        ]
    }
}

/// `w` with those bits of `bits` that are in `mask`.
#[inline(always)]
unsafe fn or_masked<W: Wide>(w: W::Int, bits: W::Int, mask: u32) -> W::Int {
    // SAFETY: the caller proves the instructions.
    unsafe { W::or(w, W::and(bits, W::splat(mask))) }
}

#[inline(always)]
unsafe fn fetch<W: Wide, T>(block: &T) {
    let ahead = std::ptr::from_ref(block).cast::<u8>().wrapping_add(AHEAD);
    for line in 0..size_of::<T>() / 64 {
        // SAFETY: a prefetch faults nowhere; the caller proves the instructions.
        unsafe { W::prefetch(ahead.wrapping_add(64 * line)) };
    }
}

fn pair(p: [i16; 2]) -> u32 {
    u32::from(p[0] as u16) | u32::from(p[1] as u16) << 16
}
