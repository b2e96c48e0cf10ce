//! What is found in rows of logits, against plain sorting and the processor's own choice.

use super::*;
use crate::cuda::sample::{Found, Picks, Rule};
use crate::ops::math::exp64;
use crate::runtime::digest::largest;
use crate::runtime::{CancelFlag, Generation, Sampling};

/// Logits of `n` tokens, many of them equal, with both zeros.
fn row(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 40) as f32
    };
    let one = |x: f32| ((x / 1024.0 - 8192.0) / 256.0).round() / 4.0;
    let mut all: Vec<f32> = (0..n).map(|_| one(next())).collect();
    all.iter_mut().skip(1).step_by(7).for_each(|x| *x = -0.0);
    all
}

fn rule(seed: u64, noise: bool, floor: f64) -> Rule {
    Rule {
        noise,
        sum: !noise,
        temperature: 0.8,
        floor,
        seed,
        position: 11 + seed as u32,
    }
}

fn there(device: &Arc<dyn Backend>, rows: &[Vec<f32>], rules: &[Rule]) -> Vec<Found> {
    let (n, vocab) = (rows.len(), rows[0].len());
    let mut picks = Picks::new(device).unwrap();
    picks.fit(n, vocab).unwrap();
    picks.ask(rules).unwrap();
    let logits = Buffer::of(device, &rows.concat()).unwrap();
    picks.pick(device, &logits, n, vocab).unwrap();
    picks.found(n, vocab).unwrap()
}

pub(super) fn check_sampling(device: &Arc<dyn Backend>) {
    for vocab in [1, 2, 63, 64, 65, 300, 1024, 1025, 5000, 17_000] {
        let rows: Vec<Vec<f32>> = (0..3).map(|i| row(vocab, i * 31 + vocab as u64)).collect();
        let rules = [
            rule(1 << 40 | 5, true, f64::NEG_INFINITY),
            rule(2, true, -1.5),
            rule(3, false, -3.0),
        ];
        let found = there(device, &rows, &rules);
        for ((found, row), rule) in found.iter().zip(&rows).zip(&rules) {
            assert!(found.finite);
            let top = largest(row, 64)
                .into_iter()
                .map(|id| (id, row[id as usize].to_bits()));
            let sent = found.top.iter().map(|(id, l)| (*id, l.to_bits()));
            assert!(sent.eq(top), "{vocab}");
            let divided: Vec<f64> = row.iter().map(|l| f64::from(l / 0.8)).collect();
            let best = divided.iter().copied().fold(f64::MIN, f64::max);
            let kept: Vec<usize> = (0..vocab)
                .filter(|i| divided[*i] >= best + rule.floor)
                .collect();
            if rule.sum {
                let sum: f64 = kept
                    .iter()
                    .map(|i| exp64((divided[*i] - best).max(-700.0)))
                    .sum();
                assert!((found.sum - sum).abs() <= 1e-10 * sum, "{vocab}");
            } else {
                // Tokens below the floor cannot be chosen; above it, everything is as usual.
                let mut logits = vec![f32::NEG_INFINITY; vocab];
                kept.iter().for_each(|i| logits[*i] = row[*i]);
                let sampling = Sampling {
                    temperature_milli: 800,
                    ..Sampling::default()
                };
                let before = vec![0; rule.position as usize];
                let token = sampling.choose(&mut logits, &before, rule.seed);
                assert_eq!(found.token, token, "{vocab}");
            }
        }
    }
}

#[test]
fn rows_of_any_length_are_sorted_weighed_and_chosen_from_as_on_the_cpu() {
    for order in [0, 1, 7] {
        check_sampling(&Emulated::device(order));
    }
}

#[test]
fn a_logit_that_is_not_finite_is_found_wherever_it_is() {
    let device = Emulated::device(0);
    for (at, bad) in [
        (0, f32::NAN),
        (2999, f32::NEG_INFINITY),
        (1500, f32::INFINITY),
    ] {
        let mut rows = [row(3000, 1), row(3000, 2)];
        rows[1][at] = bad;
        let found = there(&device, &rows, &[rule(1, true, -1.0), rule(1, false, -1.0)]);
        assert_eq!((found[0].finite, found[1].finite), (true, false));
    }
}

#[test]
fn a_step_brings_back_a_few_words_and_not_the_row() {
    let device = Emulated::refusing(0, false);
    let there = runtime::on(
        &(device.clone() as _),
        qwen3(&Shape::tiny(), TensorType::Q8_0, 5),
    );
    let sampling = Sampling {
        temperature_milli: 900,
        ..Sampling::default()
    };
    let mut answer = Generation::new(&there, &[1, 2, 3], sampling, 9, 4, &[]).unwrap();
    answer.prefill(&CancelFlag::new()).unwrap();
    answer.step().unwrap();
    let before = device.bytes_read();
    answer.step().unwrap();
    // Whether the row is finite; 132 words.
    assert_eq!(device.bytes_read() - before, 4 + 4 * 132);
}

#[test]
fn kept_launches_give_the_bits_of_launches_one_by_one() {
    let (keeps, refuses) = (Emulated::refusing(3, false), Emulated::refusing(3, true));
    let bytes = || qwen3(&Shape::tiny(), TensorType::Q8_0, 5);
    let answers = [&keeps, &refuses].map(|device| {
        let model = runtime::on(&(device.clone() as _), bytes());
        let mut answer =
            Generation::new(&model, &[4; 60], Sampling::default(), 9, 12, &[]).unwrap();
        answer.prefill(&CancelFlag::new()).unwrap();
        let steps: Vec<_> = (0..10).map(|_| answer.step().unwrap()).collect();
        steps
    });
    assert_eq!(answers[0], answers[1]);
    // Ten steps across a page: the logits, which come first; the layers of one row, which
    // move buffers; the logits again. One is asked for, where that is refused.
    assert_eq!((keeps.prepared(), refuses.prepared()), (3, 1));
}
