//! From the rows of a file to the layouts that kernels read: sixteen rows interleaved,
//! rows beyond the last all zero. Plain loops: this runs once, when a model is loaded.

use crate::gguf::TensorType;
use crate::ops::dequant::k::{iq4_xs_code, iq4_xs_scale, q4_code, q5_code, q6_code, scale_min};
use crate::ops::dequant::{exponent, five};

/// Rows interleaved.
pub(crate) const ROWS: usize = 16;
/// Elements of a Q8_0 block.
pub(crate) const BLOCK: usize = 32;
/// Elements of a super-block of the K-quants.
pub(crate) const SUPER: usize = 256;
/// Bytes that a lane loads at once.
const PIECE: usize = 16;

/// Bytes that a matrix takes on a device.
pub(crate) fn bytes(ty: TensorType, k: usize, rows: usize) -> u64 {
    let groups = rows.div_ceil(ROWS);
    let group = match (Small::of(ty), KQuant::of(ty), ty) {
        (Some(kind), ..) => k / BLOCK * ROWS * (kind.pieces() * PIECE + 2 * kind.halves()),
        (_, Some(kind), _) => k / SUPER * ROWS * (kind.len() * PIECE + 4),
        (_, _, TensorType::F16 | TensorType::BF16) => k * ROWS * 2,
        _ => k * ROWS * 4,
    };
    (groups * group) as u64
}

/// A format of blocks of 32, as `blocks.cuh` reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Small {
    /// Q8_0, and Q5_0 in eight bits.
    Q8,
    Q4,
    /// Q4_1.
    Q4Min,
    /// Q5_1 in eight bits.
    Q5Min,
    Mx,
    Nl,
}

impl Small {
    pub fn of(ty: TensorType) -> Option<Self> {
        match ty {
            TensorType::Q8_0 | TensorType::Q5_0 => Some(Self::Q8),
            TensorType::Q4_0 => Some(Self::Q4),
            TensorType::Q4_1 => Some(Self::Q4Min),
            TensorType::Q5_1 => Some(Self::Q5Min),
            TensorType::MXFP4 => Some(Self::Mx),
            TensorType::IQ4_NL => Some(Self::Nl),
            _ => None,
        }
    }

    /// The kernels for one token, for eight, and for many.
    pub fn kernels(self) -> [&'static str; 3] {
        match self {
            Self::Q8 => ["linear_q8_one", "linear_q8_eight", "linear_q8_tiles"],
            Self::Q4 => ["linear_q4_one", "linear_q4_eight", "linear_q4_tiles"],
            Self::Q4Min => [
                "linear_q4_min_one",
                "linear_q4_min_eight",
                "linear_q4_min_tiles",
            ],
            Self::Q5Min => [
                "linear_q5_min_one",
                "linear_q5_min_eight",
                "linear_q5_min_tiles",
            ],
            Self::Mx => ["linear_mx_one", "linear_mx_eight", "linear_mx_tiles"],
            Self::Nl => ["linear_nl_one", "linear_nl_eight", "linear_nl_tiles"],
        }
    }

    /// Pieces of sixteen rows by sixteen bytes of a block.
    pub fn pieces(self) -> usize {
        match self {
            Self::Q8 | Self::Q5Min => 2,
            _ => 1,
        }
    }

    /// Scale, and minimum where it has one.
    fn halves(self) -> usize {
        match self {
            Self::Q4Min | Self::Q5Min => 2,
            _ => 1,
        }
    }
}

/// Codes `[group][block][piece][row][16]` and scales `[group][block][row]` (with minima,
/// `[group][block][2][row]`) of a type that is a [`Small`].
pub(crate) fn small(
    ty: TensorType,
    kind: Small,
    bytes: &[u8],
    blocks: usize,
    groups: usize,
) -> (Vec<i8>, Vec<u16>) {
    let (pieces, halves) = (kind.pieces(), kind.halves());
    let mut codes = vec![0i8; groups * blocks * pieces * ROWS * PIECE];
    let mut scales = vec![0u16; groups * blocks * halves * ROWS];
    for (i, source) in bytes.chunks_exact(ty.block_bytes() as usize).enumerate() {
        let (row, block) = (i / blocks, i % blocks);
        let at = row / ROWS * blocks + block;
        for h in 0..halves {
            scales[(at * halves + h) * ROWS + row % ROWS] = match ty {
                TensorType::MXFP4 => exponent(source[0]),
                _ => u16::from_le_bytes([source[2 * h], source[2 * h + 1]]),
            };
        }
        let mut put = |piece: usize, byte: usize, code: u8| {
            codes[((at * pieces + piece) * ROWS + row % ROWS) * PIECE + byte] = code as i8;
        };
        for i in 0..BLOCK {
            match (ty, kind) {
                (TensorType::Q5_0, _) => {
                    put(i / 16, i % 16, five(&source[2..], i).wrapping_sub(16));
                }
                (TensorType::Q5_1, _) => put(i / 16, i % 16, five(&source[4..], i)),
                (_, Small::Q8) => put(i / 16, i % 16, source[2 + i]),
                _ if i < 16 => put(0, i, source[source.len() - 16 + i]),
                _ => {}
            }
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

/// A K-quant or IQ4_XS, as `linear_k.cu` reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KQuant {
    Q4,
    Q5,
    Q6,
    Xs,
}

impl KQuant {
    pub fn of(ty: TensorType) -> Option<Self> {
        match ty {
            TensorType::Q4_K => Some(Self::Q4),
            TensorType::Q5_K => Some(Self::Q5),
            TensorType::Q6_K => Some(Self::Q6),
            TensorType::IQ4_XS => Some(Self::Xs),
            _ => None,
        }
    }

    /// The kernels for one token and for eight.
    pub fn kernels(self) -> [&'static str; 2] {
        match self {
            Self::Q4 => ["linear_q4_k_one", "linear_q4_k_eight"],
            Self::Q5 => ["linear_q5_k_one", "linear_q5_k_eight"],
            Self::Q6 => ["linear_q6_k_one", "linear_q6_k_eight"],
            Self::Xs => ["linear_iq4_xs_one", "linear_iq4_xs_eight"],
        }
    }

    /// Bytes of a super-block in a file.
    fn size(self) -> usize {
        match self {
            Self::Q4 => 144,
            Self::Q5 => 176,
            Self::Q6 => 210,
            Self::Xs => 136,
        }
    }

    /// Pieces of upper bits.
    fn upper(self) -> usize {
        match self {
            Self::Q4 | Self::Xs => 0,
            Self::Q5 => 2,
            Self::Q6 => 4,
        }
    }

    /// Pieces of a super-block: nibbles, upper bits, scales.
    fn len(self) -> usize {
        8 + self.upper() + 1
    }

    fn code(self, b: &[u8], i: usize) -> u8 {
        match self {
            Self::Q4 => q4_code(&b[16..], i),
            Self::Q5 => q5_code(b, i),
            Self::Q6 => q6_code(b, i),
            Self::Xs => iq4_xs_code(b, i),
        }
    }

    /// One row's super-block, piece by piece; the last holds scales.
    fn pieces(self, b: &[u8]) -> Vec<[u8; PIECE]> {
        let mut pieces = vec![[0; PIECE]; self.len()];
        for i in 0..SUPER {
            let (code, j) = (self.code(b, i), i / 32);
            pieces[j][i % 16] |= (code & 15) << (4 * (i % 32 / 16));
            // Word and byte of the sub-block.
            let (w, byte) = (i % 32 / 4, i % 4);
            match self {
                Self::Q4 | Self::Xs => {}
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
                Self::Xs => {
                    for (j, out) in last[..8].iter_mut().enumerate() {
                        *out = iq4_xs_scale(b, j) as u8;
                    }
                }
                Self::Q4 | Self::Q5 => {
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
            Self::Xs => u32::from(u16::from_le_bytes([b[0], b[1]])),
            Self::Q4 | Self::Q5 => u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        }
    }

    /// Pieces `[group][super-block][piece][row][16]`, and scales
    /// `[group][super-block][row]`.
    pub fn pack(self, bytes: &[u8], blocks: usize, groups: usize) -> (Vec<i8>, Vec<u32>) {
        let pieces = self.len();
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
