//! `gemma3`: scaled embeddings, norms before and after each part, normed heads, GELU
//! gates; five layers see a window and turn by a rope of their own, the sixth sees
//! everything.

use super::super::graph::{Graph, Layer, Norms};
use super::super::loader::{self, Loader};
use super::{
    LoadError, RMS_EPSILON, Sizes, attention, dense, head_norms, name, rope, rope_of, windowed,
};
use crate::ops::norm::Activation;
use crate::ops::rope::{Pairs, Scaling};

/// The 27B model alone divides its scores by the root of width / heads.
const LAYERS_27B: usize = 62;

pub(super) fn build(l: &Loader<'_>) -> Result<Graph, LoadError> {
    let sizes = Sizes::read(l, RMS_EPSILON)?;
    let global = rope(l, &sizes, Pairs::Halves)?;
    let local_base = l.optional("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let local = rope_of(l, &sizes, Pairs::Halves, local_base, Scaling::None, None)?;
    let window = match l.has("attention.sliding_window") {
        true => Some(l.size("attention.sliding_window", loader::CONTEXT)? as u32),
        false => None,
    };
    let windowed = match window {
        Some(_) => windowed(l, sizes.layers, 6)?,
        None => vec![false; sizes.layers],
    };
    let scale = match sizes.layers {
        LAYERS_27B => 1.0 / ((sizes.width / sizes.heads) as f32).sqrt(),
        _ => 1.0 / (sizes.head_dim as f32).sqrt(),
    };
    let layer = |i: usize| -> Result<Layer, LoadError> {
        let mut shape = sizes.attention();
        shape.scale = scale;
        shape.cap = l.optional("attn_logit_softcapping")?;
        if windowed[i] {
            (shape.window, shape.rope) = (window, Some(1));
        }
        let attention = attention(l, i, sizes.width, shape)?;
        head_norms(&attention, i)?;
        Ok(Layer {
            attention_norms: Norms {
                before: Some(l.rms(&name(i, "attn_norm"), sizes.width)?),
                after: Some(l.rms(&name(i, "post_attention_norm"), sizes.width)?),
                sum: None,
            },
            attention,
            feed_forward_norms: Norms {
                before: Some(l.rms(&name(i, "ffn_norm"), sizes.width)?),
                after: Some(l.rms(&name(i, "post_ffw_norm"), sizes.width)?),
                sum: None,
            },
            feed_forward: dense(l, i, sizes.width, Activation::GeluTanh)?,
        })
    };
    let layers = (0..sizes.layers).map(layer).collect::<Result<_, _>>()?;
    let mut graph = sizes.decoder(l, vec![global, local], layers)?;
    graph.embedding.scale = Some((sizes.width as f32).sqrt());
    Ok(graph)
}
