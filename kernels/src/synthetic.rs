//! Random-weight models of a given shape, as GGUF bytes in memory.
//!
//! For benchmarks (the profiler measures a shape without downloading it) and for
//! tests. The weights are noise with a sensible spread: the model computes what a
//! real one of its shape computes, and says nothing. Not the pocket model, which
//! is trained. Called by `bench` and by tests, here and in other crates.

mod file;

use crate::gguf::TensorType;
use file::Builder;

/// The size of a qwen3 model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Width of the residual stream.
    pub embedding: u32,
    /// Number of layers.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Width of one head.
    pub head_dim: u32,
    /// Width of the feed-forward part.
    pub feed_forward: u32,
    /// Vocabulary size, at least [`MIN_VOCAB`].
    pub vocab: u32,
    /// Context length in tokens.
    pub context: u32,
    /// Whether the output matrix is the embedding.
    pub tied: bool,
}

/// 256 bytes, the merges below, and three special tokens.
pub const MIN_VOCAB: u32 = 256 + MERGES.len() as u32 + 3;

const MERGES: [&str; 12] = [
    "t h", "th e", "i n", "a n", "e r", "o u", "r e", "Ġ a", "Ġ the", "h e", "l l", "he ll",
];

const TEMPLATE: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

impl Shape {
    /// A few hundred kilobytes: for tests.
    pub fn tiny() -> Self {
        Self {
            embedding: 64,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 32,
            feed_forward: 96,
            vocab: 320,
            context: 512,
            tied: true,
        }
    }

    /// The shape of Qwen3-0.6B.
    pub fn qwen3_0_6b() -> Self {
        Self {
            embedding: 1024,
            layers: 28,
            heads: 16,
            kv_heads: 8,
            head_dim: 128,
            feed_forward: 3072,
            vocab: 151_936,
            context: 40_960,
            tied: true,
        }
    }
}

/// A qwen3 model of that shape with random weights stored as `ty`, any type that the
/// kernels read and whose blocks divide the shape's rows (norms are always F32). Equal
/// arguments give equal bytes.
pub fn qwen3(shape: &Shape, ty: TensorType, seed: u64) -> Vec<u8> {
    let mut b = Builder::default();
    let s = shape;
    b.str("general.architecture", "qwen3");
    b.str("general.name", "synthetic");
    for (key, value) in [
        ("block_count", s.layers),
        ("context_length", s.context),
        ("embedding_length", s.embedding),
        ("feed_forward_length", s.feed_forward),
        ("attention.head_count", s.heads),
        ("attention.head_count_kv", s.kv_heads),
        ("attention.key_length", s.head_dim),
        ("attention.value_length", s.head_dim),
    ] {
        b.u32(&format!("qwen3.{key}"), value);
    }
    b.f32("qwen3.rope.freq_base", 1_000_000.0);
    b.f32("qwen3.attention.layer_norm_rms_epsilon", 1e-6);
    vocabulary(&mut b, s.vocab);

    let (e, q, kv) = (s.embedding, s.heads * s.head_dim, s.kv_heads * s.head_dim);
    let mut rng = seed;
    b.random("token_embd.weight", ty, e, s.vocab, &mut rng);
    for layer in 0..s.layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        b.norm(&name("attn_norm"), e, &mut rng);
        b.random(&name("attn_q"), ty, e, q, &mut rng);
        b.random(&name("attn_k"), ty, e, kv, &mut rng);
        b.random(&name("attn_v"), ty, e, kv, &mut rng);
        b.norm(&name("attn_q_norm"), s.head_dim, &mut rng);
        b.norm(&name("attn_k_norm"), s.head_dim, &mut rng);
        b.random(&name("attn_output"), ty, q, e, &mut rng);
        b.norm(&name("ffn_norm"), e, &mut rng);
        b.random(&name("ffn_gate"), ty, e, s.feed_forward, &mut rng);
        b.random(&name("ffn_up"), ty, e, s.feed_forward, &mut rng);
        b.random(&name("ffn_down"), ty, s.feed_forward, e, &mut rng);
    }
    b.norm("output_norm.weight", e, &mut rng);
    if !s.tied {
        b.random("output.weight", ty, e, s.vocab, &mut rng);
    }
    b.finish()
}

/// A small model that makes embeddings (`bert`), with random weights. Equal seeds give
/// equal bytes.
pub fn bert(seed: u64) -> Vec<u8> {
    const CONTEXT: u32 = 128;
    let (e, inner, vocab, layers) = (32, 64, MIN_VOCAB, 2);
    let mut b = Builder::default();
    b.str("general.architecture", "bert");
    b.str("general.name", "synthetic embeddings");
    for (key, value) in [
        ("block_count", layers),
        ("context_length", CONTEXT),
        ("embedding_length", e),
        ("feed_forward_length", inner),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 2),
        ("pooling_type", 1),
    ] {
        b.u32(&format!("bert.{key}"), value);
    }
    b.f32("bert.attention.layer_norm_epsilon", 1e-6);
    b.bool("bert.attention.causal", false);
    b.u32("tokenizer.ggml.token_type_count", 2);
    vocabulary(&mut b, vocab);

    let (f32, mut rng) = (TensorType::F32, seed);
    let rng = &mut rng;
    let normed = |b: &mut Builder, name: &str, rng: &mut u64| {
        b.norm(&format!("{name}.weight"), e, rng);
        b.norm(&format!("{name}.bias"), e, rng);
    };
    let linear = |b: &mut Builder, name: &str, k: u32, rows: u32, rng: &mut u64| {
        b.random(&format!("{name}.weight"), f32, k, rows, rng);
        b.norm(&format!("{name}.bias"), rows, rng);
    };
    b.random("token_embd.weight", f32, e, vocab, rng);
    b.random("token_types.weight", f32, e, 2, rng);
    b.random("position_embd.weight", f32, e, CONTEXT, rng);
    normed(&mut b, "token_embd_norm", rng);
    for layer in 0..layers {
        let name = |part: &str| format!("blk.{layer}.{part}");
        for part in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            linear(&mut b, &name(part), e, e, rng);
        }
        normed(&mut b, &name("attn_output_norm"), rng);
        linear(&mut b, &name("ffn_up"), e, inner, rng);
        linear(&mut b, &name("ffn_down"), inner, e, rng);
        normed(&mut b, &name("layer_output_norm"), rng);
    }
    b.finish()
}

fn vocabulary(b: &mut Builder, size: u32) {
    let mut tokens: Vec<String> = (0..=255u8)
        .map(|x| crate::tokenizer::byte_char(x).to_string())
        .collect();
    tokens.extend(MERGES.iter().map(|m| m.replace(' ', "")));
    let mut kinds = vec![1i32; tokens.len()];
    let specials = tokens.len() as u32;
    tokens.extend(["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(str::to_owned));
    kinds.extend([3, 3, 3]);
    while (tokens.len() as u32) < size {
        tokens.push(format!("[PAD{}]", tokens.len()));
        kinds.push(5);
    }
    b.str("tokenizer.ggml.model", "gpt2");
    b.str("tokenizer.ggml.pre", "qwen2");
    b.strings("tokenizer.ggml.tokens", &tokens);
    b.i32s("tokenizer.ggml.token_type", &kinds);
    b.strings("tokenizer.ggml.merges", &MERGES.map(str::to_owned));
    b.u32("tokenizer.ggml.eos_token_id", specials + 2);
    b.str("tokenizer.chat_template", TEMPLATE);
}

/// One matrix of random weights of any type that the kernels read: the bytes of `rows`
/// rows of `k` elements, as in a file.
pub(crate) fn weights(ty: TensorType, k: usize, rows: usize, seed: u64) -> Vec<u8> {
    let (mut b, mut rng) = (Builder::default(), seed);
    b.random("weights", ty, k as u32, rows as u32, &mut rng);
    b.into_data()
}

#[cfg(test)]
mod tests;
