//! The plain version: what the others must equal.

use super::{Block, Kind, ROWS, Tile, WORDS};
use crate::ops::dequant::bf16;
use crate::ops::half::widen_one;

/// See [`super::tile`].
pub(super) fn tile<const KIND: u8, const MIN: usize, const HIGH: usize>(
    group: &[Block<KIND, MIN, HIGH>],
    acts: Tile<'_>,
    out: &mut [[f32; ROWS]],
) {
    let n = acts.tokens;
    for (t, out) in out.iter_mut().enumerate() {
        *out = [0.0; ROWS];
        for (block, words) in group.iter().zip(acts.words.chunks_exact(n * WORDS)) {
            let scale = f32::from_bits(words[t]);
            let sum = words[n + t] as i32 / -128;
            let codes = &words[2 * n + 8 * t..2 * n + 8 * t + 8];
            for (row, out) in out.iter_mut().enumerate() {
                let d = match Block::<KIND, MIN, HIGH>::KIND {
                    Kind::Mx => bf16(block.scale[row]),
                    _ => widen_one(block.scale[row]),
                };
                let mut term = block.dot(row, codes) as f32 * (d * scale);
                for min in &block.min {
                    term += widen_one(min[row]) * (sum as f32 * scale);
                }
                *out += term;
            }
        }
    }
}

impl<const KIND: u8, const MIN: usize, const HIGH: usize> Block<KIND, MIN, HIGH> {
    fn dot(&self, row: usize, words: &[u32]) -> i32 {
        let mut dot = 0;
        for (g, word) in words.iter().enumerate() {
            for (i, x) in word.to_le_bytes().into_iter().enumerate() {
                let (b, n, p) = (g / 4, g / 2 % 2, g % 2);
                let mut value = self.low[b][p][4 * row + i] >> (4 * n) & 15;
                for high in &self.high {
                    value |= (high[4 * row + i] >> (4 * b + 2 * p + n) & 1) << 4;
                }
                if Self::KIND.looks_up() {
                    value = Self::TABLE[usize::from(value)];
                }
                dot += (i32::from(value) - Self::BIAS) * i32::from(x as i8);
            }
        }
        dot
    }
}
