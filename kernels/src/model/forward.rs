//! Running a graph over a batch of rows.
//!
//! A row is one token at one position of one sequence. Rows of several sequences
//! may share a batch: every operation computes each row as if it were alone, so
//! the batch never changes a bit. Caches must already have a page for every
//! position of the batch. Experts are in `experts`.

mod attend;
mod experts;

use super::Inner;
use super::graph::{Attention, Head, Layer, Learned, Linear, Mlp, Norm, Norms};
use crate::cuda::{CudaError, DeviceModel, DeviceWork, Found, Rule};
use crate::ops::attention::{self, TILE};
use crate::ops::dequant;
use crate::ops::linear::{Input, Product, linear};
use crate::ops::norm;
use crate::runtime::Cache;
use std::mem::take;

/// One token at one position of sequence `sequence` of the batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub sequence: usize,
    pub position: u32,
    pub token: u32,
}

/// Buffers reused from call to call.
#[derive(Default)]
pub(crate) struct Scratch {
    /// The residual stream: after `forward`, the last norm's input, row by row. On a
    /// device it stays there, and this holds the embeddings.
    pub x: Vec<f32>,
    normed: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    mlp: MlpScratch,
    out: Vec<f32>,
    /// Of every rope, the angles of every row.
    angles: Vec<Vec<f32>>,
    input: Input,
    experts: experts::Scratch,
    runs: Vec<attend::Run>,
    pub logits: Vec<f32>,
    /// What the device has of the batch.
    work: Option<Box<DeviceWork>>,
    /// What went wrong on the device; `x` and `logits` then say nothing.
    pub failure: Option<CudaError>,
}

/// Buffers of one feed-forward network.
#[derive(Default)]
struct MlpScratch {
    gate: Vec<f32>,
    up: Vec<f32>,
}

impl Scratch {
    /// What the device needs for its work, and the rows of the batch.
    fn work(&mut self, device: &DeviceModel) -> Result<(&mut DeviceWork, &[f32]), CudaError> {
        if self.work.is_none() {
            self.work = Some(Box::new(device.work()?));
        }
        match &mut self.work {
            Some(work) => Ok((work, &self.x)),
            None => unreachable!("it was made above"),
        }
    }
}

impl Inner {
    /// Compute a batch up to the last norm's input, filling the caches.
    /// Tokens are below the vocabulary size, positions below the context length,
    /// rows of one sequence adjacent and in order. Where a position sees all others,
    /// the batch holds every position of its sequences.
    pub fn forward(&self, rows: &[Row], caches: &mut [&mut Cache], s: &mut Scratch) {
        let g = &self.graph;
        s.x.resize(rows.len() * g.width, 0.0);
        for (row, x) in rows.iter().zip(s.x.chunks_exact_mut(g.width)) {
            self.embed_token(row, x);
        }
        if let Some(learned) = &g.embedding.learned {
            self.normalise(&learned.norm, &mut s.x);
        }
        if let Some(device) = &self.device {
            let mut caches: Vec<_> = caches.iter_mut().map(|c| &mut c.device).collect();
            let done = s
                .work(device)
                .and_then(|(work, x)| device.forward(g, rows, &mut caches, x, work));
            s.failure = done.err();
            if s.failure.is_some() {
                // Whoever does not look at the failure must not take this for a result.
                s.work = None;
                s.x.fill(f32::NAN);
            }
            return;
        }
        s.angles.resize_with(g.ropes.len(), Vec::new);
        for (rope, angles) in g.ropes.iter().zip(&mut s.angles) {
            angles.resize(rows.len() * rope.turning(), 0.0);
            for (row, angles) in rows.iter().zip(angles.chunks_exact_mut(rope.turning())) {
                rope.angles(row.position, angles);
            }
        }
        attend::cut(rows, g.causal(), &mut s.runs);
        for (i, layer) in g.layers.iter().enumerate() {
            self.before(&layer.attention_norms, s);
            self.attention(i, &layer.attention, rows, caches, s);
            self.after(&layer.attention_norms, s);
            self.before(&layer.feed_forward_norms, s);
            self.feed_forward(layer, s);
            self.after(&layer.feed_forward_norms, s);
        }
    }

    /// Logits of the rows `from .. to` of the last `forward`, into `s.logits`;
    /// none, where the model's head makes no logits.
    pub fn logits(&self, from: usize, to: usize, s: &mut Scratch) {
        let g = &self.graph;
        s.logits.clear();
        let Head::Logits { norm, output, cap } = &g.head else {
            return;
        };
        if let Some(device) = &self.device {
            let rows: Vec<usize> = (from..to).collect();
            let done = s
                .work(device)
                .and_then(|(work, _)| device.logits(g, &rows, None, work));
            s.failure = done.err();
            let all: Vec<usize> = (0..rows.len()).collect();
            self.read_logits(&all, s);
            return;
        }
        let x = &s.x[from * g.width..to * g.width];
        s.logits.resize((to - from) * g.vocab, 0.0);
        s.normed.clear();
        s.normed.extend_from_slice(x);
        self.normalise(norm, &mut s.normed);
        let mut products = [Product {
            matrix: output,
            out: &mut s.logits,
        }];
        linear(
            self.simd,
            &self.pool,
            &mut s.input,
            &s.normed,
            g.width,
            &mut products,
        );
        if let Some(cap) = cap {
            norm::cap(self.simd, &mut s.logits, *cap);
        }
    }

    /// Of rows of the last `forward` on a device, the largest logits and what the rules
    /// ask; `None` on a CPU, or where `s.failure` says why.
    pub fn found(&self, rows: &[usize], rules: &[Rule], s: &mut Scratch) -> Option<Vec<Found>> {
        let device = self.device.as_ref()?;
        let found = s
            .work(device)
            .and_then(|(work, _)| device.logits(&self.graph, rows, Some(rules), work));
        match found {
            Ok(found) => Some(found),
            Err(failure) => {
                s.failure = Some(failure);
                None
            }
        }
    }

    /// Whole rows of logits, by their index in the last [`Self::found`], into `s.logits`.
    pub fn read_logits(&self, which: &[usize], s: &mut Scratch) {
        s.logits.clear();
        s.logits.resize(which.len() * self.graph.vocab, f32::NAN);
        if let (Some(device), Some(work), None) = (&self.device, &s.work, &s.failure) {
            let rows = s.logits.chunks_exact_mut(self.graph.vocab);
            let mut each = which.iter().zip(rows);
            let read = each.try_for_each(|(i, out)| device.read(*i, work, out));
            s.failure = read.err();
        }
        if s.failure.is_some() {
            s.logits.fill(f32::NAN);
        }
    }

    /// Whether a row of the last `forward` is finite.
    pub fn is_finite(&self, row: usize, s: &Scratch) -> bool {
        let width = self.graph.width;
        match (&self.device, &s.work) {
            (Some(_), work) => work.as_ref().is_some_and(|w| w.computed[row]),
            (None, _) => s.x[row * width..(row + 1) * width]
                .iter()
                .all(|x| x.is_finite()),
        }
    }

    /// One token's embedding.
    pub(crate) fn embed_token(&self, row: &Row, out: &mut [f32]) {
        let embedding = &self.graph.embedding;
        self.token_row(row.token as usize, out);
        if let Some(scale) = embedding.scale {
            norm::scale(self.simd, out, scale);
        }
        if let Some(Learned {
            kind, positions, ..
        }) = &embedding.learned
        {
            if let Some(kind) = kind {
                norm::add(self.simd, out, kind);
            }
            let at = row.position as usize * out.len();
            norm::add(self.simd, out, &positions[at..at + out.len()]);
        }
    }

    /// A row of the embedding: its own, or where the output's weights are the same tensor,
    /// from these.
    fn token_row(&self, row: usize, out: &mut [f32]) {
        match (&self.graph.embedding.rows, &self.graph.head) {
            (Some((ty, bytes)), _) => {
                let len = bytes.len() / self.graph.vocab;
                dequant::row(*ty, &bytes[row * len..(row + 1) * len], out);
            }
            (None, Head::Logits { output, .. }) => output.row(row, out),
            // Never made so: `Graph::keep_embedding`.
            (None, Head::Pooled(_)) => out.fill(f32::NAN),
        }
    }

    /// A part's input, from the stream into `s.normed`.
    fn before(&self, norms: &Norms, s: &mut Scratch) {
        s.normed.resize(s.x.len(), 0.0);
        match &norms.before {
            Some(Norm::Rms(weight)) => {
                let (x, width) = (&s.x, weight.len());
                self.pool.pieces(&mut s.normed, width, |i, out| {
                    let row = &x[i * width..(i + 1) * width];
                    norm::rms_norm(self.simd, row, weight, self.graph.epsilon, out);
                });
            }
            other => {
                s.normed.copy_from_slice(&s.x);
                if let Some(norm) = other {
                    self.normalise(norm, &mut s.normed);
                }
            }
        }
    }

    /// Add a part's output, in `s.out`, to the stream.
    fn after(&self, norms: &Norms, s: &mut Scratch) {
        if let Some(norm) = &norms.after {
            self.normalise(norm, &mut s.out);
        }
        norm::add(self.simd, &mut s.x, &s.out);
        if let Some(norm) = &norms.sum {
            self.normalise(norm, &mut s.x);
        }
    }

    /// Normalise rows in place.
    fn normalise(&self, norm: &Norm, x: &mut [f32]) {
        let epsilon = self.graph.epsilon;
        self.pool.pieces(x, norm.width(), |_, x| match norm {
            Norm::Rms(weight) => norm::rms_norm_in_place(self.simd, x, weight, epsilon),
            Norm::Layer { weight, bias } => norm::layer_norm(self.simd, x, weight, bias, epsilon),
        });
    }

    /// Linear layers that share the rows `x` of `k` elements.
    fn project<const N: usize>(
        &self,
        input: &mut Input,
        x: &[f32],
        k: usize,
        mut layers: [(&Linear, &mut Vec<f32>); N],
    ) {
        let rows = x.len() / k;
        let mut products = layers.each_mut().map(|(linear, out)| {
            out.resize(rows * linear.matrix.rows, 0.0);
            Product {
                matrix: &linear.matrix,
                out,
            }
        });
        linear(self.simd, &self.pool, input, x, k, &mut products);
        for (linear, out) in layers {
            if let Some(bias) = &linear.bias {
                norm::add_bias(self.simd, out, bias);
            }
        }
    }

    fn attention(
        &self,
        index: usize,
        a: &Attention,
        rows: &[Row],
        caches: &mut [&mut Cache],
        s: &mut Scratch,
    ) {
        let g = &self.graph;
        let (dim, q_len, kv_len) = (a.shape.head_dim, a.shape.query_len(), a.shape.kv_len());
        let layers = [
            (&a.query, &mut s.q),
            (&a.key, &mut s.k),
            (&a.value, &mut s.v),
        ];
        self.project(&mut s.input, &s.normed, g.width, layers);
        self.turn(a, a.query_norm.as_deref(), q_len, &mut s.q, &s.angles);
        self.turn(a, a.key_norm.as_deref(), kv_len, &mut s.k, &s.angles);
        if let Some(t) = a.shape.temperature {
            for (row, q) in rows.iter().zip(s.q.chunks_exact_mut(q_len)) {
                norm::scale(self.simd, q, t.factor(row.position));
            }
        }
        for (i, row) in rows.iter().enumerate() {
            let cache = &mut caches[row.sequence];
            for head in 0..a.shape.kv_heads {
                let at = i * kv_len + head * dim;
                let tile = cache.tile_mut(g, index, head, row.position as usize / TILE);
                let (k, v) = (&s.k[at..at + dim], &s.v[at..at + dim]);
                attention::store(tile, row.position as usize % TILE, k, v);
            }
        }
        s.attended.resize(rows.len() * q_len, 0.0);
        let mut attended = take(&mut s.attended);
        self.attend(index, a, rows, caches, s, &mut attended);
        s.attended = attended;
        let layers = [(&a.output, &mut s.out)];
        self.project(&mut s.input, &s.attended, q_len, layers);
    }

    /// Norm and rotate the heads of queries or keys.
    fn turn(
        &self,
        a: &Attention,
        weight: Option<&[f32]>,
        row_len: usize,
        heads: &mut [f32],
        angles: &[Vec<f32>],
    ) {
        let rope = a.shape.rope.map(|i| (&self.graph.ropes[i], &angles[i]));
        if weight.is_none() && rope.is_none() {
            return;
        }
        self.pool.pieces(heads, row_len, |i, heads| {
            if let Some(weight) = weight {
                norm::rms_norm_in_place(self.simd, heads, weight, self.graph.epsilon);
            }
            if let Some((rope, angles)) = rope {
                let n = rope.turning();
                rope.rotate(heads, a.shape.head_dim, &angles[i * n..(i + 1) * n]);
            }
        });
    }

    fn feed_forward(&self, layer: &Layer, s: &mut Scratch) {
        use super::graph::FeedForward;
        match &layer.feed_forward {
            FeedForward::Dense(mlp) => {
                self.mlp(mlp, &mut s.input, &s.normed, &mut s.mlp, &mut s.out);
            }
            FeedForward::Experts(experts) => self.experts(experts, s),
        }
    }

    /// One feed-forward network over the rows `x`.
    fn mlp(&self, mlp: &Mlp, input: &mut Input, x: &[f32], s: &mut MlpScratch, out: &mut Vec<f32>) {
        let width = self.graph.width;
        match &mlp.gate {
            Some(gate) => {
                let layers = [(gate, &mut s.gate), (&mlp.up, &mut s.up)];
                self.project(input, x, width, layers);
            }
            None => self.project(input, x, width, [(&mlp.up, &mut s.gate)]),
        }
        let (inner, up) = (mlp.up.matrix.rows, &s.up);
        // Elementwise, so any cut will do; one row is small enough for one thread.
        self.pool
            .pieces(&mut s.gate, inner, |i, gate| match mlp.gate {
                Some(_) => {
                    let up = &up[i * inner..(i + 1) * inner];
                    mlp.activation.gated(self.simd, gate, up);
                }
                None => mlp.activation.alone(self.simd, gate),
            });
        self.project(input, &s.gate, inner, [(&mlp.down, out)]);
    }
}
