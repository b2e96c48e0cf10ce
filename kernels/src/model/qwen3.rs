//! `qwen3`: grouped-query attention with normed queries and keys, NEOX rope,
//! SwiGLU, output matrix of its own or the embedding again.

use super::graph::{Graph, Layer};
use super::loader::Loader;
use super::{LoadError, loader};
use crate::ops::rope::Rope;

pub(super) fn build(l: &Loader<'_>) -> Result<Graph, LoadError> {
    let width = l.size("embedding_length", loader::WIDTH)?;
    let layers = l.size("block_count", loader::LAYERS)?;
    let heads = l.size("attention.head_count", loader::HEADS)?;
    let kv_heads = l.size("attention.head_count_kv", loader::HEADS)?;
    let head_dim = match l.has("attention.key_length") {
        true => l.size("attention.key_length", loader::HEAD_DIM)?,
        false => l.within(
            "attention.key_length",
            (width / heads) as u64,
            loader::HEAD_DIM,
        )?,
    };
    let feed_forward = l.size("feed_forward_length", loader::WIDTH)?;
    let context = l.size("context_length", loader::CONTEXT)? as u32;
    let epsilon = l.positive("attention.layer_norm_rms_epsilon")?;
    let base = l.positive("rope.freq_base")?;
    l.require(
        "attention.head_count_kv",
        heads % kv_heads == 0,
        kv_heads,
        "a divisor of the head count",
    )?;
    l.require("attention.key_length", head_dim % 2 == 0, head_dim, "even")?;
    if l.has("attention.value_length") {
        let value = l.size("attention.value_length", loader::HEAD_DIM)?;
        l.require(
            "attention.value_length",
            value == head_dim,
            value,
            "the key length",
        )?;
    }
    l.plain_rope()?;

    let vocab = l.vocabulary("token_embd.weight", width)?;
    let output = match l.file.tensor("output.weight") {
        Some(_) => "output.weight",
        None => "token_embd.weight",
    };
    let layer = |i: usize| -> Result<Layer, LoadError> {
        let name = |part: &str| format!("blk.{i}.{part}.weight");
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        Ok(Layer {
            attention_norm: l.vector(&name("attn_norm"), width)?,
            query: l.matrix(&name("attn_q"), width, q)?,
            key: l.matrix(&name("attn_k"), width, kv)?,
            value: l.matrix(&name("attn_v"), width, kv)?,
            query_norm: Some(l.vector(&name("attn_q_norm"), head_dim)?),
            key_norm: Some(l.vector(&name("attn_k_norm"), head_dim)?),
            attention_output: l.matrix(&name("attn_output"), q, width)?,
            feed_forward_norm: l.vector(&name("ffn_norm"), width)?,
            gate: l.matrix(&name("ffn_gate"), width, feed_forward)?,
            up: l.matrix(&name("ffn_up"), width, feed_forward)?,
            down: l.matrix(&name("ffn_down"), feed_forward, width)?,
        })
    };
    Ok(Graph {
        width,
        heads,
        kv_heads,
        head_dim,
        feed_forward,
        epsilon,
        context,
        vocab,
        embedding: "token_embd.weight".to_owned(),
        rope: Rope::new(head_dim, base),
        layers: (0..layers).map(layer).collect::<Result<_, _>>()?,
        norm: l.vector("output_norm.weight", width)?,
        output: l.matrix(output, width, vocab)?,
    })
}
