//! Matrix products for training: `C = A B` or `C += A B` in f32.
//!
//! Every element of C is one chain: it starts at zero (or at the old value), and the products
//! `a[i][k] * b[k][j]` are added for k ascending, each product and each sum rounded on its own.
//! The tiles and the SIMD level change only how many chains run side by side, so AVX-512,
//! AVX2 and the portable path give the same bits (tested). Operands are strided views, so
//! transposed operands cost a packing pass and no copy by the caller. Called by [`super::net`].

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// A matrix seen in a slice: element (i, j) is `data[i * row + j * col]`.
#[derive(Clone, Copy)]
pub struct View<'a> {
    data: &'a [f32],
    row: usize,
    col: usize,
}

impl<'a> View<'a> {
    /// Rows of `width` contiguous elements.
    pub fn rows(data: &'a [f32], width: usize) -> Self {
        Self {
            data,
            row: width,
            col: 1,
        }
    }

    /// The same matrix with rows and columns exchanged.
    pub fn t(self) -> Self {
        Self {
            data: self.data,
            row: self.col,
            col: self.row,
        }
    }
}

/// Buffers for packed operands, kept between calls.
#[derive(Default)]
pub struct Scratch {
    a: Vec<f32>,
    b: Vec<f32>,
}

/// SIMD level of the inner loop, which this processor certainly has: only
/// [`Level::available`] makes one. All levels give the same bits.
///
/// ```compile_fail
/// let unproven = kernels::train::gemm::Level::Avx512;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(Lanes);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lanes {
    /// Plain loops.
    Portable,
    /// 256-bit vectors.
    Avx2,
    /// 512-bit vectors.
    Avx512,
}

impl Level {
    /// Plain loops, which every machine has.
    pub const PORTABLE: Self = Self(Lanes::Portable);

    /// The levels of this machine, the plain one first.
    pub fn available() -> Vec<Self> {
        let mut levels = vec![Self::PORTABLE];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                levels.push(Self(Lanes::Avx2));
            }
            if is_x86_feature_detected!("avx512f") {
                levels.push(Self(Lanes::Avx512));
            }
        }
        levels
    }

    /// The best level of this machine.
    pub fn detect() -> Self {
        Self::available().pop().unwrap_or(Self::PORTABLE)
    }

    /// Rows and columns of C that one inner loop holds in registers.
    const fn tile(self) -> (usize, usize) {
        match self.0 {
            Lanes::Portable => (4, 8),
            Lanes::Avx2 => (6, 16),
            Lanes::Avx512 => (8, 32),
        }
    }
}

/// `c = a b`, or `c += a b` with `add`. `a` is m x k, `b` is k x n, `c` has rows of `ldc`.
///
/// # Panics
/// When a view or `c` is smaller than the shape says.
#[allow(clippy::too_many_arguments)]
pub fn gemm(
    level: Level,
    scratch: &mut Scratch,
    (m, n, k): (usize, usize, usize),
    a: View<'_>,
    b: View<'_>,
    c: &mut [f32],
    ldc: usize,
    add: bool,
) {
    let (mr, nr) = level.tile();
    pack(&mut scratch.a, a.t(), k, m, mr);
    let mut tile = [0.0f32; 8 * 32];
    for j in (0..n).step_by(nr) {
        let cols = nr.min(n - j);
        let panel = View {
            data: b.data.get(j * b.col..).unwrap_or(&[]),
            ..b
        };
        pack(&mut scratch.b, panel, k, cols, nr);
        for (i, a) in (0..m)
            .step_by(mr)
            .zip(scratch.a.chunks_exact((k * mr).max(1)))
        {
            let rows = mr.min(m - i);
            for r in 0..rows {
                let at = (i + r) * ldc + j;
                if add {
                    tile[r * nr..r * nr + cols].copy_from_slice(&c[at..at + cols]);
                } else {
                    tile[r * nr..r * nr + cols].fill(0.0);
                }
            }
            inner(level, k, a, &scratch.b, &mut tile);
            for r in 0..rows {
                let at = (i + r) * ldc + j;
                c[at..at + cols].copy_from_slice(&tile[r * nr..r * nr + cols]);
            }
        }
    }
}

/// Copies `v` (k x n) into panels of `width` columns, each panel k rows of `width`, the last
/// one filled up with zeros.
fn pack(out: &mut Vec<f32>, v: View<'_>, k: usize, n: usize, width: usize) {
    let panels = n.div_ceil(width);
    out.resize(panels * k * width, 0.0);
    for (p, panel) in out.chunks_exact_mut((k * width).max(1)).enumerate() {
        let j = p * width;
        let cols = width.min(n - j);
        if v.col == 1 {
            for (r, line) in panel.chunks_exact_mut(width).enumerate() {
                let at = r * v.row + j;
                line[..cols].copy_from_slice(&v.data[at..at + cols]);
                line[cols..].fill(0.0);
            }
        } else {
            panel.fill(0.0);
            for c in 0..cols {
                let line = &v.data[(j + c) * v.col..];
                for r in 0..k {
                    panel[r * width + c] = line[r * v.row];
                }
            }
        }
    }
}

/// One register tile: `tile += a_panel b_panel`.
fn inner(level: Level, k: usize, a: &[f32], b: &[f32], tile: &mut [f32; 256]) {
    let (mr, nr) = level.tile();
    assert!(a.len() >= k * mr && b.len() >= k * nr);
    match level.0 {
        // SAFETY: a level exists only where the CPU has the feature (`Level::available`), and
        // the assertion above gives the bounds of both panels.
        #[cfg(target_arch = "x86_64")]
        Lanes::Avx512 => unsafe { inner_avx512(k, a.as_ptr(), b.as_ptr(), tile) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Lanes::Avx2 => unsafe { inner_avx2(k, a.as_ptr(), b.as_ptr(), tile) },
        _ => inner_portable(k, mr, nr, a, b, tile),
    }
}

fn inner_portable(k: usize, mr: usize, nr: usize, a: &[f32], b: &[f32], tile: &mut [f32; 256]) {
    for (a, b) in a.chunks_exact(mr).zip(b.chunks_exact(nr)).take(k) {
        for (&x, row) in a.iter().zip(tile.chunks_exact_mut(nr)) {
            for (c, &y) in row.iter_mut().zip(b) {
                *c += x * y;
            }
        }
    }
}

/// # Safety
/// The CPU has AVX-512F; `a` points to 8k and `b` to 32k readable floats.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn inner_avx512(k: usize, a: *const f32, b: *const f32, tile: &mut [f32; 256]) {
    let t = tile.as_mut_ptr();
    // SAFETY: the tile holds 8 x 32 floats and the caller vouches for `a` and `b`; all loads
    // and stores are unaligned ones.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); 2]; 8];
        for (r, acc) in acc.iter_mut().enumerate() {
            acc[0] = _mm512_loadu_ps(t.add(r * 32));
            acc[1] = _mm512_loadu_ps(t.add(r * 32 + 16));
        }
        for p in 0..k {
            let b0 = _mm512_loadu_ps(b.add(p * 32));
            let b1 = _mm512_loadu_ps(b.add(p * 32 + 16));
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*a.add(p * 8 + r));
                acc[0] = _mm512_add_ps(acc[0], _mm512_mul_ps(x, b0));
                acc[1] = _mm512_add_ps(acc[1], _mm512_mul_ps(x, b1));
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            _mm512_storeu_ps(t.add(r * 32), acc[0]);
            _mm512_storeu_ps(t.add(r * 32 + 16), acc[1]);
        }
    }
}

/// # Safety
/// The CPU has AVX2; `a` points to 6k and `b` to 16k readable floats.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn inner_avx2(k: usize, a: *const f32, b: *const f32, tile: &mut [f32; 256]) {
    let t = tile.as_mut_ptr();
    // SAFETY: the tile holds more than 6 x 16 floats and the caller vouches for `a` and `b`;
    // all loads and stores are unaligned ones.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); 2]; 6];
        for (r, acc) in acc.iter_mut().enumerate() {
            acc[0] = _mm256_loadu_ps(t.add(r * 16));
            acc[1] = _mm256_loadu_ps(t.add(r * 16 + 8));
        }
        for p in 0..k {
            let b0 = _mm256_loadu_ps(b.add(p * 16));
            let b1 = _mm256_loadu_ps(b.add(p * 16 + 8));
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = _mm256_set1_ps(*a.add(p * 6 + r));
                acc[0] = _mm256_add_ps(acc[0], _mm256_mul_ps(x, b0));
                acc[1] = _mm256_add_ps(acc[1], _mm256_mul_ps(x, b1));
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            _mm256_storeu_ps(t.add(r * 16), acc[0]);
            _mm256_storeu_ps(t.add(r * 16 + 8), acc[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::rng::Rng;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_level_and_layout_gives_the_bits_of_the_written_order(
            m in 1usize..40, n in 1usize..70, k in 1usize..50,
            ta: bool, tb: bool, add: bool, seed: u64,
        ) {
            let mut r = Rng::new(seed, 0);
            let a: Vec<f32> = (0..m * k).map(|_| r.normal()).collect();
            let b: Vec<f32> = (0..k * n).map(|_| r.normal()).collect();
            let c0: Vec<f32> = (0..m * n).map(|_| r.normal()).collect();
            let at = |i: usize, p: usize| if ta { a[p * m + i] } else { a[i * k + p] };
            let bt = |p: usize, j: usize| if tb { b[j * k + p] } else { b[p * n + j] };
            let mut want = c0.clone();
            for i in 0..m {
                for j in 0..n {
                    let mut s = if add { c0[i * n + j] } else { 0.0 };
                    for p in 0..k {
                        s += at(i, p) * bt(p, j);
                    }
                    want[i * n + j] = s;
                }
            }
            let av = if ta { View::rows(&a, m).t() } else { View::rows(&a, k) };
            let bv = if tb { View::rows(&b, k).t() } else { View::rows(&b, n) };
            for level in Level::available() {
                let mut c = c0.clone();
                gemm(level, &mut Scratch::default(), (m, n, k), av, bv, &mut c, n, add);
                prop_assert!(c.iter().zip(&want).all(|(x, y)| x.to_bits() == y.to_bits()), "{level:?}");
            }
        }
    }
}
