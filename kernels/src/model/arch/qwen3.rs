//! `qwen3`: each head of queries and keys is normed before NEOX rope; SwiGLU; output
//! matrix of its own or the embedding again.

use super::super::graph::{FeedForward, Graph, Layer, Norms};
use super::super::loader::Loader;
use super::{LoadError, RMS_EPSILON, Sizes, attention, dense, head_norms, name, rope};
use crate::ops::norm::Activation;
use crate::ops::rope::Pairs;

pub(super) fn build(l: &Loader<'_>) -> Result<Graph, LoadError> {
    let sizes = Sizes::read(l, RMS_EPSILON)?;
    with(l, &sizes, |i| dense(l, i, sizes.width, Activation::Silu))
}

/// A graph with these feed-forward parts.
pub(super) fn with(
    l: &Loader<'_>,
    sizes: &Sizes,
    feed_forward: impl Fn(usize) -> Result<FeedForward, LoadError>,
) -> Result<Graph, LoadError> {
    let rope = rope(l, sizes, Pairs::Halves)?;
    let layer = |i: usize| -> Result<Layer, LoadError> {
        let attention = attention(l, i, sizes.width, sizes.attention())?;
        head_norms(&attention, i)?;
        Ok(Layer {
            attention_norms: Norms {
                before: Some(l.rms(&name(i, "attn_norm"), sizes.width)?),
                ..Norms::default()
            },
            attention,
            feed_forward_norms: Norms {
                before: Some(l.rms(&name(i, "ffn_norm"), sizes.width)?),
                ..Norms::default()
            },
            feed_forward: feed_forward(i)?,
        })
    };
    let layers = (0..sizes.layers).map(layer).collect::<Result<_, _>>()?;
    sizes.decoder(l, vec![rope], layers)
}
