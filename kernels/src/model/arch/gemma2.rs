//! `gemma2`: scaled embeddings, norms before and after each part, GELU gates, capped
//! scores and logits; every other layer, the first one among them, sees a window.

use super::super::graph::{Graph, Head, Layer, Norms};
use super::super::loader::{self, Loader};
use super::{LoadError, RMS_EPSILON, Sizes, attention, dense, name, rope, windowed};
use crate::ops::norm::Activation;
use crate::ops::rope::Pairs;

/// The 27B model alone divides its scores by the root of width / heads.
const LAYERS_27B: usize = 46;
/// What files without the keys mean: all models of the family have these.
const SCORE_CAP: f32 = 50.0;
const LOGIT_CAP: f32 = 30.0;
const WINDOW: usize = 4096;

pub(super) fn build(l: &Loader<'_>) -> Result<Graph, LoadError> {
    let sizes = Sizes::read(l, RMS_EPSILON)?;
    let rope = rope(l, &sizes, Pairs::Halves)?;
    let window = l.size_or("attention.sliding_window", loader::CONTEXT, WINDOW)? as u32;
    let windowed = windowed(l, sizes.layers, 2)?;
    let scale = match sizes.layers {
        LAYERS_27B => 1.0 / ((sizes.width / sizes.heads) as f32).sqrt(),
        _ => 1.0 / (sizes.head_dim as f32).sqrt(),
    };
    let cap = l.optional("attn_logit_softcapping")?.unwrap_or(SCORE_CAP);
    let layer = |i: usize| -> Result<Layer, LoadError> {
        let mut shape = sizes.attention();
        (shape.scale, shape.cap) = (scale, Some(cap));
        shape.window = windowed[i].then_some(window);
        Ok(Layer {
            attention_norms: Norms {
                before: Some(l.rms(&name(i, "attn_norm"), sizes.width)?),
                after: Some(l.rms(&name(i, "post_attention_norm"), sizes.width)?),
                sum: None,
            },
            attention: attention(l, i, sizes.width, shape)?,
            feed_forward_norms: Norms {
                before: Some(l.rms(&name(i, "ffn_norm"), sizes.width)?),
                after: Some(l.rms(&name(i, "post_ffw_norm"), sizes.width)?),
                sum: None,
            },
            feed_forward: dense(l, i, sizes.width, Activation::GeluTanh)?,
        })
    };
    let layers = (0..sizes.layers).map(layer).collect::<Result<_, _>>()?;
    let mut graph = sizes.decoder(l, vec![rope], layers)?;
    graph.embedding.scale = Some((sizes.width as f32).sqrt());
    if let Head::Logits { cap, .. } = &mut graph.head {
        *cap = cap.or(Some(LOGIT_CAP));
    }
    Ok(graph)
}
