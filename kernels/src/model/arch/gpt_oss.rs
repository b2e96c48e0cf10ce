//! `gpt-oss`: experts with clamped gates, biases everywhere, a sink in every head's
//! softmax, YaRN, and a window on every second layer.

use super::super::graph::{Graph, Layer, Norms};
use super::super::loader::{self, Loader};
use super::{LoadError, RMS_EPSILON, Sizes, attention, experts, name, rope, windowed};
use crate::ops::norm::Activation;
use crate::ops::rope::Pairs;

pub(super) fn build(l: &Loader<'_>) -> Result<Graph, LoadError> {
    let sizes = Sizes::read(l, RMS_EPSILON)?;
    let rope = rope(l, &sizes, Pairs::Halves)?;
    let window = l.size("attention.sliding_window", loader::CONTEXT)? as u32;
    let windowed = windowed(l, sizes.layers, 2)?;
    let inner = l.size("expert_feed_forward_length", loader::WIDTH)?;
    let layer = |i: usize| -> Result<Layer, LoadError> {
        let mut shape = sizes.attention();
        shape.window = windowed[i].then_some(window);
        let attention = attention(l, i, sizes.width, shape)?;
        if attention.sinks.is_none() {
            return Err(LoadError::MissingTensor {
                name: name(i, "attn_sinks.weight"),
            });
        }
        Ok(Layer {
            attention_norms: Norms {
                before: Some(l.rms(&name(i, "attn_norm"), sizes.width)?),
                ..Norms::default()
            },
            attention,
            feed_forward_norms: Norms {
                // The file's name for the norm before the feed-forward part.
                before: Some(l.rms(&name(i, "post_attention_norm"), sizes.width)?),
                ..Norms::default()
            },
            feed_forward: experts(l, i, sizes.width, inner, Activation::SwigluClamped)?,
        })
    };
    let layers = (0..sizes.layers).map(layer).collect::<Result<_, _>>()?;
    sizes.decoder(l, vec![rope], layers)
}
