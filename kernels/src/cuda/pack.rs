//! From the rows of a file to the layouts that kernels read: sixteen rows interleaved,
//! rows beyond the last all zero. Plain loops: this runs once, when a model is loaded.

use crate::gguf::TensorType;
use crate::ops::dequant::k::{q4_code, q5_code, q6_code, scale_min};

/// Rows interleaved.
pub(crate) const ROWS: usize = 16;
/// Elements of a Q8_0 block.
pub(crate) const BLOCK: usize = 32;
/// Elements of a super-block of the K-quants.
pub(crate) const SUPER: usize = 256;
/// Bytes of a Q8_0 block in a file: a scale and the codes.
const Q8_BYTES: usize = 34;
/// Bytes that a lane loads at once.
const PIECE: usize = 16;

/// Codes `[group][block][half][row][16]` and scales `[group][block][row]` of Q8_0.
pub(crate) fn q8(bytes: &[u8], blocks: usize, groups: usize) -> (Vec<i8>, Vec<u16>) {
    let mut codes = vec![0i8; groups * blocks * ROWS * BLOCK];
    let mut scales = vec![0u16; groups * blocks * ROWS];
    for (i, source) in bytes.as_chunks::<Q8_BYTES>().0.iter().enumerate() {
        let (row, block) = (i / blocks, i % blocks);
        let at = row / ROWS * blocks + block;
        scales[at * ROWS + row % ROWS] = u16::from_le_bytes([source[0], source[1]]);
        for (half, sixteen) in source[2..].as_chunks::<16>().0.iter().enumerate() {
            let to = (at * 2 + half) * ROWS + row % ROWS;
            codes[to * 16..to * 16 + 16].copy_from_slice(&sixteen.map(|b| b as i8));
        }
    }
    (codes, scales)
}

/// `[group][k][row]` of floats.
pub(crate) fn interleave<T: Copy + Default>(
    k: usize,
    rows: usize,
    at: impl Fn(usize) -> T,
) -> Vec<T> {
    let mut out = vec![T::default(); rows.div_ceil(ROWS) * k * ROWS];
    for row in 0..rows {
        for i in 0..k {
            out[(row / ROWS * k + i) * ROWS + row % ROWS] = at(row * k + i);
        }
    }
    out
}

/// A K-quant, as `linear_k.cu` reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KQuant {
    Q4,
    Q5,
    Q6,
}

impl KQuant {
    pub fn of(ty: TensorType) -> Option<Self> {
        match ty {
            TensorType::Q4_K => Some(Self::Q4),
            TensorType::Q5_K => Some(Self::Q5),
            TensorType::Q6_K => Some(Self::Q6),
            _ => None,
        }
    }

    /// The kernels for one token and for eight.
    pub fn kernels(self) -> [&'static str; 2] {
        match self {
            Self::Q4 => ["linear_q4_k_one", "linear_q4_k_eight"],
            Self::Q5 => ["linear_q5_k_one", "linear_q5_k_eight"],
            Self::Q6 => ["linear_q6_k_one", "linear_q6_k_eight"],
        }
    }

    /// Bytes of a super-block in a file.
    fn size(self) -> usize {
        match self {
            Self::Q4 => 144,
            Self::Q5 => 176,
            Self::Q6 => 210,
        }
    }

    /// Pieces of upper bits.
    fn upper(self) -> usize {
        match self {
            Self::Q4 => 0,
            Self::Q5 => 2,
            Self::Q6 => 4,
        }
    }

    fn code(self, b: &[u8], i: usize) -> u8 {
        match self {
            Self::Q4 => q4_code(&b[16..], i),
            Self::Q5 => q5_code(b, i),
            Self::Q6 => q6_code(b, i),
        }
    }

    /// One row's super-block, piece by piece; the last holds scales.
    fn pieces(self, b: &[u8]) -> Vec<[u8; PIECE]> {
        let mut pieces = vec![[0; PIECE]; 8 + self.upper() + 1];
        for i in 0..SUPER {
            let (code, j) = (self.code(b, i), i / 32);
            pieces[j][i % 16] |= (code & 15) << (4 * (i % 32 / 16));
            // Word and byte of the sub-block.
            let (w, byte) = (i % 32 / 4, i % 4);
            match self {
                Self::Q4 => {}
                Self::Q5 => pieces[8 + j / 4][4 * (j % 4) + byte] |= (code >> 4) << w,
                Self::Q6 => {
                    let word = j % 2 * 2 + w / 4;
                    pieces[8 + j / 2][4 * word + byte] |= (code >> 4) << (2 * (w % 4));
                }
            }
        }
        if let Some(last) = pieces.last_mut() {
            match self {
                Self::Q6 => last.copy_from_slice(&b[192..208]),
                _ => {
                    for j in 0..8 {
                        (last[j], last[8 + j]) = scale_min(&b[4..16], j);
                    }
                }
            }
        }
        pieces
    }

    /// Scale and minimum of a super-block, f16 each.
    fn d(self, b: &[u8]) -> u32 {
        match self {
            Self::Q6 => u32::from(u16::from_le_bytes([b[208], b[209]])),
            _ => u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        }
    }

    /// Pieces `[group][super-block][piece][row][16]`, and scales
    /// `[group][super-block][row]`.
    pub fn pack(self, bytes: &[u8], blocks: usize, groups: usize) -> (Vec<i8>, Vec<u32>) {
        let pieces = 8 + self.upper() + 1;
        let mut out = vec![0i8; groups * blocks * pieces * ROWS * PIECE];
        let mut d = vec![0u32; groups * blocks * ROWS];
        for (i, source) in bytes.chunks_exact(self.size()).enumerate() {
            let (row, block) = (i / blocks, i % blocks);
            let at = row / ROWS * blocks + block;
            d[at * ROWS + row % ROWS] = self.d(source);
            for (p, piece) in self.pieces(source).into_iter().enumerate() {
                let to = ((at * pieces + p) * ROWS + row % ROWS) * PIECE;
                out[to..to + PIECE].copy_from_slice(&piece.map(|b| b as i8));
            }
        }
        (out, d)
    }
}
