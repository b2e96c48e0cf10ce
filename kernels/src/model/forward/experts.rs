//! Feed-forward parts that choose a few of many networks for each row.
//!
//! Rows that chose the same expert are computed together, which changes no bit;
//! each row then adds its experts' outputs in the order of its choice.

use super::{MlpScratch, Scratch as Whole};
use crate::model::Inner;
use crate::model::graph::{Experts, Linear};
use crate::ops::linear::{Product, linear};
use crate::ops::norm;

/// Buffers reused from call to call.
#[derive(Default)]
pub(super) struct Scratch {
    router: Vec<f32>,
    /// Of every row, `used` experts, best first.
    chosen: Vec<usize>,
    weights: Vec<f32>,
    /// Choices (row * used + rank) of one expert.
    taken: Vec<usize>,
    gathered: Vec<f32>,
    made: Vec<f32>,
    /// Of every choice, the expert's output.
    outputs: Vec<f32>,
}

impl Inner {
    /// From `s.normed` into `s.out`.
    pub(super) fn experts(&self, e: &Experts, s: &mut Whole) {
        let width = self.graph.width;
        let rows = s.normed.len() / width;
        let layers = [(&e.router, &mut s.experts.router)];
        self.project(&mut s.input, &s.normed, width, layers);
        self.choose(e, &mut s.experts);
        s.experts.outputs.resize(rows * e.used * width, 0.0);
        match rows {
            1 => self.experts_of_one_row(e, s),
            _ => self.experts_of_many_rows(e, s),
        }
        s.out.clear();
        s.out.resize(rows * width, 0.0);
        let (outputs, weights) = (&s.experts.outputs, &s.experts.weights);
        self.pool.pieces(&mut s.out, width, |row, out| {
            for choice in row * e.used..(row + 1) * e.used {
                let y = &outputs[choice * width..(choice + 1) * width];
                norm::add_scaled(self.simd, out, y, weights[choice]);
            }
        });
    }

    /// The `used` largest router logits of each row, the lowest index first among
    /// equals, and their softmax.
    fn choose(&self, e: &Experts, s: &mut Scratch) {
        let count = e.experts.len();
        s.chosen.clear();
        s.weights.clear();
        for logits in s.router.chunks_exact_mut(count) {
            let first = s.weights.len();
            for _ in 0..e.used {
                let mut best = None;
                for (i, logit) in logits.iter().enumerate() {
                    let chosen = s.chosen[first..].contains(&i);
                    if !chosen && best.is_none_or(|(_, largest)| *logit > largest) {
                        best = Some((i, *logit));
                    }
                }
                let (i, logit) = best.unwrap_or_default();
                s.chosen.push(i);
                s.weights.push(logit);
            }
            norm::softmax(self.simd, &mut s.weights[first..]);
            if let Some(scale) = e.scale {
                norm::scale(self.simd, &mut s.weights[first..], scale);
            }
        }
    }

    /// Decoding: the gates and ups of all chosen experts read one row, so they are
    /// one job.
    fn experts_of_one_row(&self, e: &Experts, s: &mut Whole) {
        let width = self.graph.width;
        let inner = e.experts[0].up.matrix.rows;
        let MlpScratch { gate, up } = &mut s.mlp;
        gate.resize(e.used * inner, 0.0);
        up.resize(e.used * inner, 0.0);
        let chosen = &s.experts.chosen;
        let mut products = Vec::with_capacity(2 * e.used);
        let each = gate.chunks_exact_mut(inner).zip(up.chunks_exact_mut(inner));
        for (i, (gate, up)) in chosen.iter().zip(each) {
            let mlp = &e.experts[*i];
            let pairs = [(mlp.gate.as_ref(), gate), (Some(&mlp.up), up)];
            for (layer, out) in pairs {
                products.extend(layer.map(|l| Product {
                    matrix: &l.matrix,
                    out,
                }));
            }
        }
        let input = &mut s.input;
        linear(
            self.simd,
            &self.pool,
            input,
            &s.normed,
            width,
            &mut products,
        );
        let each = gate.chunks_exact_mut(inner).zip(up.chunks_exact_mut(inner));
        for (rank, (gate, up)) in each.enumerate() {
            let mlp = &e.experts[chosen[rank]];
            self.bias(mlp.gate.as_ref(), gate);
            self.bias(Some(&mlp.up), up);
            mlp.activation.gated(self.simd, gate, up);
            let layers = [(&mlp.down, &mut s.experts.made)];
            self.project(&mut s.input, gate, inner, layers);
            s.experts.outputs[rank * width..(rank + 1) * width].copy_from_slice(&s.experts.made);
        }
    }

    fn bias(&self, layer: Option<&Linear>, out: &mut [f32]) {
        if let Some(bias) = layer.and_then(|l| l.bias.as_ref()) {
            norm::add_bias(self.simd, out, bias);
        }
    }

    fn experts_of_many_rows(&self, e: &Experts, s: &mut Whole) {
        let width = self.graph.width;
        for (i, mlp) in e.experts.iter().enumerate() {
            let x = &mut s.experts;
            x.taken.clear();
            let mine = x.chosen.iter().enumerate().filter(|(_, c)| **c == i);
            x.taken.extend(mine.map(|(choice, _)| choice));
            if x.taken.is_empty() {
                continue;
            }
            x.gathered.clear();
            for choice in &x.taken {
                let row = choice / e.used;
                x.gathered
                    .extend_from_slice(&s.normed[row * width..(row + 1) * width]);
            }
            self.mlp(mlp, &mut s.input, &x.gathered, &mut s.mlp, &mut x.made);
            for (choice, made) in x.taken.iter().zip(x.made.chunks_exact(width)) {
                x.outputs[choice * width..(choice + 1) * width].copy_from_slice(made);
            }
        }
    }
}
