//! Forward and backward pass over one row of tokens.
//!
//! [`Worker`] owns all buffers of one row, so that a thread allocates once. Loss is the mean
//! cross-entropy in nats over the counted positions of the whole batch; the caller gives the
//! count. Called by [`crate::train::run`] and by tests.

use super::attention::{self, Rope, heads, heads_back, norm, norm_back};
use super::{LayerLayout, Layout, Shape};
use crate::train::gemm::{Level, Scratch, View, gemm};
use crate::train::math;

/// Tokens of one row, and for each whether the guess of its successor counts.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Token ids; the last one is only ever a successor.
    pub tokens: Vec<u32>,
    /// `counts[i]`: the guess of token i + 1 from the tokens up to i counts.
    pub counts: Vec<bool>,
}

impl Row {
    /// Number of guesses that count.
    pub fn counted(&self) -> usize {
        self.counts.iter().filter(|&&c| c).count()
    }
}

/// What the forward pass of one layer leaves for the backward pass.
#[derive(Default)]
struct Saved {
    x: Vec<f32>,
    h: Vec<f32>,
    inv: Vec<f32>,
    q_raw: Vec<f32>,
    k_raw: Vec<f32>,
    v: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    q_inv: Vec<f32>,
    k_inv: Vec<f32>,
    p: Vec<f32>,
    ctx: Vec<f32>,
    x2: Vec<f32>,
    h2: Vec<f32>,
    inv2: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    s: Vec<f32>,
}

impl Saved {
    fn resize(&mut self, s: &Shape, t: usize) {
        let (d, qw, kw) = (s.dim, s.q_width(), s.kv_width());
        let sizes = [
            (&mut self.x, d),
            (&mut self.h, d),
            (&mut self.inv, 1),
            (&mut self.q_raw, qw),
            (&mut self.k_raw, kw),
            (&mut self.v, kw),
            (&mut self.q, qw),
            (&mut self.k, kw),
            (&mut self.q_inv, s.heads),
            (&mut self.k_inv, s.kv_heads),
            (&mut self.p, s.heads * t),
            (&mut self.ctx, qw),
            (&mut self.x2, d),
            (&mut self.h2, d),
            (&mut self.inv2, 1),
            (&mut self.gate, s.ffn),
            (&mut self.up, s.ffn),
            (&mut self.s, s.ffn),
        ];
        for (buffer, width) in sizes {
            buffer.resize(t * width, 0.0);
        }
    }
}

/// Buffers and tables for the passes over one row at a time.
pub struct Worker {
    shape: Shape,
    layout: Layout,
    level: Level,
    scratch: Scratch,
    rope: Rope,
    layers: Vec<Saved>,
    out: Vec<f32>,
}

impl Worker {
    /// A worker for rows of at most `longest` tokens.
    pub fn new(shape: Shape, longest: usize, level: Level) -> Self {
        Self {
            shape,
            layout: shape.layout(),
            level,
            scratch: Scratch::default(),
            rope: Rope::new(shape.head_dim, longest),
            layers: (0..shape.layers).map(|_| Saved::default()).collect(),
            out: Vec::new(),
        }
    }

    fn mul(
        &mut self,
        shape: (usize, usize, usize),
        a: View<'_>,
        b: View<'_>,
        c: &mut [f32],
        add: bool,
    ) {
        gemm(self.level, &mut self.scratch, shape, a, b, c, shape.1, add);
    }

    /// Logits of the token after the last one.
    pub fn next_logits(&mut self, w: &[f32], tokens: &[u32]) -> Vec<f32> {
        self.forward(w, tokens);
        let d = self.shape.dim;
        let mut h = vec![0.0; d];
        norm(
            &self.out[(tokens.len() - 1) * d..],
            &w[self.layout.norm.clone()],
            &mut h,
        );
        w[self.layout.embed.clone()]
            .chunks_exact(d)
            .map(|e| math::dot(&h, e))
            .collect()
    }

    /// Sum of the losses of the counted positions. With `grad`, adds the gradient of
    /// (sum / `count`) to it.
    pub fn row(&mut self, w: &[f32], row: &Row, count: usize, grad: Option<&mut [f32]>) -> f32 {
        let t = row.tokens.len().saturating_sub(1);
        let at: Vec<usize> = (0..t).filter(|&i| row.counts[i]).collect();
        if at.is_empty() {
            return 0.0;
        }
        let tokens = &row.tokens[..t];
        self.forward(w, tokens);
        let (d, vocab, n) = (self.shape.dim, self.shape.vocab, at.len());
        let gain = &w[self.layout.norm.clone()];
        let embed = &w[self.layout.embed.clone()];
        let (mut h, mut inv) = (vec![0.0; n * d], vec![0.0; n]);
        for ((h, inv), &i) in h.chunks_exact_mut(d).zip(&mut inv).zip(&at) {
            *inv = norm(&self.out[i * d..(i + 1) * d], gain, h);
        }
        let mut logits = vec![0.0; n * vocab];
        self.mul(
            (n, vocab, d),
            View::rows(&h, d),
            View::rows(embed, d).t(),
            &mut logits,
            false,
        );
        let scale = 1.0 / count as f32;
        let mut loss = 0.0f32;
        for (l, &i) in logits.chunks_exact_mut(vocab).zip(&at) {
            let next = row.tokens[i + 1] as usize;
            let target = l[next];
            loss += math::softmax(l) - target;
            l[next] -= 1.0;
            for x in l {
                *x *= scale;
            }
        }
        let Some(grad) = grad else { return loss };
        let mut dh = vec![0.0; n * d];
        self.mul(
            (n, d, vocab),
            View::rows(&logits, vocab),
            View::rows(embed, d),
            &mut dh,
            false,
        );
        let de = &mut grad[self.layout.embed.clone()];
        self.mul(
            (vocab, d, n),
            View::rows(&logits, vocab).t(),
            View::rows(&h, d),
            de,
            true,
        );
        let (mut dx, mut room) = (vec![0.0; t * d], vec![0.0; d]);
        for ((dh, &inv), &i) in dh.chunks_exact(d).zip(&inv).zip(&at) {
            let line = i * d..(i + 1) * d;
            let (x, dx) = (&self.out[line.clone()], &mut dx[line]);
            norm_back(
                x,
                gain,
                inv,
                dh,
                dx,
                &mut grad[self.layout.norm.clone()],
                &mut room,
            );
        }
        for l in (0..self.shape.layers).rev() {
            self.layer_back(w, l, t, &mut dx, grad);
        }
        for (&token, dx) in tokens.iter().zip(dx.chunks_exact(d)) {
            let start = self.layout.embed.start + token as usize * d;
            for (g, &x) in grad[start..start + d].iter_mut().zip(dx) {
                *g += x;
            }
        }
        loss
    }

    /// Runs all layers; `self.out` is the residual stream behind the last one.
    fn forward(&mut self, w: &[f32], tokens: &[u32]) {
        let (d, t) = (self.shape.dim, tokens.len());
        let mut x = vec![0.0; t * d];
        for (x, &token) in x.chunks_exact_mut(d).zip(tokens) {
            let start = self.layout.embed.start + token as usize * d;
            x.copy_from_slice(&w[start..start + d]);
        }
        for l in 0..self.shape.layers {
            x = self.layer(w, l, t, x);
        }
        self.out = x;
    }

    fn layer(&mut self, w: &[f32], l: usize, t: usize, x: Vec<f32>) -> Vec<f32> {
        let shape = self.shape;
        let (d, f, qw, kw) = (shape.dim, shape.ffn, shape.q_width(), shape.kv_width());
        let at: LayerLayout = self.layout.layers[l].clone();
        let mut s = std::mem::take(&mut self.layers[l]);
        s.resize(&shape, t);
        s.x = x;
        norm_rows(&s.x, &w[at.attn_norm.clone()], &mut s.h, &mut s.inv);
        let h = View::rows(&s.h, d);
        self.mul(
            (t, qw, d),
            h,
            View::rows(&w[at.q], d).t(),
            &mut s.q_raw,
            false,
        );
        self.mul(
            (t, kw, d),
            h,
            View::rows(&w[at.k], d).t(),
            &mut s.k_raw,
            false,
        );
        self.mul((t, kw, d), h, View::rows(&w[at.v], d).t(), &mut s.v, false);
        heads(
            &s.q_raw,
            &w[at.q_norm],
            &self.rope,
            shape.heads,
            &mut s.q,
            &mut s.q_inv,
        );
        heads(
            &s.k_raw,
            &w[at.k_norm],
            &self.rope,
            shape.kv_heads,
            &mut s.k,
            &mut s.k_inv,
        );
        let tools = (self.level, &mut self.scratch);
        attention::forward(&shape, tools, t, &s.q, &s.k, &s.v, &mut s.p, &mut s.ctx);
        s.x2.copy_from_slice(&s.x);
        self.mul(
            (t, d, qw),
            View::rows(&s.ctx, qw),
            View::rows(&w[at.o], qw).t(),
            &mut s.x2,
            true,
        );
        norm_rows(&s.x2, &w[at.ffn_norm], &mut s.h2, &mut s.inv2);
        let h2 = View::rows(&s.h2, d);
        self.mul(
            (t, f, d),
            h2,
            View::rows(&w[at.gate], d).t(),
            &mut s.gate,
            false,
        );
        self.mul(
            (t, f, d),
            h2,
            View::rows(&w[at.up], d).t(),
            &mut s.up,
            false,
        );
        for ((s, &g), &u) in s.s.iter_mut().zip(&s.gate).zip(&s.up) {
            *s = g * sigmoid(g) * u;
        }
        let mut out = s.x2.clone();
        self.mul(
            (t, d, f),
            View::rows(&s.s, f),
            View::rows(&w[at.down], f).t(),
            &mut out,
            true,
        );
        self.layers[l] = s;
        out
    }

    /// `dx` comes in as the gradient of the layer's output and leaves as that of its input.
    fn layer_back(&mut self, w: &[f32], l: usize, t: usize, dx: &mut [f32], grad: &mut [f32]) {
        let shape = self.shape;
        let (d, f, qw, kw) = (shape.dim, shape.ffn, shape.q_width(), shape.kv_width());
        let at: LayerLayout = self.layout.layers[l].clone();
        let s = std::mem::take(&mut self.layers[l]);

        let mut ds = vec![0.0; t * f];
        let dxv = View::rows(dx, d);
        self.mul(
            (t, f, d),
            dxv,
            View::rows(&w[at.down.clone()], f),
            &mut ds,
            false,
        );
        self.mul(
            (d, f, t),
            dxv.t(),
            View::rows(&s.s, f),
            &mut grad[at.down],
            true,
        );
        let mut dg = vec![0.0; t * f];
        for (((dg, du), &g), &u) in dg.iter_mut().zip(&mut ds).zip(&s.gate).zip(&s.up) {
            let sig = sigmoid(g);
            let silu = g * sig;
            *dg = *du * u * (sig + silu * (1.0 - sig));
            *du *= silu;
        }
        let mut dh = vec![0.0; t * d];
        for (m, dy, add) in [(at.gate, &dg, false), (at.up, &ds, true)] {
            let dy = View::rows(dy, f);
            self.mul((t, d, f), dy, View::rows(&w[m.clone()], d), &mut dh, add);
            self.mul((f, d, t), dy.t(), View::rows(&s.h2, d), &mut grad[m], true);
        }
        norm_rows_back(
            &s.x2,
            &w[at.ffn_norm.clone()],
            &s.inv2,
            &dh,
            dx,
            &mut grad[at.ffn_norm],
        );

        let mut dctx = vec![0.0; t * qw];
        let dxv = View::rows(dx, d);
        self.mul(
            (t, qw, d),
            dxv,
            View::rows(&w[at.o.clone()], qw),
            &mut dctx,
            false,
        );
        self.mul(
            (d, qw, t),
            dxv.t(),
            View::rows(&s.ctx, qw),
            &mut grad[at.o],
            true,
        );
        let (mut dq, mut dk, mut dv) = (vec![0.0; t * qw], vec![0.0; t * kw], vec![0.0; t * kw]);
        let mut room = vec![0.0; t * 64];
        attention::backward(
            &shape,
            (self.level, &mut self.scratch),
            t,
            (&s.q, &s.k, &s.v, &s.p),
            &dctx,
            (&mut dq, &mut dk, &mut dv),
            &mut room,
        );
        let (qn, kn) = (at.q_norm, at.k_norm);
        heads_back(
            &s.q_raw,
            &w[qn.clone()],
            &self.rope,
            shape.heads,
            &s.q_inv,
            &mut dq,
            &mut grad[qn],
        );
        heads_back(
            &s.k_raw,
            &w[kn.clone()],
            &self.rope,
            shape.kv_heads,
            &s.k_inv,
            &mut dk,
            &mut grad[kn],
        );
        for (m, dy, width, add) in [
            (at.q, &dq, qw, false),
            (at.k, &dk, kw, true),
            (at.v, &dv, kw, true),
        ] {
            let dy = View::rows(dy, width);
            self.mul(
                (t, d, width),
                dy,
                View::rows(&w[m.clone()], d),
                &mut dh,
                add,
            );
            self.mul(
                (width, d, t),
                dy.t(),
                View::rows(&s.h, d),
                &mut grad[m],
                true,
            );
        }
        norm_rows_back(
            &s.x,
            &w[at.attn_norm.clone()],
            &s.inv,
            &dh,
            dx,
            &mut grad[at.attn_norm],
        );
        self.layers[l] = s;
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + math::exp(-x))
}

fn norm_rows(x: &[f32], w: &[f32], y: &mut [f32], inv: &mut [f32]) {
    let d = w.len();
    for ((x, y), inv) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(inv) {
        *inv = norm(x, w, y);
    }
}

fn norm_rows_back(x: &[f32], w: &[f32], inv: &[f32], dy: &[f32], dx: &mut [f32], dw: &mut [f32]) {
    let d = w.len();
    let mut room = vec![0.0; d];
    for (((x, dy), dx), &inv) in x
        .chunks_exact(d)
        .zip(dy.chunks_exact(d))
        .zip(dx.chunks_exact_mut(d))
        .zip(inv)
    {
        norm_back(x, w, inv, dy, dx, dw, &mut room);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::net::Tensor;
    use crate::train::rng::Rng;

    const SMALL: Shape = Shape {
        vocab: 40,
        dim: 32,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        ffn: 32,
        context: 128,
    };

    fn row(len: usize) -> Row {
        let mut r = Rng::new(3, 9);
        let tokens = (0..len).map(|_| r.below(SMALL.vocab) as u32).collect();
        Row {
            tokens,
            counts: (0..len).map(|i| i % 3 != 1).collect(),
        }
    }

    #[test]
    fn the_gradient_agrees_with_finite_differences_in_every_tensor() {
        let mut w = SMALL.init(5);
        // Larger weights than at the start of a run, so that no gradient hides in noise.
        let norms: Vec<_> = SMALL
            .tensors()
            .into_iter()
            .filter(Tensor::is_norm)
            .collect();
        w.iter_mut().for_each(|x| *x *= 8.0);
        let mut r = Rng::new(11, 0);
        for t in &norms {
            w[t.range.clone()]
                .iter_mut()
                .for_each(|x| *x = 1.0 + 0.2 * r.normal());
        }
        // 72 positions: one full block of queries and a part of the next.
        let row = row(73);
        let count = row.counted();
        let mut worker = Worker::new(SMALL, 128, Level::detect());
        let mut grad = vec![0.0; w.len()];
        worker.row(&w, &row, count, Some(&mut grad));
        for t in SMALL.tensors() {
            // Along a random direction within the tensor, by central differences.
            let dir: Vec<f32> = t.range.clone().map(|_| r.normal()).collect();
            let length = math::dot(&dir, &dir).sqrt();
            let step = 0.02 / length;
            let mut at = |sign: f32| {
                let mut moved = w.clone();
                for (x, &d) in moved[t.range.clone()].iter_mut().zip(&dir) {
                    *x += sign * step * d;
                }
                worker.row(&moved, &row, count, None) as f64 / count as f64
            };
            let numeric = (at(1.0) - at(-1.0)) / (2.0 * step as f64);
            let exact = math::dot(&grad[t.range.clone()], &dir) as f64;
            let size = math::dot(&grad[t.range.clone()], &grad[t.range.clone()]).sqrt() as f64;
            let near = 0.02 * size + 0.02 * exact.abs() + 2e-3;
            assert!(
                (numeric - exact).abs() < near,
                "{}: {numeric} against {exact}",
                t.name
            );
            assert!(size > 1e-5, "{} has no gradient", t.name);
        }
    }

    #[test]
    fn a_later_token_does_not_change_an_earlier_guess() {
        let w = SMALL.init(1);
        let mut worker = Worker::new(SMALL, 128, Level::detect());
        let mut a = row(70);
        a.counts = (0..70).map(|i| i < 65).collect();
        let before = worker.row(&w, &a, 1, None);
        a.tokens[68] = (a.tokens[68] + 1) % 40;
        let after = worker.row(&w, &a, 1, None);
        assert_eq!(before.to_bits(), after.to_bits());
    }
}
