//! `phi3`: Phi 3 and 4. As `qwen2`, with queries, keys and values in one tensor and
//! gate and up in another. Two sets of rope factors (longrope) are refused: which
//! of them holds depends on the length of a session, so an answer could not be
//! replayed. A sliding window in the file is not applied, as converters have written
//! it wrongly and llama.cpp ignores it for this reason.

use super::super::graph::{Attention, FeedForward, Graph, Layer, Mlp, Norms};
use super::super::loader::{self, Loader};
use super::{LoadError, RMS_EPSILON, Sizes, name, rope};
use crate::ops::norm::Activation;
use crate::ops::rope::Pairs;

pub(super) fn build(l: &Loader<'_>) -> Result<Graph, LoadError> {
    let sizes = Sizes::read(l, RMS_EPSILON)?;
    let long = l.has_tensor("rope_factors_long.weight");
    l.require(
        "rope_factors_long",
        !long,
        "there",
        "absent (no longrope yet)",
    )?;
    let rope = rope(l, &sizes, Pairs::Halves)?;
    let layer = |i: usize| -> Result<Layer, LoadError> {
        Ok(Layer {
            attention_norms: Norms {
                before: Some(l.rms(&name(i, "attn_norm"), sizes.width)?),
                ..Norms::default()
            },
            attention: attention(l, i, &sizes)?,
            feed_forward_norms: Norms {
                before: Some(l.rms(&name(i, "ffn_norm"), sizes.width)?),
                ..Norms::default()
            },
            feed_forward: feed_forward(l, i, sizes.width)?,
        })
    };
    let layers = (0..sizes.layers).map(layer).collect::<Result<_, _>>()?;
    sizes.decoder(l, vec![rope], layers)
}

fn attention(l: &Loader<'_>, i: usize, sizes: &Sizes) -> Result<Attention, LoadError> {
    let shape = sizes.attention();
    let (q, kv) = (shape.query_len(), shape.kv_len());
    let part = |from, rows| l.part(&name(i, "attn_qkv"), sizes.width, q + 2 * kv, from, rows);
    Ok(Attention {
        query: part(0, q)?,
        key: part(q, kv)?,
        value: part(q + kv, kv)?,
        output: l.linear(&name(i, "attn_output"), q, sizes.width)?,
        query_norm: None,
        key_norm: None,
        sinks: None,
        shape,
    })
}

fn feed_forward(l: &Loader<'_>, i: usize, width: usize) -> Result<FeedForward, LoadError> {
    let inner = l.size("feed_forward_length", loader::WIDTH)?;
    let part = |from| l.part(&name(i, "ffn_up"), width, 2 * inner, from, inner);
    Ok(FeedForward::Dense(Mlp {
        gate: Some(part(0)?),
        up: part(inner)?,
        down: l.linear(&name(i, "ffn_down"), inner, width)?,
        activation: Activation::Silu,
    }))
}
