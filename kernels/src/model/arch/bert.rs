//! `bert`: an encoder for embeddings (all-MiniLM, BGE and their like). Learned
//! positions, norms by mean and variance after each sum, GELU without a gate, every
//! position sees all others; the rows are pooled into one vector.

use super::super::graph::{
    Embedding, FeedForward, Graph, Head, Layer, Learned, Mlp, Norms, Pooling,
};
use super::super::loader::{self, Loader};
use super::{LoadError, Sizes, attention, name};
use crate::ops::norm::Activation;

pub(super) fn build(l: &Loader<'_>) -> Result<Graph, LoadError> {
    let sizes = Sizes::read(l, "attention.layer_norm_epsilon")?;
    let inner = l.size("feed_forward_length", loader::WIDTH)?;
    let vocab = l.vocabulary("token_embd.weight", sizes.width)?;
    let layer = |i: usize| -> Result<Layer, LoadError> {
        let mut shape = sizes.attention();
        shape.rope = None;
        Ok(Layer {
            attention_norms: Norms {
                sum: Some(l.layer_norm(&name(i, "attn_output_norm"), sizes.width)?),
                ..Norms::default()
            },
            attention: attention(l, i, sizes.width, shape)?,
            feed_forward_norms: Norms {
                sum: Some(l.layer_norm(&name(i, "layer_output_norm"), sizes.width)?),
                ..Norms::default()
            },
            feed_forward: FeedForward::Dense(Mlp {
                gate: None,
                up: l.linear(&name(i, "ffn_up"), sizes.width, inner)?,
                down: l.linear(&name(i, "ffn_down"), inner, sizes.width)?,
                activation: Activation::GeluErf,
            }),
        })
    };
    let kind = match l.file.tensor("token_types.weight") {
        Some(tensor) => {
            let mut all = l.floats("token_types.weight", &[sizes.width, tensor.rows()])?;
            all.truncate(sizes.width);
            Some(all)
        }
        None => None,
    };
    Ok(Graph {
        width: sizes.width,
        epsilon: sizes.epsilon,
        context: sizes.context as u32,
        vocab,
        embedding: Embedding {
            tensor: "token_embd.weight".to_owned(),
            rows: None,
            scale: None,
            learned: Some(Learned {
                kind,
                positions: l.floats("position_embd.weight", &[sizes.width, sizes.context])?,
                norm: l.layer_norm("token_embd_norm", sizes.width)?,
            }),
        },
        ropes: Vec::new(),
        layers: (0..sizes.layers).map(layer).collect::<Result<_, _>>()?,
        head: Head::Pooled(pooling(l)?),
    })
}

/// `pooling_type`: 1 mean, 2 the first position (CLS), 3 the last; the mean where the
/// file does not say.
fn pooling(l: &Loader<'_>) -> Result<Pooling, LoadError> {
    let part = "pooling_type";
    let value = match l.has(part) {
        true => l.file.uint(&l.key(part))?,
        false => 1,
    };
    match value {
        1 => Ok(Pooling::Mean),
        2 => Ok(Pooling::First),
        3 => Ok(Pooling::Last),
        other => {
            l.require(part, false, other, "1 (mean), 2 (first) or 3 (last)")?;
            Ok(Pooling::Mean)
        }
    }
}
