//! Choices from what a device sends against choices from whole rows.

use super::*;
use crate::runtime::digest::{largest, logit_digest};
use crate::runtime::sampling::noise;
use proptest::prelude::*;

/// What an honest device sends, computed plainly; the sum in an order of its own.
fn sent(logits: &[f32], rule: &Rule) -> Found {
    let top = largest(logits, 64);
    let best = f64::from(logits[top[0] as usize] / rule.temperature);
    let floor = best + rule.floor;
    let divided = logits.iter().map(|l| f64::from(l / rule.temperature));
    let counted: Vec<(usize, f64)> = divided.enumerate().filter(|(_, l)| *l >= floor).collect();
    let score = |(id, l): &(usize, f64)| l + noise(rule.seed, rule.position, *id as u32);
    let chosen = counted
        .iter()
        .rev()
        .fold(None, |found: Option<(f64, usize)>, c| {
            match (found, score(c)) {
                (Some(best), s) if best.0 > s => Some(best),
                (_, s) => Some((s, c.0)),
            }
        });
    Found {
        finite: true,
        top: top.iter().map(|id| (*id, logits[*id as usize])).collect(),
        token: chosen.map_or(0, |(_, id)| id as u32),
        sum: counted
            .iter()
            .rev()
            .map(|(_, l)| exp64((l - best).max(-700.0)))
            .sum(),
    }
}

fn sampling() -> impl Strategy<Value = Sampling> {
    let top_k = prop_oneof![Just(0u32), 1..64u32, Just(64)];
    let top_p = prop_oneof![Just(1000u32), 1..1001u32, 900..1000u32];
    let min_p = prop_oneof![Just(0u32), 0..1001u32, 1..100u32];
    (0..3000u32, top_k, top_p, min_p).prop_map(|(t, top_k, top_p_milli, min_p_milli)| Sampling {
        temperature_milli: if t < 300 { 0 } else { t },
        top_k,
        top_p_milli,
        min_p_milli,
        ..Sampling::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn a_choice_from_what_was_sent_is_the_choice_from_the_row(
        // Steps make equals; a wide range makes few tokens count.
        values in prop::collection::vec(-400i32..400, 1..300),
        step in prop_oneof![Just(0.001f32), Just(0.03), Just(0.5)],
        sampling in sampling(),
        seed in any::<u64>(),
        position in 1usize..500,
    ) {
        let mut logits: Vec<f32> = values.iter().map(|v| *v as f32 * step).collect();
        let rule = sampling.rule(position, seed);
        prop_assert_eq!(rule.is_none(), sampling.top_k == 64 && sampling.temperature_milli > 0);
        if let Some(rule) = rule {
            let found = sent(&logits, &rule);
            if let Some((token, digest)) = sampling.pick(&found, &rule, logits.len()) {
                prop_assert_eq!(digest, logit_digest(&logits));
                let before = vec![0; position];
                prop_assert_eq!(token, sampling.choose(&mut logits, &before, seed));
            }
        }
    }
}

/// Logits like a model's: a few likely tokens, a long tail.
fn model_like(seed: u32) -> Vec<f32> {
    let at = |i: u32| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32;
    (0..5000)
        .map(|i| 16.0 * (at(i) / 16_777_216.0).powi(8))
        .collect()
}

#[test]
fn common_samplings_are_decided_without_the_row() {
    let warm = |top_k, top_p_milli, min_p_milli| Sampling {
        temperature_milli: 700,
        top_k,
        top_p_milli,
        min_p_milli,
        ..Sampling::default()
    };
    let common = [
        Sampling::default(),
        warm(20, 950, 0),
        warm(40, 1000, 50),
        warm(0, 1000, 0),
        warm(0, 1000, 50),
        warm(0, 500, 0),
    ];
    for sampling in common {
        for seed in 0..20 {
            let logits = model_like(seed);
            let rule = sampling.rule(9, seed.into()).unwrap();
            let picked = sampling.pick(&sent(&logits, &rule), &rule, logits.len());
            let token = sampling.choose(&mut logits.clone(), &[1; 9], seed.into());
            assert_eq!(picked, Some((token, logit_digest(&logits))), "{sampling:?}");
        }
    }
}

#[test]
fn what_was_not_sent_is_never_guessed() {
    let flat = vec![1.0; 200];
    let cut = Sampling {
        temperature_milli: 1000,
        top_k: 10,
        ..Sampling::default()
    };
    let rule = cut.rule(3, 1).unwrap();
    assert_eq!(cut.pick(&sent(&flat, &rule), &rule, 200), None);
    let nucleus = Sampling {
        top_k: 0,
        top_p_milli: 900,
        ..cut
    };
    let rule = nucleus.rule(3, 1).unwrap();
    assert_eq!(nucleus.pick(&sent(&flat, &rule), &rule, 200), None);
    let penalised = Sampling {
        presence_penalty_milli: 1,
        ..Sampling::default()
    };
    assert_eq!(penalised.rule(3, 1), None);
}
