//! Small random models of every architecture, for tests: written by the crate's own
//! GGUF writer with the names and keys that converters write.

use crate::gguf::write::{Encoding, Value, Writer};

/// Every kind that [`write`] knows: an architecture, or one of its variants.
pub(crate) const DECODERS: [&str; 13] = [
    "llama",
    "llama-factors",
    "llama-mixture",
    "qwen2",
    "qwen3",
    "qwen3moe",
    "mistral3",
    "phi3",
    "gemma2",
    "gemma2-bare",
    "gemma3",
    "gemma3-capped",
    "gpt-oss",
];

/// Positions that a windowed layer sees: less than two tiles, not a whole one.
const WINDOW: u32 = 70;

struct Zoo {
    w: Writer,
    arch: &'static str,
    encoding: Encoding,
    state: u64,
}

impl Zoo {
    fn u32(&mut self, key: &str, value: u32) {
        self.w
            .key(&format!("{}.{key}", self.arch), Value::U32(value));
    }

    fn f32(&mut self, key: &str, value: f32) {
        self.w
            .key(&format!("{}.{key}", self.arch), Value::F32(value));
    }

    fn text(&mut self, key: &str, value: &str) {
        self.w
            .key(&format!("{}.{key}", self.arch), Value::Text(value.into()));
    }

    /// Mean zero, deviation one: twelve uniform numbers, added.
    fn normal(&mut self) -> f32 {
        let mut sum = 0.0;
        for _ in 0..12 {
            self.state = self
                .state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            sum += (self.state >> 40) as f32 / (1u64 << 24) as f32;
        }
        sum - 6.0
    }

    fn random(&mut self, name: &str, dims: &[usize], mean: f32, deviation: f32, e: Encoding) {
        let n: usize = dims.iter().product();
        let x: Vec<f32> = (0..n).map(|_| mean + deviation * self.normal()).collect();
        self.w.tensor(name, dims, &x, e);
    }

    fn matrix(&mut self, name: &str, dims: &[usize]) {
        let deviation = 1.0 / (dims[0] as f32).sqrt();
        self.random(
            &format!("{name}.weight"),
            dims,
            0.0,
            deviation,
            self.encoding,
        );
    }

    /// A small matrix that stays in f32, as routers do.
    fn router(&mut self, name: &str, dims: &[usize]) {
        let deviation = 2.0 / (dims[0] as f32).sqrt();
        self.random(
            &format!("{name}.weight"),
            dims,
            0.0,
            deviation,
            Encoding::F32,
        );
    }

    fn bias(&mut self, name: &str, dims: &[usize]) {
        self.random(&format!("{name}.bias"), dims, 0.0, 0.3, Encoding::F32);
    }

    fn norm(&mut self, name: &str, n: usize) {
        self.random(&format!("{name}.weight"), &[n], 1.0, 0.1, Encoding::F32);
    }

    fn biased(&mut self, name: &str, dims: &[usize]) {
        self.matrix(name, dims);
        self.bias(name, &dims[1..]);
    }

    fn vocabulary(&mut self, size: usize) {
        let mut tokens: Vec<String> = (0..=255u8)
            .map(|x| crate::tokenizer::byte_char(x).to_string())
            .collect();
        tokens.extend(["th", "<|end|>"].map(str::to_owned));
        let mut kinds = vec![1; 257];
        kinds.push(3);
        while tokens.len() < size {
            tokens.push(format!("[PAD{}]", tokens.len()));
            kinds.push(5);
        }
        for (key, value) in [
            ("model", Value::Text("gpt2".into())),
            ("pre", Value::Text("qwen2".into())),
            ("tokens", Value::Texts(tokens)),
            ("token_type", Value::I32s(kinds)),
            ("merges", Value::Texts(vec!["t h".into()])),
            ("eos_token_id", Value::U32(257)),
        ] {
            self.w.key(&format!("tokenizer.ggml.{key}"), value);
        }
    }
}

/// A model of one of the kinds, or `"bert"`.
pub(crate) fn write(kind: &str, encoding: Encoding, seed: u64) -> Vec<u8> {
    let arch = match kind {
        "llama" | "llama-factors" | "llama-mixture" => "llama",
        "qwen2" => "qwen2",
        "qwen3" => "qwen3",
        "qwen3moe" => "qwen3moe",
        "mistral3" => "mistral3",
        "phi3" => "phi3",
        "gemma2" | "gemma2-bare" => "gemma2",
        "gemma3" | "gemma3-capped" => "gemma3",
        "gpt-oss" => "gpt-oss",
        "bert" => "bert",
        other => panic!("no such kind: {other}"),
    };
    let mut z = Zoo {
        w: Writer::new(arch),
        arch,
        encoding,
        state: seed,
    };
    let shape = Shape {
        width: 64,
        inner: if arch == "gpt-oss" { 64 } else { 96 },
        // Groups of one, two, four and six heads.
        heads: if arch == "gemma3" { 6 } else { 4 },
        kv_heads: match kind {
            "bert" => 4,
            "llama-factors" | "gemma3" | "gemma3-capped" => 1,
            _ => 2,
        },
        // Heads whose lengths are not those of the stream divided, and not of whole
        // registers.
        dim: match arch {
            "gemma3" => 48,
            "gpt-oss" => 64,
            "llama" | "bert" | "qwen2" | "phi3" => 16,
            _ => 32,
        },
        layers: if arch == "gemma3" { 7 } else { 3 },
        vocab: 288,
    };
    keys(&mut z, kind, &shape);
    z.vocabulary(shape.vocab);
    tensors(&mut z, kind, &shape);
    z.w.finish()
}

struct Shape {
    width: usize,
    inner: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    layers: usize,
    vocab: usize,
}

fn keys(z: &mut Zoo, kind: &str, s: &Shape) {
    for (key, value) in [
        ("block_count", s.layers),
        ("context_length", 512),
        ("embedding_length", s.width),
        ("feed_forward_length", s.inner),
        ("attention.head_count", s.heads),
        ("attention.head_count_kv", s.kv_heads),
        ("attention.key_length", s.dim),
        ("attention.value_length", s.dim),
    ] {
        z.u32(key, value as u32);
    }
    match z.arch {
        "bert" => {
            z.f32("attention.layer_norm_epsilon", 1e-6);
            z.u32("pooling_type", 1);
            z.w.key("bert.attention.causal", Value::Bool(false));
            let key = "tokenizer.ggml.token_type_count";
            z.w.key(key, Value::U32(2));
        }
        _ => {
            z.f32("attention.layer_norm_rms_epsilon", 1e-6);
            z.f32("rope.freq_base", 100_000.0);
            z.u32("rope.dimension_count", s.dim as u32);
        }
    }
    match kind {
        "llama-mixture" => {
            z.u32("expert_count", 4);
            z.u32("expert_used_count", 2);
        }
        "qwen3moe" => {
            z.u32("expert_count", 8);
            z.u32("expert_used_count", 3);
            z.u32("expert_feed_forward_length", s.inner as u32);
        }
        "mistral3" => {
            yarn(z, 8.0, 64);
            z.f32("rope.scaling.yarn_log_multiplier", 0.7);
            z.f32("rope.scaling.yarn_beta_fast", 4.0);
            z.f32("rope.scaling.yarn_beta_slow", 0.5);
            z.f32("attention.temperature_scale", 0.1);
        }
        "gemma3" | "gemma3-capped" => {
            z.u32("attention.sliding_window", WINDOW);
            z.text("rope.scaling.type", "linear");
            z.f32("rope.scaling.factor", 8.0);
            if kind == "gemma3-capped" {
                z.f32("attn_logit_softcapping", 2.0);
                z.f32("final_logit_softcapping", 3.0);
                let pattern = [true, false, true, true, false, true, false];
                let key = "gemma3.attention.sliding_window_pattern";
                z.w.key(key, Value::Bools(pattern.to_vec()));
            }
        }
        "gemma2" => {
            z.u32("attention.sliding_window", WINDOW);
            z.f32("attn_logit_softcapping", 2.0);
            z.f32("final_logit_softcapping", 3.0);
        }
        "gpt-oss" => {
            yarn(z, 32.0, 64);
            z.u32("attention.sliding_window", WINDOW);
            z.u32("expert_count", 8);
            z.u32("expert_used_count", 4);
            z.u32("expert_feed_forward_length", s.inner as u32);
        }
        _ => {}
    }
}

fn yarn(z: &mut Zoo, factor: f32, original: u32) {
    z.text("rope.scaling.type", "yarn");
    z.f32("rope.scaling.factor", factor);
    z.u32("rope.scaling.original_context_length", original);
}

fn tensors(z: &mut Zoo, kind: &str, s: &Shape) {
    let (e, f) = (s.width, s.inner);
    z.matrix("token_embd", &[e, s.vocab]);
    if kind == "bert" {
        z.random("token_types.weight", &[e, 2], 0.0, 0.3, Encoding::F32);
        z.random("position_embd.weight", &[e, 512], 0.0, 0.3, Encoding::F32);
        z.norm("token_embd_norm", e);
        z.bias("token_embd_norm", &[e]);
    } else {
        z.norm("output_norm", e);
    }
    if !matches!(kind, "bert" | "qwen3" | "gemma2" | "gemma3" | "llama") {
        z.matrix("output", &[e, s.vocab]);
    }
    if kind == "llama-factors" {
        let factors: Vec<f32> = (0..s.dim / 2).map(|i| 1.0 + i as f32).collect();
        z.w.tensor("rope_freqs.weight", &[s.dim / 2], &factors, Encoding::F32);
    }
    for i in 0..s.layers {
        let name = |part: &str| format!("blk.{i}.{part}");
        if kind != "bert" {
            z.norm(&name("attn_norm"), e);
        }
        let biased = matches!(kind, "qwen2" | "gpt-oss" | "bert");
        let (q, kv) = (s.heads * s.dim, s.kv_heads * s.dim);
        let matrices: &[_] = match kind {
            "phi3" => &[("attn_qkv", e, q + 2 * kv), ("attn_output", q, e)],
            _ => &[
                ("attn_q", e, q),
                ("attn_k", e, kv),
                ("attn_v", e, kv),
                ("attn_output", q, e),
            ],
        };
        for &(part, k, rows) in matrices {
            z.matrix(&name(part), &[k, rows]);
            if biased && (part != "attn_output" || kind != "qwen2") {
                z.bias(&name(part), &[rows]);
            }
        }
        if matches!(z.arch, "qwen3" | "qwen3moe" | "gemma3") {
            z.norm(&name("attn_q_norm"), s.dim);
            z.norm(&name("attn_k_norm"), s.dim);
        }
        match kind {
            "gpt-oss" => {
                let sinks = name("attn_sinks.weight");
                z.random(&sinks, &[s.heads], 1.0, 2.0, Encoding::F32);
                z.norm(&name("post_attention_norm"), e);
            }
            "gemma2" | "gemma2-bare" | "gemma3" | "gemma3-capped" => {
                z.norm(&name("post_attention_norm"), e);
                z.norm(&name("ffn_norm"), e);
                z.norm(&name("post_ffw_norm"), e);
            }
            "bert" => {
                for part in ["attn_output_norm", "layer_output_norm"] {
                    z.norm(&name(part), e);
                    z.bias(&name(part), &[e]);
                }
            }
            _ => z.norm(&name("ffn_norm"), e),
        }
        match kind {
            "bert" => {
                z.biased(&name("ffn_up"), &[e, f]);
                z.biased(&name("ffn_down"), &[f, e]);
            }
            "phi3" => {
                z.matrix(&name("ffn_up"), &[e, 2 * f]);
                z.matrix(&name("ffn_down"), &[f, e]);
            }
            "llama-mixture" | "qwen3moe" | "gpt-oss" => {
                let count = if kind == "llama-mixture" { 4 } else { 8 };
                z.router(&name("ffn_gate_inp"), &[e, count]);
                if kind == "gpt-oss" {
                    z.bias(&name("ffn_gate_inp"), &[count]);
                }
                for (part, k, rows) in [
                    ("ffn_gate_exps", e, f),
                    ("ffn_up_exps", e, f),
                    ("ffn_down_exps", f, e),
                ] {
                    z.matrix(&name(part), &[k, rows, count]);
                    if kind == "gpt-oss" {
                        z.bias(&name(part), &[rows, count]);
                    }
                }
            }
            _ => {
                z.matrix(&name("ffn_gate"), &[e, f]);
                z.matrix(&name("ffn_up"), &[e, f]);
                z.matrix(&name("ffn_down"), &[f, e]);
            }
        }
    }
}
