//! `qwen2`: Qwen 2 and 2.5. Biases on queries, keys and values; NEOX rope.

use super::super::graph::{Graph, Layer, Norms};
use super::super::loader::Loader;
use super::{LoadError, RMS_EPSILON, Sizes, attention, dense, name, rope};
use crate::ops::norm::Activation;
use crate::ops::rope::Pairs;

pub(super) fn build(l: &Loader<'_>) -> Result<Graph, LoadError> {
    let sizes = Sizes::read(l, RMS_EPSILON)?;
    let rope = rope(l, &sizes, Pairs::Halves)?;
    let layer = |i: usize| -> Result<Layer, LoadError> {
        Ok(Layer {
            attention_norms: Norms {
                before: Some(l.rms(&name(i, "attn_norm"), sizes.width)?),
                ..Norms::default()
            },
            attention: attention(l, i, sizes.width, sizes.attention())?,
            feed_forward_norms: Norms {
                before: Some(l.rms(&name(i, "ffn_norm"), sizes.width)?),
                ..Norms::default()
            },
            feed_forward: dense(l, i, sizes.width, Activation::Silu)?,
        })
    };
    let layers = (0..sizes.layers).map(layer).collect::<Result<_, _>>()?;
    sizes.decoder(l, vec![rope], layers)
}
