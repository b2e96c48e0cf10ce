//! Activations to eight bits, per super-block of 256.

use super::{Act, SUPER, TILE, Tile};
use crate::cpu::{Simd, versions};
use crate::ops::q8::quantise_block;
use crate::pool::Pool;

/// Quantised activations of `tokens` rows, in tiles of [`TILE`].
#[derive(Default)]
pub(crate) struct Acts {
    acts: Vec<Act>,
    tokens: usize,
    blocks: usize,
}

impl Acts {
    /// Quantise rows of `k` elements (a multiple of 256).
    pub fn fill(&mut self, simd: Simd, pool: &Pool, x: &[f32], k: usize) {
        self.tokens = x.len() / k;
        self.blocks = k / SUPER;
        self.acts.resize(self.tokens * self.blocks, Act::ZERO);
        pool.pieces(&mut self.acts, TILE * self.blocks, |i, acts| {
            let first = i * TILE * k;
            let tokens = acts.len() / self.blocks;
            quantise(simd, &x[first..first + tokens * k], k, acts);
        });
    }

    /// Number of tiles.
    pub fn tiles(&self) -> usize {
        self.tokens.div_ceil(TILE)
    }

    /// One tile.
    pub fn tile(&self, i: usize) -> Tile<'_> {
        let tokens = TILE.min(self.tokens - i * TILE);
        let start = i * TILE * self.blocks;
        Tile {
            tokens,
            acts: &self.acts[start..start + tokens * self.blocks],
        }
    }
}

impl Act {
    const ZERO: Self = Self {
        scale: 0.0,
        sums: [[0; 2]; 4],
        start: [[0; 2]; 16],
        codes: [[0; 4]; 64],
    };
}

#[inline(always)]
fn quantise_body(x: &[f32], k: usize, acts: &mut [Act]) {
    let tokens = x.len() / k;
    let mut codes = [0; SUPER];
    for (t, row) in x.chunks_exact(k).enumerate() {
        let blocks = row.as_chunks::<SUPER>().0;
        for (x, acts) in blocks.iter().zip(acts.chunks_exact_mut(tokens)) {
            let act = &mut acts[t];
            act.scale = quantise_block(x, &mut codes);
            for b in 0..16 {
                let mut sum = [0i32; 4];
                for g in 0..4 {
                    for i in 0..4 {
                        let code = codes[16 * b + 4 * g + i];
                        sum[i] += code;
                        act.codes[4 * b + g][i] = code as i8;
                    }
                }
                // At most 32 * 8 * 127 = 32512 in magnitude.
                act.start[b] = [-32 * (sum[0] + sum[1]), -32 * (sum[2] + sum[3])].map(|s| s as i16);
            }
            for j in 0..8 {
                let [a, b] = [act.start[2 * j], act.start[2 * j + 1]].map(|s| s.map(i32::from));
                act.sums[j / 2][j % 2] = ((a[0] + a[1] + b[0] + b[1]) / -32) as i16;
            }
        }
    }
}

versions! {
    /// Rows of `k` elements into one tile.
    fn quantise(x: &[f32], k: usize, acts: &mut [Act]) = quantise_body;
}
