//! What a transformer computes, as data.
//!
//! An architecture is a file that reads hyperparameters and tensors into a
//! [`Graph`]; `forward` runs any graph. Parts that only some architectures have
//! are optional fields here. Sizes that may differ from layer to layer are the
//! layer's own. No arithmetic here: the operations are `ops`, their order is
//! `forward`.

use crate::gguf::{Gguf, TensorType};
use crate::ops::attention::TILE;
use crate::ops::math::ln64;
use crate::ops::norm::Activation;
use crate::ops::rope::Rope;
use crate::ops::weights::Matrix;

/// A whole model.
pub(crate) struct Graph {
    /// Width of the residual stream.
    pub width: usize,
    /// Added to mean squares (or variances) in norms.
    pub epsilon: f32,
    /// Longest sequence in tokens.
    pub context: u32,
    /// Number of token ids.
    pub vocab: usize,
    pub embedding: Embedding,
    /// Tables of angles; layers name theirs by index.
    pub ropes: Vec<Rope>,
    pub layers: Vec<Layer>,
    pub head: Head,
}

/// How tokens become the residual stream.
pub(crate) struct Embedding {
    /// Name of the tensor with a row for every token.
    pub tensor: String,
    /// Its rows as the file has them; none where the output's weights are the same tensor
    /// and can be read row by row.
    pub rows: Option<(TensorType, Vec<u8>)>,
    /// Every element is multiplied by this.
    pub scale: Option<f32>,
    /// Learned positions and a norm, as encoders have them.
    pub learned: Option<Learned>,
}

/// What an encoder adds to its embeddings: `norm((token + kind) + positions[p])`.
pub(crate) struct Learned {
    /// The row of the first token type.
    pub kind: Option<Vec<f32>>,
    /// One row of the stream's width for every position.
    pub positions: Vec<f32>,
    pub norm: Norm,
}

/// What is made of the stream after the last layer.
pub(crate) enum Head {
    /// Logits of the next token.
    Logits {
        norm: Norm,
        /// `vocab` rows.
        output: Matrix,
        /// Bound of the logits: `cap * tanh(l / cap)`.
        cap: Option<f32>,
    },
    /// One vector of a whole text: every position sees all others.
    Pooled(Pooling),
}

/// How the rows of a text become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// The mean over all positions.
    Mean,
    /// The first position.
    First,
    /// The last position.
    Last,
}

/// A norm over the width of a row (or of a head).
pub(crate) enum Norm {
    /// By the root of the mean square.
    Rms(Vec<f32>),
    /// By mean and variance, with a bias.
    Layer { weight: Vec<f32>, bias: Vec<f32> },
}

impl Norm {
    /// Elements of a row.
    pub fn width(&self) -> usize {
        match self {
            Self::Rms(weight) | Self::Layer { weight, .. } => weight.len(),
        }
    }
}

/// Norms around one part of a layer: `x = sum(x + after(part(before(x))))`.
#[derive(Default)]
pub(crate) struct Norms {
    pub before: Option<Norm>,
    pub after: Option<Norm>,
    pub sum: Option<Norm>,
}

/// One layer: attention, then feed-forward, each added to the stream.
pub(crate) struct Layer {
    pub attention_norms: Norms,
    pub attention: Attention,
    pub feed_forward_norms: Norms,
    pub feed_forward: FeedForward,
}

/// `matrix * x + bias`.
pub(crate) struct Linear {
    pub matrix: Matrix,
    pub bias: Option<Vec<f32>>,
}

/// Softmax attention.
pub(crate) struct Attention {
    pub shape: AttentionShape,
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    pub output: Linear,
    /// Norm over each head of the queries, before rope.
    pub query_norm: Option<Vec<f32>>,
    /// Norm over each head of the keys, before rope.
    pub key_norm: Option<Vec<f32>>,
    /// One score per query head that takes part in the softmax and has no value.
    pub sinks: Option<Vec<f32>>,
}

/// The numbers of an attention.
#[derive(Clone, Debug)]
pub(crate) struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements of one head.
    pub head_dim: usize,
    /// Scores are multiplied by this.
    pub scale: f32,
    /// Index into [`Graph::ropes`].
    pub rope: Option<usize>,
    /// A position sees only so many positions, itself among them.
    pub window: Option<u32>,
    /// Bound of the scores: `cap * tanh(score / cap)`.
    pub cap: Option<f32>,
    pub temperature: Option<Temperature>,
    /// Where the layer's tiles begin in a cache page: see [`Graph::place`].
    pub page_at: usize,
}

/// Queries of position `p` are multiplied by `1 + scale * ln(floor(p / every) + 1)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Temperature {
    pub scale: f32,
    pub every: u32,
}

impl Temperature {
    /// What queries at a position are multiplied by.
    pub fn factor(self, position: u32) -> f32 {
        let steps = f64::from(position / self.every + 1);
        (1.0 + f64::from(self.scale) * ln64(steps)) as f32
    }
}

/// The feed-forward part of a layer.
pub(crate) enum FeedForward {
    /// One network for every row.
    Dense(Mlp),
    /// A few of many networks for each row.
    Experts(Experts),
}

/// `down(activation(gate(x), up(x)))`, or `down(activation(up(x)))` without a gate.
pub(crate) struct Mlp {
    pub gate: Option<Linear>,
    pub up: Linear,
    pub down: Linear,
    pub activation: Activation,
}

/// The experts with the largest router logits, weighted by the softmax over these.
pub(crate) struct Experts {
    pub router: Linear,
    /// Experts per row.
    pub used: usize,
    /// The weights are multiplied by this.
    pub scale: Option<f32>,
    pub experts: Vec<Mlp>,
}

impl Graph {
    /// Whether a position sees the earlier ones only.
    pub fn causal(&self) -> bool {
        matches!(self.head, Head::Logits { .. })
    }

    /// Whether a row reads weights that its neighbours do not.
    pub fn mixes(&self) -> bool {
        let mut layers = self.layers.iter();
        layers.any(|layer| matches!(layer.feed_forward, FeedForward::Experts(_)))
    }

    /// Give every layer its place in the cache's pages. The last step of building.
    pub fn place(mut self) -> Self {
        let mut at = 0;
        for layer in &mut self.layers {
            let shape = &mut layer.attention.shape;
            shape.page_at = at;
            at += shape.kv_heads * shape.tile_len();
        }
        self
    }

    /// Let the packed matrices go: a device has its own.
    /// Keep the embedding in memory, unless the output has it: the file may go then.
    pub fn keep_embedding(&mut self, file: &Gguf) {
        let name = &self.embedding.tensor;
        let shared = match &self.head {
            Head::Logits { output, .. } => output.source.tensor == *name && output.has_rows(),
            Head::Pooled(_) => false,
        };
        if let (Some(tensor), false) = (file.tensor(name), shared) {
            let bytes = file.bytes(tensor);
            self.embedding.rows = Some((tensor.ty, bytes.to_vec()));
            file.release(bytes);
        }
    }

    pub fn forget_weights(&mut self) {
        for layer in &mut self.layers {
            let a = &mut layer.attention;
            let attention = [&mut a.query, &mut a.key, &mut a.value, &mut a.output];
            attention.into_iter().for_each(|l| l.matrix.forget());
            let mlps = match &mut layer.feed_forward {
                FeedForward::Dense(mlp) => std::slice::from_mut(mlp),
                FeedForward::Experts(e) => {
                    e.router.matrix.forget();
                    &mut e.experts
                }
            };
            for mlp in mlps {
                let layers = mlp.gate.iter_mut().chain([&mut mlp.up, &mut mlp.down]);
                layers.for_each(|l| l.matrix.forget());
            }
        }
        if let Head::Logits { output, .. } = &mut self.head {
            output.forget();
        }
    }

    /// f16 numbers in one cache page: keys and values of 64 positions, all layers.
    pub fn page_len(&self) -> usize {
        self.layers.last().map_or(0, |last| {
            let shape = &last.attention.shape;
            shape.page_at + shape.kv_heads * shape.tile_len()
        })
    }

    /// Where one head's tile lies in a page.
    pub fn tile(&self, layer: usize, head: usize) -> std::ops::Range<usize> {
        let shape = &self.layers[layer].attention.shape;
        let at = shape.page_at + head * shape.tile_len();
        at..at + shape.tile_len()
    }
}

impl AttentionShape {
    /// f16 numbers of one head's tile in a page.
    pub fn tile_len(&self) -> usize {
        2 * self.head_dim * TILE
    }

    /// Elements of a row of queries.
    pub fn query_len(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Elements of a row of keys or of values.
    pub fn kv_len(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}
