//! Linear layers: several matrices that share one input, in one parallel job.
//!
//! Each output is computed by one thread in the order of NUMERICS.md, so neither
//! threads nor batch can change it.

use super::q8::rows::{self, Keep, Rows, State};
use super::scaled::Widen;
use super::weights::{Matrix, Packed};
use super::{float, k, q4, q8};
use crate::cpu::Simd;
use crate::pool::{Pool, SendPtr};
use std::ops::Range;

/// Weight bytes a thread takes at a time when one token is computed: large enough
/// to amortise the claim, small enough to share out evenly.
const STREAM_CHUNK: usize = 96 * 1024;
/// Weight bytes kept in the second-level cache while many tokens pass over them.
const CACHE_CHUNK: usize = 256 * 1024;
/// Tokens that an integer kernel takes at a time.
const TILE: usize = q8::TILE;
const _: () = assert!(q8::TILE == k::TILE);
/// Tokens a float kernel takes at a time.
const FLOAT_TILE: usize = 8;

/// Inputs of a linear layer: rows of `k` elements, quantised where needed.
#[derive(Default)]
pub(crate) struct Input {
    q8: q8::Acts,
    k: k::Acts,
}

/// One matrix and where its results go: `out` has `tokens * matrix.rows` elements.
pub(crate) struct Product<'a> {
    pub matrix: &'a Matrix,
    pub out: &'a mut [f32],
}

/// `out[t] = matrix * x[t]` for every product. All matrices have the same `k`, the
/// row length of `x`.
pub(crate) fn linear(
    simd: Simd,
    pool: &Pool,
    scratch: &mut Input,
    x: &[f32],
    k: usize,
    products: &mut [Product<'_>],
) {
    let tokens = x.len() / k;
    for p in products.iter() {
        assert!(p.matrix.k == k && p.out.len() == tokens * p.matrix.rows && x.len() == tokens * k);
    }
    let any = |kind: fn(&Packed) -> bool| products.iter().any(|p| kind(&p.matrix.data));
    let by_32 = |data: &Packed| {
        use Packed::{Mx, Nl, Q4, Q4Min, Q5, Q5Min, Q8, Rows};
        matches!(
            data,
            Q8(_) | Rows(_) | Q4(_) | Q4Min(_) | Q5(_) | Q5Min(_) | Mx(_) | Nl(_)
        )
    };
    let by_256 = |data: &Packed| {
        use Packed::{Q4K, Q5K, Q6K, Xs};
        matches!(data, Q4K(_) | Q5K(_) | Q6K(_) | Xs(_))
    };
    if any(by_32) {
        scratch.q8.fill(simd, pool, x, k);
    }
    #[cfg(target_arch = "x86_64")]
    if any(|data| matches!(data, Packed::Q8(_) | Packed::Rows(_))) {
        scratch.q8.fill_batches(simd, pool);
    }
    if any(by_256) {
        scratch.k.fill(simd, pool, x, k);
    }
    let goal = if tokens == 1 {
        STREAM_CHUNK
    } else {
        CACHE_CHUNK
    };
    let mut chunks = 0;
    let plan: Vec<Plan<'_>> = products
        .iter_mut()
        .map(|p| {
            // At least four chunks a thread, where there are that many groups.
            let even = p.matrix.groups() / (4 * pool.threads());
            let groups = (goal / p.matrix.group_bytes()).min(even).max(1);
            let first = chunks;
            chunks += p.matrix.groups().div_ceil(groups);
            Plan {
                matrix: p.matrix,
                out: SendPtr(p.out.as_mut_ptr()),
                groups,
                first,
            }
        })
        .collect();
    let input = &*scratch;
    pool.run(chunks, &|chunk| {
        let i = plan.partition_point(|p| p.first <= chunk) - 1;
        let plan = &plan[i];
        let from = (chunk - plan.first) * plan.groups;
        let to = (from + plan.groups).min(plan.matrix.groups());
        plan.compute(simd, from..to, x, input);
    });
}

struct Plan<'a> {
    matrix: &'a Matrix,
    out: SendPtr<f32>,
    /// Groups of rows per chunk.
    groups: usize,
    /// Number of this matrix's first chunk.
    first: usize,
}

/// Groups of a matrix, and their blocks.
struct Part<'a, T> {
    groups: Range<usize>,
    blocks: &'a [T],
}

impl Plan<'_> {
    fn compute(&self, simd: Simd, groups: Range<usize>, x: &[f32], input: &Input) {
        let (k, from, to) = (self.matrix.k, groups.start, groups.end);
        match &self.matrix.data {
            Packed::Q8(w) => self.q8(simd, self.part(groups, w), input),
            Packed::Rows(rows) => match rows.state() {
                State::Packed(w) => self.q8(simd, self.part(groups, w), input),
                State::Stored(kept) => self.rows(simd, groups, (rows, &*kept), input),
            },
            Packed::Q4(w) => self.small_blocks(simd, self.part(groups, w), input, q4::tile),
            Packed::Q4Min(w) => self.small_blocks(simd, self.part(groups, w), input, q4::tile),
            Packed::Q5(w) => self.small_blocks(simd, self.part(groups, w), input, q4::tile),
            Packed::Q5Min(w) => self.small_blocks(simd, self.part(groups, w), input, q4::tile),
            Packed::Mx(w) => self.small_blocks(simd, self.part(groups, w), input, q4::tile),
            Packed::Nl(w) => self.small_blocks(simd, self.part(groups, w), input, q4::tile),
            Packed::Q4K(w) => self.k_blocks(simd, self.part(groups, w), input, k::affine),
            Packed::Q5K(w) => self.k_blocks(simd, self.part(groups, w), input, k::affine),
            Packed::Q6K(w) => self.k_blocks(simd, self.part(groups, w), input, k::signed),
            Packed::Xs(w) => self.k_blocks(simd, self.part(groups, w), input, k::xs),
            Packed::Q2K(w) => self.scaled(simd, from, to, w, x),
            Packed::Q3K(w) => self.scaled(simd, from, to, w, x),
            Packed::F32(w) => self.floats(from, to, x, |group, x, out| {
                let w = w[group * k..(group + 1) * k].as_flattened();
                float::group_f32(simd, w, x, k, out);
            }),
            Packed::Bf16(w) => self.floats(from, to, x, |group, x, out| {
                let w = w[group * k..(group + 1) * k].as_flattened();
                float::group_bf16(simd, w, x, k, out);
            }),
            Packed::F16(w) => self.floats(from, to, x, |group, x, out| {
                let w = w[group * k..(group + 1) * k].as_flattened();
                float::group_f16(simd, w, x, k, out);
            }),
        }
    }

    fn part<'w, T>(&self, groups: Range<usize>, all: &'w [T]) -> Part<'w, T> {
        let n = all.len() / self.matrix.groups();
        let blocks = &all[groups.start * n..groups.end * n];
        Part { groups, blocks }
    }

    fn q8(&self, simd: Simd, part: Part<'_, q8::Block>, input: &Input) {
        #[cfg(target_arch = "x86_64")]
        if input.q8.batches() > 0 {
            let batch = |i| input.q8.batch(i);
            let batches = (input.q8.batches(), batch, |b: &q8::Batch<'_>| b.tokens);
            return self.blocks::<{ q8::BATCH }, _, _>(part, batches, q8::batch);
        }
        self.small_blocks(simd, part, input, q8::tile);
    }

    /// Q8_0 that is not packed yet.
    fn rows(
        &self,
        simd: Simd,
        groups: Range<usize>,
        (rows, kept): (&Rows, &dyn Keep),
        input: &Input,
    ) {
        let Range { start, end } = groups;
        let whole = self.matrix.rows / q8::ROWS;
        let middle = match input.q8.only() {
            Some(tile) if rows::has_one(simd) => {
                let middle = end.min(whole).max(start);
                for group in start..middle {
                    let mut out = [[0.0; q8::ROWS]];
                    rows::one(simd, rows.groups(kept, group..group + 1), tile, &mut out[0]);
                    self.store(group, 0, &out);
                }
                middle
            }
            _ => start,
        };
        if middle < end {
            rows.with_packed(kept, middle..end, |blocks| {
                let groups = middle..end;
                self.q8(simd, Part { groups, blocks }, input);
            });
        }
    }

    fn small_blocks<T>(
        &self,
        simd: Simd,
        part: Part<'_, T>,
        input: &Input,
        kernel: impl Fn(Simd, &[T], q8::Tile<'_>, &mut [[f32; q8::ROWS]]),
    ) {
        let tile = |i| input.q8.tile(i);
        let tiles = (input.q8.tiles(), tile, |t: &q8::Tile<'_>| t.tokens);
        self.blocks::<TILE, _, _>(part, tiles, |group, tile, out| {
            kernel(simd, group, tile, out)
        });
    }

    fn k_blocks<T>(
        &self,
        simd: Simd,
        part: Part<'_, T>,
        input: &Input,
        kernel: impl Fn(Simd, &[T], k::Tile<'_>, &mut [[f32; q8::ROWS]]),
    ) {
        let tile = |i| input.k.tile(i);
        let tiles = (input.k.tiles(), tile, |t: &k::Tile<'_>| t.tokens);
        self.blocks::<TILE, _, _>(part, tiles, |group, tile, out| {
            kernel(simd, group, tile, out)
        });
    }

    /// Every tile of `N` tokens with every group of the chunk; tiles outside, so that the
    /// weights of the chunk stay in the cache.
    fn blocks<const N: usize, T, A: Copy>(
        &self,
        part: Part<'_, T>,
        (tiles, tile, tokens): (usize, impl Fn(usize) -> A, impl Fn(&A) -> usize),
        kernel: impl Fn(&[T], A, &mut [[f32; q8::ROWS]]),
    ) {
        let n = part.blocks.len() / part.groups.len();
        let mut out = [[0.0; q8::ROWS]; N];
        for i in 0..tiles {
            let tile = tile(i);
            let out = &mut out[..tokens(&tile)];
            for (group, blocks) in part.groups.clone().zip(part.blocks.chunks_exact(n)) {
                kernel(blocks, tile, out);
                self.store(group, i * N, out);
            }
        }
    }

    fn scaled<const N: usize, B: Widen>(
        &self,
        simd: Simd,
        from: usize,
        to: usize,
        w: &[[B; N]],
        x: &[f32],
    ) {
        let n = w.len() / self.matrix.groups();
        self.floats(from, to, x, |group, x, out| {
            let w = w[group * n..(group + 1) * n].as_flattened();
            float::group_scaled(simd, w, x, self.matrix.k, out);
        });
    }

    fn floats(
        &self,
        from: usize,
        to: usize,
        x: &[f32],
        kernel: impl Fn(usize, &[f32], &mut [[f32; float::ROWS]]),
    ) {
        let mut out = [[0.0; float::ROWS]; FLOAT_TILE];
        for group in from..to {
            for (i, x) in x.chunks(FLOAT_TILE * self.matrix.k).enumerate() {
                let out = &mut out[..x.len() / self.matrix.k];
                kernel(group, x, out);
                self.store(group, i * FLOAT_TILE, out);
            }
        }
    }

    /// Write the results of one group for tokens `first ..`.
    fn store(&self, group: usize, first: usize, out: &[[f32; float::ROWS]]) {
        let rows = self.matrix.rows;
        let n = float::ROWS.min(rows - group * float::ROWS);
        for (t, sums) in out.iter().enumerate() {
            let at = (first + t) * rows + group * float::ROWS;
            // SAFETY: lifetime: the output slice is borrowed by `linear` for the whole
            // job. Bounds: `first + t` is below the number of tokens and the group's `n`
            // rows exist, as asserted there. Every (token, group) is written by one
            // chunk only. Alignment: f32 in a slice of f32.
            unsafe {
                let out = self.out.get().add(at);
                match n {
                    // A length known to the compiler is two moves and no call.
                    float::ROWS => out.cast::<[f32; float::ROWS]>().write_unaligned(*sums),
                    n => std::ptr::copy_nonoverlapping(sums.as_ptr(), out, n),
                }
            }
        }
    }
}
