//! The plain version: what the others must equal.

use super::{Block, ROWS, Tile, WORDS};
use crate::ops::half::widen_one;

/// See [`super::tile`].
pub(super) fn tile(group: &[Block], acts: Tile<'_>, out: &mut [[f32; ROWS]]) {
    let n = acts.tokens;
    for (t, out) in out.iter_mut().enumerate() {
        let mut sums = [0.0f32; ROWS];
        for (block, words) in group.iter().zip(acts.words.chunks_exact(n * WORDS)) {
            let scale = f32::from_bits(words[t]);
            let dots = dots(
                block,
                words[n + t] as i32,
                &words[2 * n + 8 * t..2 * n + 8 * t + 8],
            );
            for row in 0..ROWS {
                sums[row] += dots[row] as f32 * (widen_one(block.scale[row]) * scale);
            }
        }
        *out = sums;
    }
}

/// Exact dots of sixteen rows with 32 codes; `start` undoes the rows' +128.
fn dots(block: &Block, start: i32, words: &[u32]) -> [i32; ROWS] {
    let mut dots = [start; ROWS];
    for (codes, word) in block.code.iter().zip(words) {
        let x = word.to_le_bytes().map(|b| i32::from(b as i8));
        for (dot, w) in dots.iter_mut().zip(codes.as_chunks::<4>().0) {
            for i in 0..4 {
                *dot += i32::from(w[i]) * x[i];
            }
        }
    }
    dots
}
