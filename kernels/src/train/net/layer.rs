//! One layer, forward and backward: attention, then the feed-forward part, each behind a norm
//! and added to the residual stream.
//!
//! [`Saved`] is what the forward pass leaves for the backward pass. Called by [`super::pass`].

use super::attention::{self, heads, heads_back, norm, norm_back};
use super::pass::Worker;
use super::{LayerLayout, Shape};
use crate::train::gemm::View;
use crate::train::math;

/// What the forward pass of one layer leaves for the backward pass.
#[derive(Default)]
pub(super) struct Saved {
    pub x: Vec<f32>,
    pub h: Vec<f32>,
    pub inv: Vec<f32>,
    pub q_raw: Vec<f32>,
    pub k_raw: Vec<f32>,
    pub v: Vec<f32>,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub q_inv: Vec<f32>,
    pub k_inv: Vec<f32>,
    pub p: Vec<f32>,
    pub ctx: Vec<f32>,
    pub x2: Vec<f32>,
    pub h2: Vec<f32>,
    pub inv2: Vec<f32>,
    pub gate: Vec<f32>,
    pub up: Vec<f32>,
    pub s: Vec<f32>,
}

impl Saved {
    pub fn resize(&mut self, s: &Shape, t: usize) {
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
impl Worker {
    /// Runs layer `l` over the residual stream `x` of `t` positions.
    pub(super) fn layer(&mut self, w: &[f32], l: usize, t: usize, x: Vec<f32>) -> Vec<f32> {
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
    pub(super) fn layer_back(
        &mut self,
        w: &[f32],
        l: usize,
        t: usize,
        dx: &mut [f32],
        grad: &mut [f32],
    ) {
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
