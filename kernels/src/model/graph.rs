//! What a decoder-only transformer computes, as data.
//!
//! An architecture is a file that reads hyperparameters and tensors into a
//! [`Graph`]; `forward` runs any graph. Parts that only some architectures have
//! are optional fields here.

use crate::ops::rope::Rope;
use crate::ops::weights::Matrix;

/// A whole model.
pub(crate) struct Graph {
    /// Width of the residual stream.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements of one head.
    pub head_dim: usize,
    /// Width of the feed-forward part.
    pub feed_forward: usize,
    /// Added to mean squares in norms.
    pub epsilon: f32,
    /// Longest sequence in tokens.
    pub context: u32,
    /// Number of token ids.
    pub vocab: usize,
    /// Name of the embedding tensor; its rows are read from the file.
    pub embedding: String,
    pub rope: Rope,
    pub layers: Vec<Layer>,
    /// Weights of the last norm.
    pub norm: Vec<f32>,
    /// Output matrix, `vocab` rows.
    pub output: Matrix,
}

/// One transformer layer: attention, then feed-forward, each added to the stream.
pub(crate) struct Layer {
    pub attention_norm: Vec<f32>,
    pub query: Matrix,
    pub key: Matrix,
    pub value: Matrix,
    /// Norm over each head of the queries, before rope.
    pub query_norm: Option<Vec<f32>>,
    /// Norm over each head of the keys, before rope.
    pub key_norm: Option<Vec<f32>>,
    pub attention_output: Matrix,
    pub feed_forward_norm: Vec<f32>,
    pub gate: Matrix,
    pub up: Matrix,
    pub down: Matrix,
}

impl Graph {
    /// f16 numbers in one cache page: keys and values of 64 positions, all layers.
    pub fn page_len(&self) -> usize {
        self.layers.len() * self.kv_heads * self.tile_len()
    }

    /// f16 numbers of one head's tile in a page.
    pub fn tile_len(&self) -> usize {
        2 * self.head_dim * crate::ops::attention::TILE
    }
}
