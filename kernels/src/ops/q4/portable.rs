//! The plain version: what the others must equal.

use super::{Block, Kind, ROWS, Tile, WORDS};
use crate::ops::dequant::bf16;
use crate::ops::half::widen_one;

/// See [`super::tile`].
pub(super) fn tile<const KIND: u8>(group: &[Block<KIND>], acts: Tile<'_>, out: &mut [[f32; ROWS]]) {
    let n = acts.tokens;
    for (t, out) in out.iter_mut().enumerate() {
        *out = [0.0; ROWS];
        for (block, words) in group.iter().zip(acts.words.chunks_exact(n * WORDS)) {
            let scale = f32::from_bits(words[t]);
            let codes = &words[2 * n + 8 * t..2 * n + 8 * t + 8];
            for (row, out) in out.iter_mut().enumerate() {
                let d = match Block::<KIND>::KIND {
                    Kind::Mx => bf16(block.scale[row]),
                    _ => widen_one(block.scale[row]),
                };
                *out += block.dot(row, codes) as f32 * (d * scale);
            }
        }
    }
}

impl<const KIND: u8> Block<KIND> {
    fn dot(&self, row: usize, words: &[u32]) -> i32 {
        let table = Self::TABLE;
        let mut dot = 0;
        for (g, word) in words.iter().enumerate() {
            for (i, x) in word.to_le_bytes().into_iter().enumerate() {
                let code = self.low[g / 4][g % 2][4 * row + i] >> (4 * (g / 2 % 2)) & 15;
                let value = i32::from(table[usize::from(code)]) - Self::BIAS;
                dot += value * i32::from(x as i8);
            }
        }
        dot
    }
}
