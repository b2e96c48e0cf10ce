//! A training run: batches from the corpus, steps of the optimiser, and the finished file.
//!
//! The result is a function of the [`Plan`] without its thread count. A run can be saved and
//! continued; the continuation gives the same bits as an unbroken run. Called by the `pocket`
//! binary and by tests.

mod chat;
mod export;
mod state;
#[cfg(test)]
mod tests;

use std::thread;

use super::adam::{Adam, Settings};
use super::bpe::Vocab;
use super::corpus::Corpus;
use super::gemm::Level;
use super::net::Shape;
use super::net::pass::{Row, Worker};
use super::rng::Rng;

/// Exchanges from which the vocabulary is learned: every line of the grammar many times.
const VOCAB_EXCHANGES: u64 = 6000;

/// Streams of the seed, far apart so that no two kinds of draw share one.
const STREAM_VOCAB: u64 = 2 << 40;
const STREAM_TRAIN: u64 = 3 << 40;
const STREAM_HELD_OUT: u64 = 4 << 40;
const STREAM_FOCUS: u64 = 5 << 40;

/// Every n-th step has rows of twice the length and half the number, so that the model also
/// sees long conversations.
const LONG_EVERY: usize = 4;

/// From this step on, three of four batches are twice as many rows of half the length, drawn
/// by [`Corpus::focused`]. By then the model knows the fixed texts; what it still has to learn
/// is to look things up in the question, and that is easier in a short row.
const FOCUS_FROM: usize = 900;

/// What is trained, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Seed of everything that is drawn.
    pub seed: u64,
    /// Optimiser steps.
    pub steps: usize,
    /// Rows in a batch; even.
    pub rows: usize,
    /// Tokens in a row.
    pub tokens: usize,
    /// Size of the vocabulary with its control tokens.
    pub vocab: usize,
    /// Threads; no effect on the result.
    pub threads: usize,
}

impl Default for Plan {
    /// The plan of the pocket model.
    fn default() -> Self {
        Self {
            seed: 1,
            steps: 1500,
            rows: 4,
            tokens: 256,
            vocab: 1536,
            threads: 1,
        }
    }
}

/// What one step did.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Mean loss of the batch in nats per counted token, before the step.
    pub loss: f32,
    /// Length of the gradient before clipping.
    pub length: f32,
    /// Learning rate.
    pub rate: f32,
    /// Tokens read.
    pub tokens: usize,
}

/// A run under way.
pub struct Run {
    plan: Plan,
    settings: Settings,
    shape: Shape,
    vocab: Vocab,
    corpus: Corpus,
    weights: Vec<f32>,
    adam: Adam,
    step: usize,
    workers: Vec<Worker>,
    grads: Vec<Vec<f32>>,
}

impl Run {
    /// Learns the vocabulary and draws the initial weights of the pocket model.
    pub fn new(plan: Plan) -> Self {
        Self::with_shape(plan, Shape::pocket)
    }

    /// As [`Run::new`], with a shape of the caller's choice for the vocabulary's size.
    pub fn with_shape(plan: Plan, shape: impl Fn(usize) -> Shape) -> Self {
        let corpus = Corpus::new();
        let mut texts = Vec::new();
        for n in 0..VOCAB_EXCHANGES {
            let e = corpus.exchange(&mut Rng::new(plan.seed, STREAM_VOCAB + n));
            texts.extend([e.question, e.answer]);
        }
        texts.extend(chat::SYSTEM.map(String::from));
        texts.push("user\nassistant\nsystem\n".into());
        let vocab = Vocab::train(&texts, plan.vocab);
        let shape = shape(vocab.len());
        let settings = Settings::default();
        let level = Level::detect();
        let weights = shape.init(plan.seed);
        let worker = |_| Worker::new(shape, (plan.tokens * 2).max(shape.context), level);
        Self {
            plan,
            settings,
            shape,
            vocab,
            corpus,
            adam: Adam::new(&shape, settings),
            step: 0,
            workers: (0..plan.threads.clamp(1, plan.rows)).map(worker).collect(),
            grads: vec![vec![0.0; weights.len()]; plan.rows * 2],
            weights,
        }
    }

    /// Steps done so far.
    pub fn done(&self) -> usize {
        self.step
    }

    /// Number of weights.
    pub fn parameters(&self) -> usize {
        self.weights.len()
    }

    /// The weights, in the order of [`Shape::tensors`].
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// One step of the optimiser.
    pub fn advance(&mut self) -> Report {
        let long = self.step % LONG_EVERY == LONG_EVERY - 1 && self.plan.rows >= 2;
        let focused = self.step >= FOCUS_FROM && !long;
        let (rows, tokens) = match (long, focused) {
            (true, _) => (self.plan.rows / 2, self.plan.tokens * 2),
            (_, true) => (self.plan.rows * 2, self.plan.tokens / 2),
            _ => (self.plan.rows, self.plan.tokens),
        };
        let stream = if focused { STREAM_FOCUS } else { STREAM_TRAIN };
        let first = stream + (self.step * rows.max(self.plan.rows)) as u64;
        let batch: Vec<Row> = (0..rows)
            .map(|r| self.draw_row(first + r as u64, tokens, focused))
            .collect();
        let count = batch.iter().map(Row::counted).sum::<usize>().max(1);
        let loss = self.gradient(&batch, count);
        let (sum, rest) = self.grads.split_at_mut(1);
        for grad in rest.iter().take(rows - 1) {
            for (s, &g) in sum[0].iter_mut().zip(grad) {
                *s += g;
            }
        }
        let rate = self.settings.rate_at(self.step, self.plan.steps);
        let length = self.adam.step(&mut self.weights, &sum[0], rate);
        self.step += 1;
        Report {
            loss: loss / count as f32,
            length,
            rate,
            tokens: rows * tokens,
        }
    }

    /// Fills `grads`, one row each, whichever thread computes it; returns the sum of losses
    /// in the order of the rows.
    fn gradient(&mut self, batch: &[Row], count: usize) -> f32 {
        let (weights, threads) = (&self.weights, self.workers.len());
        let mut losses = vec![0.0f32; batch.len()];
        let mut shares: Vec<Vec<_>> = (0..threads).map(|_| Vec::new()).collect();
        for (i, job) in batch
            .iter()
            .zip(&mut self.grads)
            .zip(&mut losses)
            .enumerate()
        {
            shares[i % threads].push(job);
        }
        let work = |worker: &mut Worker, share: Vec<((&Row, &mut Vec<f32>), &mut f32)>| {
            for ((row, grad), loss) in share {
                grad.fill(0.0);
                *loss = worker.row(weights, row, count, Some(grad));
            }
        };
        if threads == 1 {
            self.workers
                .iter_mut()
                .zip(shares)
                .for_each(|(w, s)| work(w, s));
        } else {
            thread::scope(|scope| {
                for (worker, share) in self.workers.iter_mut().zip(shares) {
                    scope.spawn(move || work(worker, share));
                }
            });
        }
        losses.iter().fold(0.0, |t, l| t + l)
    }

    /// Mean loss over `rows` rows that training never sees.
    pub fn held_out(&mut self, rows: usize) -> f32 {
        let (mut loss, mut count) = (0.0f32, 0);
        for n in 0..rows {
            let row = self.draw_row(STREAM_HELD_OUT + n as u64, self.plan.tokens, false);
            loss += self.workers[0].row(&self.weights, &row, 1, None);
            count += row.counted();
        }
        loss / count.max(1) as f32
    }
}
