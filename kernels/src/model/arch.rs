//! Architectures: one file each that reads a GGUF's hyperparameters and tensors
//! into a [`Graph`]. What several of them read in the same way is here.
//!
//! Called by `loader`. An architecture that is not listed in [`build`] is refused
//! by name.

mod bert;
mod gemma2;
mod gemma3;
mod gpt_oss;
mod llama;
mod mistral3;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3moe;

use super::LoadError;
use super::graph::{
    Attention, AttentionShape, Embedding, Experts, FeedForward, Graph, Head, Layer, Mlp,
};
use super::loader::{self, Loader};
use crate::gguf::{Array, Value};
use crate::ops::norm::Activation;
use crate::ops::rope::{Pairs, Rope, RopeSpec, Scaling, Yarn};

/// The names in `general.architecture` that [`build`] knows, for error texts.
pub(super) const KNOWN: &str =
    "llama, qwen2, qwen3, qwen3moe, mistral3, phi3, gemma2, gemma3, gpt-oss and bert are";

/// Read a model's graph.
pub(super) fn build(l: &Loader<'_>) -> Result<Graph, LoadError> {
    match l.architecture.as_str() {
        "llama" => llama::build(l),
        "qwen2" => qwen2::build(l),
        "qwen3" => qwen3::build(l),
        "qwen3moe" => qwen3moe::build(l),
        "mistral3" => mistral3::build(l),
        "phi3" => phi3::build(l),
        "gemma2" => gemma2::build(l),
        "gemma3" => gemma3::build(l),
        "gpt-oss" => gpt_oss::build(l),
        "bert" => bert::build(l),
        _ => Err(LoadError::Architecture {
            architecture: l.architecture.clone(),
        }),
    }
}

/// Sizes that every architecture has.
struct Sizes {
    width: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    context: usize,
    epsilon: f32,
}

impl Sizes {
    fn read(l: &Loader<'_>, epsilon: &str) -> Result<Self, LoadError> {
        let width = l.size("embedding_length", loader::WIDTH)?;
        let heads = l.size("attention.head_count", loader::HEADS)?;
        let kv_heads = l.size_or("attention.head_count_kv", loader::HEADS, heads)?;
        let part = "attention.key_length";
        let head_dim = l.size_or(part, loader::HEAD_DIM, width / heads)?;
        l.require(part, head_dim % 2 == 0, head_dim, "even")?;
        l.require(
            "attention.head_count_kv",
            heads.is_multiple_of(kv_heads),
            kv_heads,
            "a divisor of the head count",
        )?;
        let part = "attention.value_length";
        let value = l.size_or(part, loader::HEAD_DIM, head_dim)?;
        l.require(part, value == head_dim, value, "the key length")?;
        Ok(Self {
            width,
            layers: l.size("block_count", loader::LAYERS)?,
            heads,
            kv_heads,
            head_dim,
            context: l.size("context_length", loader::CONTEXT)?,
            epsilon: l.positive(epsilon)?,
        })
    }

    /// Attention with scores divided by the root of the head's length, turned by the
    /// first rope.
    fn attention(&self) -> AttentionShape {
        AttentionShape {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            rope: Some(0),
            window: None,
            cap: None,
            temperature: None,
            page_at: 0,
        }
    }

    /// The graph of a decoder with these layers.
    fn decoder(
        &self,
        l: &Loader<'_>,
        ropes: Vec<Rope>,
        layers: Vec<Layer>,
    ) -> Result<Graph, LoadError> {
        let vocab = l.vocabulary("token_embd.weight", self.width)?;
        let output = match l.has_tensor("output.weight") {
            true => "output.weight",
            false => "token_embd.weight",
        };
        Ok(Graph {
            width: self.width,
            epsilon: self.epsilon,
            context: self.context as u32,
            vocab,
            embedding: Embedding {
                tensor: "token_embd.weight".to_owned(),
                rows: None,
                scale: None,
                learned: None,
            },
            ropes,
            layers,
            head: Head::Logits {
                norm: l.rms("output_norm", self.width)?,
                output: l.matrix(output, self.width, vocab)?,
                cap: l.optional("final_logit_softcapping")?,
            },
        })
    }
}

/// The root-mean-square epsilon of most decoders.
const RMS_EPSILON: &str = "attention.layer_norm_rms_epsilon";

/// A tensor's name in layer `i`.
fn name(i: usize, part: &str) -> String {
    format!("blk.{i}.{part}")
}

/// Attention with its four matrices; norms of heads and sinks where the file has
/// them.
fn attention(
    l: &Loader<'_>,
    i: usize,
    width: usize,
    shape: AttentionShape,
) -> Result<Attention, LoadError> {
    let (q, kv, dim) = (shape.query_len(), shape.kv_len(), shape.head_dim);
    Ok(Attention {
        query: l.linear(&name(i, "attn_q"), width, q)?,
        key: l.linear(&name(i, "attn_k"), width, kv)?,
        value: l.linear(&name(i, "attn_v"), width, kv)?,
        output: l.linear(&name(i, "attn_output"), q, width)?,
        query_norm: l.optional_vector(&name(i, "attn_q_norm.weight"), dim)?,
        key_norm: l.optional_vector(&name(i, "attn_k_norm.weight"), dim)?,
        sinks: l.optional_vector(&name(i, "attn_sinks.weight"), shape.heads)?,
        shape,
    })
}

/// Refuse a layer without the norms of heads that its architecture has.
fn head_norms(attention: &Attention, i: usize) -> Result<(), LoadError> {
    for (norm, part) in [
        (&attention.query_norm, "attn_q_norm"),
        (&attention.key_norm, "attn_k_norm"),
    ] {
        if norm.is_none() {
            return Err(LoadError::MissingTensor {
                name: name(i, &format!("{part}.weight")),
            });
        }
    }
    Ok(())
}

/// A gated feed-forward part.
fn dense(
    l: &Loader<'_>,
    i: usize,
    width: usize,
    activation: Activation,
) -> Result<FeedForward, LoadError> {
    let inner = l.size("feed_forward_length", loader::WIDTH)?;
    Ok(FeedForward::Dense(Mlp {
        gate: Some(l.linear(&name(i, "ffn_gate"), width, inner)?),
        up: l.linear(&name(i, "ffn_up"), width, inner)?,
        down: l.linear(&name(i, "ffn_down"), inner, width)?,
        activation,
    }))
}

/// Experts of `inner` elements each.
fn experts(
    l: &Loader<'_>,
    i: usize,
    width: usize,
    inner: usize,
    activation: Activation,
) -> Result<FeedForward, LoadError> {
    let count = l.size("expert_count", loader::EXPERTS)?;
    let used = l.size("expert_used_count", loader::EXPERTS)?;
    l.require(
        "expert_used_count",
        used <= count,
        used,
        "at most the expert count",
    )?;
    plain_experts(l)?;
    let gate = l.linears(&name(i, "ffn_gate_exps"), width, inner, count)?;
    let up = l.linears(&name(i, "ffn_up_exps"), width, inner, count)?;
    let down = l.linears(&name(i, "ffn_down_exps"), inner, width, count)?;
    let join = |((gate, up), down)| Mlp {
        gate: Some(gate),
        up,
        down,
        activation,
    };
    Ok(FeedForward::Experts(Experts {
        router: l.linear(&name(i, "ffn_gate_inp"), width, count)?,
        used,
        scale: l.optional("expert_weights_scale")?.filter(|s| *s != 1.0),
        experts: gate.into_iter().zip(up).zip(down).map(join).collect(),
    }))
}

/// Refuse experts that are chosen or weighted in other ways than by softmax.
fn plain_experts(l: &Loader<'_>) -> Result<(), LoadError> {
    for (part, allowed, words) in [
        // 1 is the softmax over all, 3 the softmax over the chosen.
        ("expert_gating_func", [0, 1, 3], "a softmax (1 or 3)"),
        ("expert_shared_count", [0; 3], "0 (no shared experts yet)"),
        (
            "expert_group_count",
            [0, 1, 1],
            "0 or 1 (no groups of experts yet)",
        ),
    ] {
        if l.has(part) {
            let value = l.file.uint(&l.key(part))?;
            l.require(part, allowed.contains(&value), value, words)?;
        }
    }
    Ok(())
}

/// The rope of a model, with the scaling that the file asks for.
fn rope(l: &Loader<'_>, sizes: &Sizes, pairs: Pairs) -> Result<Rope, LoadError> {
    let base = match l.has("rope.freq_base") {
        true => l.positive("rope.freq_base")?,
        // The default of the format's reference reader.
        false => 10_000.0,
    };
    let scaling = scaling(l, sizes)?;
    rope_of(l, sizes, pairs, base, scaling, None)
}

/// A rope whose parameters have been read; refuses angles that NUMERICS.md does not
/// cover.
fn rope_of(
    l: &Loader<'_>,
    sizes: &Sizes,
    pairs: Pairs,
    base: f32,
    scaling: Scaling,
    factors: Option<&[f32]>,
) -> Result<Rope, LoadError> {
    let part = "rope.dimension_count";
    let turning = l.size_or(part, loader::HEAD_DIM, sizes.head_dim)?;
    l.require(
        part,
        turning % 2 == 0 && turning <= sizes.head_dim,
        turning,
        "even and at most the key length",
    )?;
    l.require("rope.freq_base", base > 1.0, base, "above 1")?;
    let magnitude = l.optional("rope.scaling.attn_factor")?.unwrap_or(1.0);
    let rope = Rope::new(&RopeSpec {
        pairs,
        turning,
        base,
        scaling,
        factors,
        magnitude,
    });
    l.require(
        "rope.scaling.factor",
        rope.fastest() * sizes.context as f64 <= f64::from(1 << 20),
        rope.fastest(),
        "such that no position turns by more than 1048576",
    )?;
    Ok(rope)
}

/// How the file asks for positions to be stretched.
fn scaling(l: &Loader<'_>, sizes: &Sizes) -> Result<Scaling, LoadError> {
    let part = "rope.scaling.type";
    let kind = match l.has(part) {
        true => l.file.str(&l.key(part))?,
        false => "linear",
    };
    // The second is an older name of the first.
    let factor = match l.optional("rope.scaling.factor")? {
        Some(factor) => factor,
        None => l.optional("rope.scale_linear")?.unwrap_or(1.0),
    };
    match kind {
        "none" => Ok(Scaling::None),
        "linear" if factor == 1.0 => Ok(Scaling::None),
        "linear" => Ok(Scaling::Linear { factor }),
        "yarn" => Ok(Scaling::Yarn(Yarn {
            factor,
            original: original_context(l, sizes)?,
            fast: l.optional("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            slow: l.optional("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            log_multiplier: l
                .optional("rope.scaling.yarn_log_multiplier")?
                .unwrap_or(0.0),
        })),
        other => {
            l.require(part, false, other, "\"none\", \"linear\" or \"yarn\"")?;
            Ok(Scaling::None)
        }
    }
}

/// The context length before stretching.
fn original_context(l: &Loader<'_>, sizes: &Sizes) -> Result<u32, LoadError> {
    let part = "rope.scaling.original_context_length";
    Ok(l.size_or(part, loader::CONTEXT, sizes.context)? as u32)
}

/// Which layers see a window only: `attention.sliding_window_pattern` as a list, or
/// as a period whose last layer sees everything.
fn windowed(l: &Loader<'_>, layers: usize, period: usize) -> Result<Vec<bool>, LoadError> {
    let part = "attention.sliding_window_pattern";
    let list: Vec<bool> = match l.file.get(&l.key(part)) {
        Some(Value::Array(Array::Bool(list))) => list.clone(),
        Some(Value::Array(Array::U32(list))) => list.iter().map(|x| *x != 0).collect(),
        Some(Value::Array(Array::I32(list))) => list.iter().map(|x| *x != 0).collect(),
        _ => {
            let period = l.size_or(part, loader::LAYERS, period)?;
            return Ok((0..layers).map(|i| i % period < period - 1).collect());
        }
    };
    l.require(
        part,
        list.len() >= layers,
        list.len(),
        "one entry per layer",
    )?;
    Ok(list[..layers].to_vec())
}
