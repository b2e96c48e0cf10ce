//! Bytes that one step of decoding has to read: what bounds its speed.
//!
//! Counted from the file, as a peer would; how the engine lays weights out in
//! memory changes little of it.

use kernels::bench::Plan;
use kernels::gguf::{Gguf, Tensor};

/// Bytes of one step: one token of every stream.
pub struct Traffic {
    /// Of weights, read once for all streams.
    pub weights: u64,
    /// Of keys and values, halfway through the generated tokens.
    pub cache: u64,
    /// Of the file.
    pub file: u64,
}

impl Traffic {
    /// Of a plan.
    pub fn of(gguf: &Gguf, plan: &Plan) -> Self {
        let held = plan.depth + plan.generate / 2;
        Self {
            weights: gguf.tensors().iter().map(|t| weight(gguf, t, plan)).sum(),
            cache: position(gguf) * (held * plan.streams) as u64,
            file: gguf.file().len() as u64,
        }
    }

    /// All of it.
    pub fn step(&self) -> u64 {
        self.weights + self.cache
    }
}

fn size(gguf: &Gguf, part: &str) -> Option<u64> {
    let architecture = gguf.str("general.architecture").ok()?;
    gguf.uint(&format!("{architecture}.{part}")).ok()
}

/// What a step reads of one tensor: rows of an embedding, the chosen of its experts,
/// otherwise all.
fn weight(gguf: &Gguf, tensor: &Tensor, plan: &Plan) -> u64 {
    let (bytes, streams) = (tensor.len as u64, plan.streams as u64);
    if tensor.name == "token_embd.weight" && gguf.tensor("output.weight").is_some() {
        return (bytes / tensor.rows().max(1) as u64 * streams).min(bytes);
    }
    if tensor.name.contains("_exps.") {
        let all = size(gguf, "expert_count").unwrap_or(1).max(1);
        let used = size(gguf, "expert_used_count").unwrap_or(all);
        return bytes / all * used.saturating_mul(streams).min(all);
    }
    bytes
}

/// Bytes of keys and values in f16 that one position has in all layers.
fn position(gguf: &Gguf) -> u64 {
    let part = |name| size(gguf, name);
    let heads = part("attention.head_count").unwrap_or(1).max(1);
    let kv_heads = part("attention.head_count_kv").unwrap_or(heads);
    let plain = part("embedding_length").unwrap_or(0) / heads;
    let key = part("attention.key_length").unwrap_or(plain);
    let value = part("attention.value_length").unwrap_or(plain);
    let layers = part("block_count").unwrap_or(0);
    2u64.saturating_mul(layers)
        .saturating_mul(kv_heads)
        .saturating_mul(key.saturating_add(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::gguf::TensorType;
    use kernels::synthetic::{Shape, qwen3};

    #[test]
    fn a_step_reads_every_weight_once_and_every_held_position() {
        let shape = Shape::tiny();
        let file = Gguf::from_bytes(qwen3(&shape, TensorType::F16, 1)).expect("a file");
        let plan = Plan {
            prompt: 0,
            generate: 4,
            depth: 10,
            streams: 3,
        };
        let traffic = Traffic::of(&file, &plan);
        let all: u64 = file.tensors().iter().map(|t| t.len as u64).sum();
        assert_eq!(traffic.weights, all, "the tied embedding is the output");
        let (kv, dim) = (u64::from(shape.kv_heads), u64::from(shape.head_dim));
        let position = 2 * 2 * u64::from(shape.layers) * kv * dim;
        assert_eq!(traffic.cache, position * 12 * 3);
    }
}
