//! The whole forward pass of every architecture, in f64, as its paper or its first
//! implementation has it: slow, obvious, and sharing nothing with `graph` and
//! `forward`. Weights are dequantised; activations are never rounded.

use crate::gguf::{Array, Gguf, Value};
use crate::ops::reference::{self, Softmax};
use ndarray::{Array1, Array2, ArrayView1, Axis, s};
use std::f64::consts::{PI, SQRT_2, TAU};

struct Oracle<'a> {
    file: &'a Gguf,
    arch: String,
}

/// Logits of every position.
pub(crate) fn logits(file: &Gguf, tokens: &[u32]) -> Array2<f64> {
    let o = Oracle::new(file);
    let x = o.rms(&o.stream(tokens), "output_norm.weight");
    let output = match file.tensor("output.weight") {
        Some(_) => "output.weight",
        None => "token_embd.weight",
    };
    let logits = x.dot(&o.matrix(output).t());
    match o.float("final_logit_softcapping", o.usual(30.0)) {
        0.0 => logits,
        cap => logits.mapv(|l| cap * (l / cap).tanh()),
    }
}

/// The vector of a text.
pub(crate) fn embedding(file: &Gguf, tokens: &[u32]) -> Array1<f64> {
    let o = Oracle::new(file);
    let x = o.stream(tokens);
    let x = match o.int("pooling_type", 1) {
        1 => x.mean_axis(Axis(0)).unwrap(),
        2 => x.row(0).to_owned(),
        _ => x.row(tokens.len() - 1).to_owned(),
    };
    let length = x.dot(&x).sqrt();
    x / length
}

impl<'a> Oracle<'a> {
    fn new(file: &'a Gguf) -> Self {
        let arch = file.str("general.architecture").unwrap().to_owned();
        Self { file, arch }
    }

    fn int(&self, key: &str, or: usize) -> usize {
        let found = self.file.uint(&format!("{}.{key}", self.arch));
        found.map_or(or, |x| x as usize)
    }

    fn float(&self, key: &str, or: f64) -> f64 {
        let found = self.file.float(&format!("{}.{key}", self.arch));
        found.map_or(or, f64::from)
    }

    fn all(&self, name: &str) -> Vec<f64> {
        let tensor = self.file.tensor(name).unwrap_or_else(|| panic!("{name}"));
        reference::dequantise(tensor.ty, self.file.bytes(tensor))
    }

    fn matrix(&self, name: &str) -> Array2<f64> {
        let k = self.file.tensor(name).unwrap().row_len();
        let all = self.all(name);
        Array2::from_shape_vec((all.len() / k, k), all).unwrap()
    }

    /// `x W^T + b`.
    fn linear(&self, x: &Array2<f64>, name: &str) -> Array2<f64> {
        let mut y = x.dot(&self.matrix(&format!("{name}.weight")).t());
        if self.file.tensor(&format!("{name}.bias")).is_some() {
            y += &Array1::from(self.all(&format!("{name}.bias")));
        }
        y
    }

    fn each_row(x: &Array2<f64>, f: impl Fn(ArrayView1<'_, f64>) -> Array1<f64>) -> Array2<f64> {
        let mut out = x.clone();
        for (from, mut to) in x.rows().into_iter().zip(out.rows_mut()) {
            to.assign(&f(from));
        }
        out
    }

    fn rms(&self, x: &Array2<f64>, name: &str) -> Array2<f64> {
        let weight = self.all(name);
        let epsilon = self.float("attention.layer_norm_rms_epsilon", 0.0);
        Self::each_row(x, |row| reference::rms_norm(row, &weight, epsilon))
    }

    fn layer_norm(&self, x: &Array2<f64>, name: &str) -> Array2<f64> {
        let weight = Array1::from(self.all(&format!("{name}.weight")));
        let bias = Array1::from(self.all(&format!("{name}.bias")));
        let epsilon = self.float("attention.layer_norm_epsilon", 0.0);
        Self::each_row(x, |row| {
            let centred = &row - row.mean().unwrap();
            let variance = centred.dot(&centred) / row.len() as f64;
            centred / (variance + epsilon).sqrt() * &weight + &bias
        })
    }

    /// What all models of `gemma2` have, where a file of that kind does not say.
    fn usual(&self, value: f64) -> f64 {
        if self.arch == "gemma2" { value } else { 0.0 }
    }

    /// The residual stream after the last layer.
    fn stream(&self, tokens: &[u32]) -> Array2<f64> {
        let ids: Vec<usize> = tokens.iter().map(|t| *t as usize).collect();
        let mut x = self.matrix("token_embd.weight").select(Axis(0), &ids);
        match self.arch.as_str() {
            "gemma2" | "gemma3" => x *= (x.ncols() as f64).sqrt(),
            "bert" => {
                x += &self.matrix("token_types.weight").row(0);
                let positions = self.matrix("position_embd.weight");
                x += &positions.slice(s![..tokens.len(), ..]);
                x = self.layer_norm(&x, "token_embd_norm");
            }
            _ => {}
        }
        for i in 0..self.int("block_count", 0) {
            x = self.layer(i, &x);
        }
        x
    }

    fn layer(&self, i: usize, x: &Array2<f64>) -> Array2<f64> {
        let name = |part: &str| format!("blk.{i}.{part}");
        let norm = |part: &str| name(&format!("{part}.weight"));
        match self.arch.as_str() {
            "bert" => {
                let x = self.layer_norm(&(x + &self.attention(i, x)), &name("attn_output_norm"));
                let inner = self.linear(&x, &name("ffn_up")).mapv(gelu_exact);
                let y = self.linear(&inner, &name("ffn_down"));
                self.layer_norm(&(x + y), &name("layer_output_norm"))
            }
            "gemma2" | "gemma3" => {
                let y = self.attention(i, &self.rms(x, &norm("attn_norm")));
                let x = x + &self.rms(&y, &norm("post_attention_norm"));
                let h = self.rms(&x, &norm("ffn_norm"));
                let gate = self.linear(&h, &name("ffn_gate")).mapv(gelu_tanh);
                let inner = gate * self.linear(&h, &name("ffn_up"));
                let y = self.linear(&inner, &name("ffn_down"));
                x + self.rms(&y, &norm("post_ffw_norm"))
            }
            "gpt-oss" => {
                let x = x + &self.attention(i, &self.rms(x, &norm("attn_norm")));
                let y = self.experts(i, &self.rms(&x, &norm("post_attention_norm")));
                x + y
            }
            "phi3" => {
                let x = x + &self.attention(i, &self.rms(x, &norm("attn_norm")));
                let h = self.rms(&x, &norm("ffn_norm"));
                let both = self.linear(&h, &name("ffn_up"));
                let (gate, up) = both.view().split_at(Axis(1), both.ncols() / 2);
                let inner = gate.mapv(silu) * up;
                x + self.linear(&inner, &name("ffn_down"))
            }
            _ => {
                let x = x + &self.attention(i, &self.rms(x, &norm("attn_norm")));
                let h = self.rms(&x, &norm("ffn_norm"));
                if self.int("expert_count", 0) > 0 {
                    return x + self.experts(i, &h);
                }
                let gate = self.linear(&h, &name("ffn_gate")).mapv(silu);
                let inner = gate * self.linear(&h, &name("ffn_up"));
                x + self.linear(&inner, &name("ffn_down"))
            }
        }
    }

    fn is_windowed(&self, i: usize) -> bool {
        let key = format!("{}.attention.sliding_window_pattern", self.arch);
        match (self.file.get(&key), self.arch.as_str()) {
            (Some(Value::Array(Array::Bool(pattern))), _) => pattern[i],
            (_, "gemma3") => i % 6 != 5,
            (_, "gpt-oss" | "gemma2") => i.is_multiple_of(2),
            _ => false,
        }
    }

    fn attention(&self, i: usize, h: &Array2<f64>) -> Array2<f64> {
        let name = |part: &str| format!("blk.{i}.{part}");
        let (heads, kv_heads) = (
            self.int("attention.head_count", 0),
            self.int("attention.head_count_kv", 0),
        );
        let dim = self.int("attention.key_length", 0);
        let (mut q, mut k, v) = match self.arch.as_str() {
            "phi3" => {
                let all = self.linear(h, &name("attn_qkv"));
                let (q, kv) = (heads * dim, kv_heads * dim);
                let columns = |from, to| all.slice(s![.., from..to]).to_owned();
                (
                    columns(0, q),
                    columns(q, q + kv),
                    columns(q + kv, q + 2 * kv),
                )
            }
            _ => (
                self.linear(h, &name("attn_q")),
                self.linear(h, &name("attn_k")),
                self.linear(h, &name("attn_v")),
            ),
        };
        self.turn(i, &mut q, "attn_q_norm", dim);
        self.turn(i, &mut k, "attn_k_norm", dim);
        let temperature = self.float("attention.temperature_scale", 0.0);
        let every = self.int("rope.scaling.original_context_length", 1);
        let sinks = self.file.tensor(&name("attn_sinks.weight"));
        let sinks = sinks.map(|_| self.all(&name("attn_sinks.weight")));
        let n = h.nrows();
        let mut out = Array2::zeros(q.dim());
        for p in 0..n {
            let heat = 1.0 + temperature * ((p / every) as f64 + 1.0).ln();
            let (end, window) = match self.is_windowed(i) {
                true => (
                    p + 1,
                    self.int("attention.sliding_window", self.usual(4096.0) as usize),
                ),
                false if self.arch == "bert" => (n, n),
                false => (p + 1, n),
            };
            for head in 0..heads {
                let kv = head / (heads / kv_heads) * dim;
                let keys = k.slice(s![..end, kv..kv + dim]).to_owned();
                let values = v.slice(s![..end, kv..kv + dim]).to_owned();
                let at = s![p, head * dim..(head + 1) * dim];
                let cap = self.float("attn_logit_softcapping", self.usual(50.0));
                let softmax = Softmax {
                    scale: heat / (dim as f64).sqrt(),
                    first: (p + 1).saturating_sub(window),
                    cap: (cap != 0.0).then_some(cap),
                    sink: sinks.as_ref().map(|s| s[head]),
                };
                let y = reference::attend(q.slice(at), &keys, &values, &softmax);
                out.slice_mut(at).assign(&y);
            }
        }
        self.linear(&out, &name("attn_output"))
    }

    /// Norm and turn every head of queries or keys.
    fn turn(&self, i: usize, rows: &mut Array2<f64>, norm: &str, dim: usize) {
        let norm = format!("blk.{i}.{norm}.weight");
        let weight = self.file.tensor(&norm).map(|_| self.all(&norm));
        let epsilon = self.float("attention.layer_norm_rms_epsilon", 0.0);
        let (frequencies, magnitude) = self.frequencies(i, dim);
        for (p, mut row) in rows.rows_mut().into_iter().enumerate() {
            for head in row.as_slice_mut().unwrap().chunks_mut(dim) {
                if let Some(weight) = &weight {
                    let n = reference::rms_norm(ArrayView1::from(&*head), weight, epsilon);
                    head.copy_from_slice(n.as_slice().unwrap());
                }
                for (j, frequency) in frequencies.iter().enumerate() {
                    let (one, two) = match self.arch.as_str() {
                        "llama" | "mistral3" => (2 * j, 2 * j + 1),
                        _ => (j, j + dim / 2),
                    };
                    let (sin, cos) = (p as f64 * frequency).sin_cos();
                    let (a, b) = (head[one], head[two]);
                    head[one] = (a * cos - b * sin) * magnitude;
                    head[two] = (b * cos + a * sin) * magnitude;
                }
            }
        }
    }

    /// Angles per position of a layer, and what the turned are multiplied by.
    fn frequencies(&self, i: usize, dim: usize) -> (Vec<f64>, f64) {
        if self.arch == "bert" {
            return (Vec::new(), 1.0);
        }
        let local = self.arch == "gemma3" && self.is_windowed(i);
        let base = match local {
            true => self.float("rope.freq_base_swa", 10_000.0),
            false => self.float("rope.freq_base", 10_000.0),
        };
        let mut frequencies: Vec<f64> = (0..dim / 2)
            .map(|j| base.powf(-2.0 * j as f64 / dim as f64))
            .collect();
        if self.file.tensor("rope_freqs.weight").is_some() {
            let factors = self.all("rope_freqs.weight");
            frequencies
                .iter_mut()
                .zip(factors)
                .for_each(|(f, x)| *f /= x);
        }
        let kind = self.file.str(&format!("{}.rope.scaling.type", self.arch));
        let factor = self.float("rope.scaling.factor", 1.0);
        match kind {
            Ok("linear") if !local => frequencies.iter_mut().for_each(|f| *f /= factor),
            Ok("yarn") => {
                let original = self.int("rope.scaling.original_context_length", 0) as f64;
                // Pair j turns original * base^(-2j/dim) / 2 pi times.
                let pair =
                    |turns: f64| dim as f64 * (original / (turns * TAU)).ln() / (2.0 * base.ln());
                let low = pair(self.float("rope.scaling.yarn_beta_fast", 32.0)).floor();
                let high = pair(self.float("rope.scaling.yarn_beta_slow", 1.0)).ceil();
                let (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
                for (j, f) in frequencies.iter_mut().enumerate() {
                    let ramp = ((j as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                    *f = *f / factor * ramp + *f * (1.0 - ramp);
                }
                let multiplier = self.float("rope.scaling.yarn_log_multiplier", 0.0);
                let grown = |m: f64| 0.1 * m * factor.ln() + 1.0;
                return (
                    frequencies,
                    grown(1.0)
                        / if multiplier == 0.0 {
                            1.0
                        } else {
                            grown(multiplier)
                        },
                );
            }
            _ => {}
        }
        (frequencies, 1.0)
    }

    fn experts(&self, i: usize, h: &Array2<f64>) -> Array2<f64> {
        let name = |part: &str| format!("blk.{i}.{part}");
        let used = self.int("expert_used_count", 0);
        let count = self.int("expert_count", 0);
        let scores = self.linear(h, &name("ffn_gate_inp"));
        let all = |part: &str| {
            let matrix = self.matrix(&name(&format!("{part}.weight")));
            let bias = name(&format!("{part}.bias"));
            let bias = self.file.tensor(&bias).map(|_| self.matrix(&bias));
            move |e: usize, x: &Array1<f64>| -> Array1<f64> {
                let rows = matrix.nrows() / count;
                let y = matrix.slice(s![e * rows..(e + 1) * rows, ..]).dot(x);
                bias.as_ref().map_or(y.clone(), |b| y + b.row(e))
            }
        };
        let (gate, up, down) = (
            all("ffn_gate_exps"),
            all("ffn_up_exps"),
            all("ffn_down_exps"),
        );
        let mut out = Array2::zeros(h.dim());
        for (p, row) in h.rows().into_iter().enumerate() {
            let x = row.to_owned();
            let mut order: Vec<usize> = (0..count).collect();
            order.sort_by(|a, b| scores[[p, *b]].total_cmp(&scores[[p, *a]]));
            let total: f64 = order[..used].iter().map(|e| scores[[p, *e]].exp()).sum();
            for e in &order[..used] {
                let (g, u) = (gate(*e, &x), up(*e, &x));
                let inner = match self.arch.as_str() {
                    "gpt-oss" => {
                        let g = g.mapv(|g| g.min(7.0));
                        let u = u.mapv(|u| u.clamp(-7.0, 7.0));
                        g.mapv(|g| g / (1.0 + (-1.702 * g).exp())) * (u + 1.0)
                    }
                    _ => g.mapv(silu) * u,
                };
                let weight = scores[[p, *e]].exp() / total;
                out.row_mut(p).scaled_add(weight, &down(*e, &inner));
            }
        }
        out
    }
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
}

/// With erf as its series, which is good to 1e-9 below 5.
fn gelu_exact(x: f64) -> f64 {
    let z = (x / SQRT_2).clamp(-5.0, 5.0);
    let (mut term, mut sum) = (z, z);
    for n in 1..120 {
        term *= -z * z / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    0.5 * x * (1.0 + sum * 2.0 / PI.sqrt())
}
