//! The qwen3 architecture for training: shape, parameters, loss and gradient of one row.
//!
//! A row is a sequence of tokens with a mask of the positions whose next token counts. The
//! parameters are one flat slice in the order of [`Shape::tensors`]; matrices are stored as in
//! GGUF, one output row after another. The passes themselves are in [`pass`] and `layer`;
//! attention is in [`attention`]. Not for serving: there is no cache of keys and values. Called by
//! [`super::run`] and by tests.

pub mod attention;
mod layer;
pub mod pass;
#[cfg(test)]
mod tests;

use std::ops::Range;

use super::rng::Rng;

/// Base of the rotary angles, and its natural logarithm (f32 has no exact one to derive).
pub const ROPE_BASE: f32 = 10_000.0;
const LN_ROPE_BASE: f32 = 9.210_340_5;

/// Added to the mean square in every RMSNorm; the value that qwen3 files carry.
pub const NORM_EPS: f32 = 1e-6;

/// Deviation of the initial weights; qwen and GPT-2 both start at 0.02.
const INIT_STD: f32 = 0.02;

/// The sizes of a model. Every row length must be a multiple of 32, the block of Q8_0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Number of tokens in the vocabulary.
    pub vocab: usize,
    /// Width of the residual stream.
    pub dim: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width of the feed-forward part.
    pub ffn: usize,
    /// Longest sequence in tokens, as stated in the file.
    pub context: usize,
}

impl Shape {
    /// The shape of the pocket model: two million weights, so that the file stays near 2 MB
    /// and one core trains it in minutes.
    pub const fn pocket(vocab: usize) -> Self {
        Self {
            vocab,
            dim: 192,
            layers: 4,
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
            ffn: 512,
            context: 1024,
        }
    }

    /// Width of all query heads together.
    pub const fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads together.
    pub const fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// All parameters in their order in the flat slice, under their names in GGUF.
    pub fn tensors(&self) -> Vec<Tensor> {
        let mut list = Vec::new();
        let mut at = 0;
        let mut push = |name: String, rows: usize, cols: usize| {
            list.push(Tensor {
                name,
                rows,
                cols,
                range: at..at + rows * cols,
            });
            at += rows * cols;
        };
        push("token_embd.weight".into(), self.vocab, self.dim);
        for l in 0..self.layers {
            let mut part =
                |name: &str, rows, cols| push(format!("blk.{l}.{name}.weight"), rows, cols);
            part("attn_norm", 1, self.dim);
            part("attn_q", self.q_width(), self.dim);
            part("attn_k", self.kv_width(), self.dim);
            part("attn_v", self.kv_width(), self.dim);
            part("attn_q_norm", 1, self.head_dim);
            part("attn_k_norm", 1, self.head_dim);
            part("attn_output", self.dim, self.q_width());
            part("ffn_norm", 1, self.dim);
            part("ffn_gate", self.ffn, self.dim);
            part("ffn_up", self.ffn, self.dim);
            part("ffn_down", self.dim, self.ffn);
        }
        push("output_norm.weight".into(), 1, self.dim);
        list
    }

    /// Where each parameter lies.
    pub fn layout(&self) -> Layout {
        let mut ranges = self.tensors().into_iter().map(|t| t.range);
        let mut next = || ranges.next().unwrap_or(0..0);
        let embed = next();
        let layers = (0..self.layers)
            .map(|_| LayerLayout {
                attn_norm: next(),
                q: next(),
                k: next(),
                v: next(),
                q_norm: next(),
                k_norm: next(),
                o: next(),
                ffn_norm: next(),
                gate: next(),
                up: next(),
                down: next(),
            })
            .collect();
        let norm = next();
        Layout {
            embed,
            layers,
            len: norm.end,
            norm,
        }
    }

    /// Fresh parameters: norms are one, matrices are normal, and the two matrices that write
    /// into the residual stream are smaller by the square root of twice the layers.
    pub fn init(&self, seed: u64) -> Vec<f32> {
        let mut out = vec![0.0; self.layout().len];
        let residual = 1.0 / ((2 * self.layers) as f32).sqrt();
        for (i, t) in self.tensors().iter().enumerate() {
            let mut rng = Rng::new(seed, (1 << 40) + i as u64);
            let writes = t.name.contains("attn_output") || t.name.contains("ffn_down");
            let std = INIT_STD * if writes { residual } else { 1.0 };
            for x in &mut out[t.range.clone()] {
                *x = if t.is_norm() { 1.0 } else { rng.normal() * std };
            }
        }
        out
    }
}

/// One parameter: its name in GGUF, its shape, its place in the flat slice.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Name in GGUF.
    pub name: String,
    /// Output rows; 1 for a norm.
    pub rows: usize,
    /// Contiguous elements in a row.
    pub cols: usize,
    /// Place in the flat slice.
    pub range: Range<usize>,
}

impl Tensor {
    /// Whether this is the scale of a norm; norms stay f32 and are not decayed.
    pub fn is_norm(&self) -> bool {
        self.name.ends_with("norm.weight")
    }
}

/// Places of all parameters in the flat slice.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Token embedding, also the output matrix.
    pub embed: Range<usize>,
    /// One entry a layer.
    pub layers: Vec<LayerLayout>,
    /// Final norm.
    pub norm: Range<usize>,
    /// Number of parameters.
    pub len: usize,
}

/// Places of the parameters of one layer.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct LayerLayout {
    pub attn_norm: Range<usize>,
    pub q: Range<usize>,
    pub k: Range<usize>,
    pub v: Range<usize>,
    pub q_norm: Range<usize>,
    pub k_norm: Range<usize>,
    pub o: Range<usize>,
    pub ffn_norm: Range<usize>,
    pub gate: Range<usize>,
    pub up: Range<usize>,
    pub down: Range<usize>,
}
