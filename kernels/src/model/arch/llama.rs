//! `llama`: Llama 2 and 3, Mistral 7B, SmolLM and the many that share their shape.
//! Rope over neighbouring elements, as the conversion to GGUF permutes queries and
//! keys; `rope_freqs.weight` holds the factors of Llama 3.1; experts as in Mixtral
//! where the file has them.

use super::super::graph::{Graph, Layer, Norms};
use super::super::loader::{self, Loader};
use super::{LoadError, RMS_EPSILON, Sizes, attention, dense, experts, name, rope_of, scaling};
use crate::ops::norm::Activation;
use crate::ops::rope::{Pairs, Rope};

pub(super) fn build(l: &Loader<'_>) -> Result<Graph, LoadError> {
    let sizes = Sizes::read(l, RMS_EPSILON)?;
    let rope = factored_rope(l, &sizes)?;
    let mixture = l.has("expert_count") && l.file.uint(&l.key("expert_count"))? != 0;
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
            feed_forward: match mixture {
                true => {
                    let inner = l.size("feed_forward_length", loader::WIDTH)?;
                    experts(l, i, sizes.width, inner, Activation::Silu)?
                }
                false => dense(l, i, sizes.width, Activation::Silu)?,
            },
        })
    };
    let layers = (0..sizes.layers).map(layer).collect::<Result<_, _>>()?;
    sizes.decoder(l, vec![rope], layers)
}

/// Neighbouring pairs, each frequency divided by its factor where there are any.
pub(super) fn factored_rope(l: &Loader<'_>, sizes: &Sizes) -> Result<Rope, LoadError> {
    let base = match l.has("rope.freq_base") {
        true => l.positive("rope.freq_base")?,
        false => 10_000.0,
    };
    let turning = l.size_or("rope.dimension_count", loader::HEAD_DIM, sizes.head_dim)?;
    let factors = l.optional_vector("rope_freqs.weight", turning / 2)?;
    if let Some(bad) = factors
        .iter()
        .flatten()
        .find(|f| !f.is_normal() || **f <= 0.0)
    {
        l.require("rope_freqs.weight", false, bad, "positive numbers")?;
    }
    let scaling = scaling(l, sizes)?;
    rope_of(
        l,
        sizes,
        Pairs::Neighbours,
        base,
        scaling,
        factors.as_deref(),
    )
}
