//! The slow and obvious versions, in f64 over `ndarray`: the oracle of the tests.

use crate::gguf::{Gguf, Tensor, TensorType};
use ::half::f16;
use ndarray::{Array1, Array2, ArrayView1, Axis, s};

/// All elements of a tensor.
pub(crate) fn dequantise(ty: TensorType, bytes: &[u8]) -> Vec<f64> {
    let half = |b: &[u8]| f64::from(f16::from_le_bytes([b[0], b[1]]));
    match ty {
        TensorType::F32 => {
            let from = bytes.as_chunks::<4>().0;
            from.iter()
                .map(|b| f64::from(f32::from_le_bytes(*b)))
                .collect()
        }
        TensorType::F16 => bytes.chunks(2).map(half).collect(),
        TensorType::Q8_0 => bytes
            .chunks(34)
            .flat_map(|b| b[2..].iter().map(move |q| half(b) * f64::from(*q as i8)))
            .collect(),
        other => panic!("no reference for {other}"),
    }
}

/// A tensor as a matrix of rows.
pub(crate) fn matrix(ty: TensorType, bytes: &[u8], k: usize) -> Array2<f64> {
    let all = dequantise(ty, bytes);
    Array2::from_shape_vec((all.len() / k, k), all).unwrap()
}

/// What an activation row becomes when it is quantised to eight bits and back.
pub(crate) fn quantised(x: &[f32]) -> Array1<f64> {
    let mut out = Vec::new();
    for block in x.chunks(32) {
        let amax = block.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        for x in block {
            let code = if amax < 1e-30 {
                0.0
            } else {
                (x * (127.0 / amax)).round_ties_even()
            };
            out.push(f64::from(code) * f64::from(amax / 127.0));
        }
    }
    Array1::from(out)
}

pub(crate) fn rms_norm(x: ArrayView1<'_, f64>, weight: &[f64], epsilon: f64) -> Array1<f64> {
    let mean = x.dot(&x) / x.len() as f64;
    let scale = (mean + epsilon).sqrt();
    x.iter().zip(weight).map(|(x, w)| x / scale * w).collect()
}

fn rotate(head: &mut [f64], position: usize, base: f64) {
    let half = head.len() / 2;
    for i in 0..half {
        let angle = position as f64 * base.powf(-(i as f64) / half as f64);
        let (a, b) = (head[i], head[i + half]);
        head[i] = a * angle.cos() - b * angle.sin();
        head[i + half] = b * angle.cos() + a * angle.sin();
    }
}

/// Causal softmax attention of one query over the keys and values up to it.
pub(crate) fn attend(
    query: ArrayView1<'_, f64>,
    keys: &Array2<f64>,
    values: &Array2<f64>,
) -> Array1<f64> {
    let scores = keys.dot(&query) / (query.len() as f64).sqrt();
    let max = scores.fold(f64::NEG_INFINITY, |m, s| m.max(*s));
    let weights = scores.mapv(|s| (s - max).exp());
    values.t().dot(&weights) / weights.sum()
}

/// Logits of every position of a qwen3 model, without any quantised activation.
pub(crate) fn qwen3(file: &Gguf, tokens: &[u32]) -> Array2<f64> {
    let size = |key: &str| file.uint(&format!("qwen3.{key}")).unwrap() as usize;
    let float = |key: &str| f64::from(file.float(&format!("qwen3.{key}")).unwrap());
    let tensor = |name: &str| -> &Tensor { file.tensor(name).unwrap() };
    let load = |name: &str| -> Array2<f64> {
        let t = tensor(name);
        matrix(t.ty, file.bytes(t), t.row_len())
    };
    let vector = |name: &str| dequantise(TensorType::F32, file.bytes(tensor(name)));
    let (heads, kv_heads) = (
        size("attention.head_count"),
        size("attention.head_count_kv"),
    );
    let dim = size("attention.key_length");
    let (epsilon, base) = (
        float("attention.layer_norm_rms_epsilon"),
        float("rope.freq_base"),
    );
    let embedding = load("token_embd.weight");
    let ids: Vec<usize> = tokens.iter().map(|t| *t as usize).collect();
    let mut x = embedding.select(Axis(0), &ids);
    let normed = |x: &Array2<f64>, weight: &[f64]| {
        let mut out = x.clone();
        for (from, mut to) in x.rows().into_iter().zip(out.rows_mut()) {
            to.assign(&rms_norm(from, weight, epsilon));
        }
        out
    };
    for layer in 0..size("block_count") {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let h = normed(&x, &vector(&name("attn_norm")));
        let turned = |matrix: &str, norm: &str| {
            let mut rows = h.dot(&load(&name(matrix)).t());
            let weight = vector(&name(norm));
            for (position, mut row) in rows.rows_mut().into_iter().enumerate() {
                for head in row.as_slice_mut().unwrap().chunks_mut(dim) {
                    let n = rms_norm(ArrayView1::from(&*head), &weight, epsilon);
                    head.copy_from_slice(n.as_slice().unwrap());
                    rotate(head, position, base);
                }
            }
            rows
        };
        let (q, k) = (
            turned("attn_q", "attn_q_norm"),
            turned("attn_k", "attn_k_norm"),
        );
        let v = h.dot(&load(&name("attn_v")).t());
        let mut attended = Array2::zeros(q.dim());
        for position in 0..tokens.len() {
            for head in 0..heads {
                let kv = head / (heads / kv_heads) * dim;
                let keys = k.slice(s![..=position, kv..kv + dim]).to_owned();
                let values = v.slice(s![..=position, kv..kv + dim]).to_owned();
                let at = s![position, head * dim..(head + 1) * dim];
                attended
                    .slice_mut(at)
                    .assign(&attend(q.slice(at), &keys, &values));
            }
        }
        x += &attended.dot(&load(&name("attn_output")).t());
        let h = normed(&x, &vector(&name("ffn_norm")));
        let gate = h
            .dot(&load(&name("ffn_gate")).t())
            .mapv(|g| g / (1.0 + (-g).exp()));
        let up = h.dot(&load(&name("ffn_up")).t());
        x += &(gate * up).dot(&load(&name("ffn_down")).t());
    }
    let output = if file.tensor("output.weight").is_some() {
        load("output.weight")
    } else {
        embedding
    };
    normed(&x, &vector("output_norm.weight")).dot(&output.t())
}

/// Normalised mean squared error.
pub(crate) fn nmse(truth: impl Iterator<Item = f64>, found: impl Iterator<Item = f64>) -> f64 {
    let (mut error, mut power) = (0.0, 0.0);
    for (t, f) in truth.zip(found) {
        error += (t - f) * (t - f);
        power += t * t;
    }
    error / power
}
