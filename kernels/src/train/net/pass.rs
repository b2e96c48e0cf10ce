//! Forward and backward pass over one row of tokens.
//!
//! [`Worker`] owns all buffers of one row, so that a thread allocates once. Loss is the mean
//! cross-entropy in nats over the counted positions of the whole batch; the caller gives the
//! count. Called by [`crate::train::run`] and by tests.

use super::attention::{Rope, norm, norm_back};
use super::layer::Saved;
use super::{Layout, Shape};
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

/// Buffers and tables for the passes over one row at a time.
pub struct Worker {
    pub(super) shape: Shape,
    pub(super) layout: Layout,
    pub(super) level: Level,
    pub(super) scratch: Scratch,
    pub(super) rope: Rope,
    pub(super) layers: Vec<Saved>,
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

    /// [`gemm`] into a matrix without gaps.
    pub(super) fn mul(
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
}
