//! The plain version: what the others must equal.

use super::{Act, Affine, Low, Signed, Tile, Xs};
use crate::ops::dequant::IQ4;
use crate::ops::half::widen_one;
use crate::ops::q8::ROWS;

/// See [`super::affine`].
pub(super) fn affine<const HIGH: usize>(
    group: &[Affine<HIGH>],
    acts: Tile<'_>,
    out: &mut [[f32; ROWS]],
) {
    in_order(group, acts, out, Affine::product);
}

/// See [`super::signed`].
pub(super) fn signed(group: &[Signed], acts: Tile<'_>, out: &mut [[f32; ROWS]]) {
    in_order(group, acts, out, Signed::product);
}

/// See [`super::xs`].
pub(super) fn xs(group: &[Xs], acts: Tile<'_>, out: &mut [[f32; ROWS]]) {
    in_order(group, acts, out, Xs::product);
}

/// The sums of the products of super-blocks, row by row.
fn in_order<T>(
    group: &[T],
    acts: Tile<'_>,
    out: &mut [[f32; ROWS]],
    product: impl Fn(&T, usize, &Act) -> f32,
) {
    for (t, out) in out.iter_mut().enumerate() {
        *out = [0.0; ROWS];
        for (block, acts) in group.iter().zip(acts.acts.chunks_exact(acts.tokens)) {
            for (row, out) in out.iter_mut().enumerate() {
                *out += product(block, row, &acts[t]);
            }
        }
    }
}

fn nibble(low: &Low, row: usize, b: usize, g: usize, i: usize) -> u8 {
    low[b][g % 2][4 * row + i] >> (4 * (g / 2)) & 15
}

impl<const HIGH: usize> Affine<HIGH> {
    fn code(&self, row: usize, b: usize, g: usize, i: usize) -> u8 {
        let low = nibble(&self.low, row, b, g, i);
        match HIGH {
            0 => low,
            _ => low | (self.high[b / 2][4 * row + i] >> (4 * (b % 2) + g) & 1) << 4,
        }
    }

    fn product(&self, row: usize, act: &Act) -> f32 {
        let (mut dot, mut minimum) = (0, 0);
        for b in 0..16 {
            let code = |g, i| i32::from(self.code(row, b, g, i));
            dot += i32::from(self.scale[b / 2][row]) * sub_block(act, b, code);
        }
        for j in 0..8 {
            minimum += i32::from(self.m[j / 2][row][j % 2]) * i32::from(act.sums[j / 2][j % 2]);
        }
        let (d, min) = (widen_one(self.d[row]), widen_one(self.min[row]));
        dot as f32 * (d * act.scale) - minimum as f32 * (min * act.scale)
    }
}

impl Signed {
    fn product(&self, row: usize, act: &Act) -> f32 {
        let mut dot = 0;
        for b in 0..16 {
            let code = |g: usize, i: usize| {
                let high = self.high[b][4 * row + i] >> (2 * g) & 3;
                i32::from(nibble(&self.low, row, b, g, i) | high << 4) - 32
            };
            dot += i32::from(self.scale[b][row]) * sub_block(act, b, code);
        }
        dot as f32 * (widen_one(self.d[row]) * act.scale)
    }
}

impl Xs {
    fn product(&self, row: usize, act: &Act) -> f32 {
        let mut dot = 0;
        for b in 0..16 {
            let code = |g, i| i32::from(IQ4[usize::from(nibble(&self.low, row, b, g, i))]);
            dot += i32::from(self.scale[b / 2][row]) * sub_block(act, b, code);
        }
        dot as f32 * (widen_one(self.d[row]) * act.scale)
    }
}

fn sub_block(act: &Act, b: usize, code: impl Fn(usize, usize) -> i32) -> i32 {
    let mut dot = 0;
    for g in 0..4 {
        for i in 0..4 {
            dot += code(g, i) * i32::from(act.codes[4 * b + g][i]);
        }
    }
    dot
}
