//! Gradients against finite differences, SIMD levels against each other, causality.

use super::pass::{Row, Worker};
use super::{Shape, Tensor};
use crate::train::gemm::Level;
use crate::train::math;
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
        let near = 3e-3 * size + 2e-4;
        assert!(
            (numeric - exact).abs() < near,
            "{}: {numeric} against {exact}",
            t.name
        );
        assert!(size > 1e-5, "{} has no gradient", t.name);
    }
}

#[test]
fn every_simd_level_gives_the_bits_of_the_plain_loops() {
    let (w, row) = (SMALL.init(2), row(90));
    let run = |level| {
        let mut grad = vec![0.0; w.len()];
        let loss = Worker::new(SMALL, 128, level).row(&w, &row, 40, Some(&mut grad));
        grad.push(loss);
        grad.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
    };
    let plain = run(Level::PORTABLE);
    for level in Level::available() {
        assert!(run(level) == plain, "{level:?}");
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
