//! Generation and replay: the same bits however the work is cut.

use super::*;
use crate::cpu::SimdLevel;
use crate::gguf::TensorType;
use crate::model::{Cheat, Model, OpenOptions};
use crate::synthetic::{Shape, qwen3};
use std::sync::LazyLock;

const TYPES: [TensorType; 3] = [TensorType::Q8_0, TensorType::F16, TensorType::F32];
const LEVELS: [SimdLevel; 3] = [SimdLevel::Portable, SimdLevel::Avx2, SimdLevel::Avx512Vnni];

fn open(ty: TensorType, threads: usize, simd: Option<SimdLevel>) -> Model {
    let options = OpenOptions {
        threads,
        simd,
        cheat: None,
        ..OpenOptions::default()
    };
    Model::from_bytes(qwen3(&Shape::tiny(), ty, 5), &options).unwrap()
}

static MODEL: LazyLock<Model> = LazyLock::new(|| open(TensorType::Q8_0, 2, None));

fn prompt(n: u32) -> Vec<u32> {
    (0..n).map(|i| (i * 29 + 3) % 256).collect()
}

fn warm() -> Sampling {
    Sampling {
        temperature_milli: 800,
        top_p_milli: 950,
        ..Sampling::default()
    }
}

/// Every step of an answer.
fn answer(model: &Model, prompt: &[u32], sampling: Sampling, seed: u64, n: u32) -> Vec<Step> {
    let mut generation = Generation::new(model, prompt, sampling, seed, n, &[]).unwrap();
    generation.prefill(&CancelFlag::new()).unwrap();
    let mut steps = Vec::new();
    loop {
        let step = generation.step().unwrap();
        let last = step.finish.is_some();
        steps.push(step);
        if last {
            return steps;
        }
    }
}

fn replay_all(
    model: &Model,
    prompt: &[u32],
    steps: &[Step],
    s: Sampling,
    seed: u64,
) -> Vec<Replayed> {
    let tokens: Vec<u32> = steps.iter().map(|s| s.token).collect();
    replay(model, prompt, &tokens, s, seed, &CancelFlag::new()).unwrap()
}

fn same(steps: &[Step], replayed: &[Replayed]) -> bool {
    steps.len() == replayed.len()
        && steps
            .iter()
            .zip(replayed)
            .all(|(s, r)| s.token == r.expected_token && s.logit_digest == r.logit_digest)
}

#[test]
fn a_replay_in_one_prefill_gives_the_bits_of_the_decode() {
    for ty in TYPES {
        let model = open(ty, 2, None);
        // Lengths around tiles of 64 positions and chunks of 128 rows.
        for (n, output) in [(1, 80), (63, 4), (64, 4), (65, 70), (130, 20), (257, 10)] {
            let prompt = prompt(n);
            let steps = answer(&model, &prompt, warm(), 42, output);
            assert!(
                same(&steps, &replay_all(&model, &prompt, &steps, warm(), 42)),
                "{ty} {n}"
            );
        }
    }
}

#[test]
fn threads_and_instruction_levels_do_not_change_a_bit() {
    let prompt = prompt(70);
    for ty in TYPES {
        let expected = answer(
            &open(ty, 1, Some(SimdLevel::Portable)),
            &prompt,
            warm(),
            1,
            12,
        );
        for level in LEVELS {
            for threads in [1, 2, 5] {
                let steps = answer(&open(ty, threads, Some(level)), &prompt, warm(), 1, 12);
                assert_eq!(steps, expected, "{ty} {level:?} {threads} threads");
            }
        }
    }
}

#[test]
fn the_cut_of_the_prompt_into_batches_does_not_change_a_bit() {
    let model = &*MODEL;
    let prompt = prompt(90);
    let mut logits = Vec::new();
    for chunk in [1, 4, 8, 23, 90] {
        let mut sequence = generation::Computation::default();
        while sequence.computed < prompt.len() {
            let to = (sequence.computed + chunk).min(prompt.len());
            sequence.compute(&model.0, &prompt, to).unwrap();
        }
        let bits: Vec<u32> = sequence
            .last_logits(&model.0)
            .unwrap()
            .iter()
            .map(|l| l.to_bits())
            .collect();
        logits.push(bits);
    }
    assert!(logits.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn logits_of_all_tokens_are_those_of_each_last_token() {
    let tokens = prompt(140);
    let all = MODEL.logits(&tokens, true).unwrap();
    assert_eq!(all.len(), 140);
    for n in [1, 2, 64, 65, 129, 140] {
        let last = MODEL.logits(&tokens[..n], false).unwrap();
        assert!(last.len() == 1 && last[0] == all[n - 1], "{n}");
    }
    assert_eq!(MODEL.logits(&[], true), Err(EngineError::EmptyPrompt));
}

#[test]
fn sequences_that_share_a_batch_do_not_change_each_other() {
    let inner = &MODEL.0;
    let prompts = [prompt(5), prompt(70), prompt(33)];
    let mut caches: Vec<Cache> = prompts.iter().map(|_| Cache::default()).collect();
    let mut rows = Vec::new();
    for (sequence, tokens) in prompts.iter().enumerate() {
        caches[sequence].reserve(&inner.graph, tokens.len());
        rows.extend(
            tokens
                .iter()
                .enumerate()
                .map(|(i, token)| crate::model::Row {
                    sequence,
                    position: i as u32,
                    token: *token,
                }),
        );
    }
    let mut scratch = crate::model::Scratch::default();
    let mut caches: Vec<&mut Cache> = caches.iter_mut().collect();
    inner.forward(&rows, &mut caches, &mut scratch);
    let mut end = 0;
    for tokens in &prompts {
        end += tokens.len();
        inner.logits(end - 1, end, &mut scratch);
        let mut alone = generation::Computation::default();
        alone.compute(inner, tokens, tokens.len()).unwrap();
        assert_eq!(scratch.logits, alone.last_logits(inner).unwrap());
    }
}

#[test]
fn the_seed_decides_the_answer_and_a_wrong_seed_is_noticed() {
    let prompt = prompt(20);
    let hot = Sampling {
        temperature_milli: 1500,
        ..Sampling::default()
    };
    let first = answer(&MODEL, &prompt, hot, 7, 24);
    assert_eq!(first, answer(&MODEL, &prompt, hot, 7, 24));
    assert_ne!(first, answer(&MODEL, &prompt, hot, 8, 24));
    assert!(!same(&first, &replay_all(&MODEL, &prompt, &first, hot, 8)));
}

#[test]
fn one_altered_weight_shows_in_every_digest() {
    let prompt = prompt(20);
    for ty in TYPES {
        let honest = open(ty, 1, None);
        let options = OpenOptions {
            threads: 1,
            simd: None,
            cheat: Some(Cheat::AlterWeight),
            ..OpenOptions::default()
        };
        let bytes = qwen3(&Shape::tiny(), ty, 5);
        let cheat = Model::from_bytes(bytes, &options).unwrap();
        assert_eq!(cheat.info(), honest.info());
        let steps = answer(&cheat, &prompt, warm(), 3, 16);
        let replayed = replay_all(&honest, &prompt, &steps, warm(), 3);
        let agree = steps
            .iter()
            .zip(&replayed)
            .any(|(s, r)| s.logit_digest == r.logit_digest);
        assert!(!agree, "{ty}");
    }
}

#[test]
fn a_changed_answer_token_is_noticed_at_its_place() {
    let prompt = prompt(12);
    let steps = answer(&MODEL, &prompt, warm(), 9, 20);
    let mut tokens: Vec<u32> = steps.iter().map(|s| s.token).collect();
    tokens[10] = (tokens[10] + 1) % 256;
    let replayed = replay(&MODEL, &prompt, &tokens, warm(), 9, &CancelFlag::new()).unwrap();
    assert!(same(&steps[..10], &replayed[..10]));
    assert_ne!(replayed[10].expected_token, tokens[10]);
    assert_ne!(replayed[11].logit_digest, steps[11].logit_digest);
}

#[test]
fn text_stops_before_a_stop_string_and_adds_up_to_the_tokens() {
    let prompt = prompt(9);
    let steps = answer(&MODEL, &prompt, warm(), 4, 60);
    let text: String = steps.iter().map(|s| s.text.as_str()).collect();
    let chars: Vec<char> = text.chars().collect();
    assert!(chars.len() > 12, "{text:?}");
    let stop: String = chars[8..10].iter().collect();
    let at = text.find(&stop).unwrap();
    let mut generation =
        Generation::new(&MODEL, &prompt, warm(), 4, 60, std::slice::from_ref(&stop)).unwrap();
    generation.prefill(&CancelFlag::new()).unwrap();
    let mut cut = String::new();
    let finish = loop {
        let step = generation.step().unwrap();
        cut += &step.text;
        if let Some(finish) = step.finish {
            break finish;
        }
    };
    assert_eq!((cut.as_str(), finish), (&text[..at], Finish::Stop));
    assert_eq!(generation.step(), Err(EngineError::Finished));
}

#[test]
fn a_cancelled_prefill_stops_and_can_go_on() {
    let prompt = prompt(300);
    let mut generation = Generation::new(&MODEL, &prompt, warm(), 4, 4, &[]).unwrap();
    assert_eq!(generation.step(), Err(EngineError::NotPrefilled));
    let cancel = CancelFlag::new();
    cancel.cancel();
    assert_eq!(generation.prefill(&cancel), Err(EngineError::Cancelled));
    assert_eq!(generation.prefilled(), 0);
    generation.prefill(&CancelFlag::new()).unwrap();
    let steps = answer(&MODEL, &prompt, warm(), 4, 4);
    assert_eq!(generation.step().unwrap(), steps[0]);
    let tokens = [1, 2, 3];
    let result = replay(&MODEL, &prompt, &tokens, warm(), 4, &cancel);
    assert_eq!(result, Err(EngineError::Cancelled));
}

#[test]
fn bad_requests_are_refused_by_name() {
    let new =
        |prompt: &[u32], output| Generation::new(&MODEL, prompt, warm(), 0, output, &[]).err();
    assert_eq!(new(&[], 1), Some(EngineError::EmptyPrompt));
    assert_eq!(
        new(&[320], 1),
        Some(EngineError::Token {
            token: 320,
            vocab: 320
        })
    );
    let context = Some(EngineError::Context {
        needed: 513,
        context: 512,
    });
    assert_eq!(new(&prompt(500), 13), context);
    assert_eq!(new(&prompt(500), 12), None);
    let bad = Sampling {
        min_p_milli: 2000,
        ..warm()
    };
    assert!(Generation::new(&MODEL, &[1], bad, 0, 1, &[]).is_err());
}

#[test]
fn the_bits_of_a_known_model_do_not_change() {
    let steps = answer(&MODEL, &prompt(40), Sampling::default(), 0, 4);
    let mut hash = blake3::Hasher::new();
    steps.iter().for_each(|s| {
        hash.update(&s.logit_digest);
    });
    assert_eq!(hash.finalize().to_hex().as_str(), GOLDEN);
}

/// Changes only together with the name of the numerics.
const GOLDEN: &str = "c6012e4a5700ab55c7292426fc909139e062029a565fdf81380e315492e94c07";

#[test]
fn the_pocket_model_answers_and_its_answer_replays() {
    let model = Model::from_bytes(crate::pocket::pocket(), &OpenOptions::default()).unwrap();
    let chat = [crate::ChatMessage {
        role: "user".into(),
        content: "What is a host?".into(),
    }];
    let prompt = model.encode_chat(&chat, "2026-11-20").unwrap();
    let steps = answer(&model, &prompt, Sampling::default(), 0, 64);
    let text: String = steps.iter().map(|s| s.text.as_str()).collect();
    assert!(text.contains("host"), "{text}");
    assert!(same(
        &steps,
        &replay_all(&model, &prompt, &steps, Sampling::default(), 0)
    ));
    let options = OpenOptions {
        cheat: Some(Cheat::AlterWeight),
        ..OpenOptions::default()
    };
    let cheat = Model::from_bytes(crate::pocket::pocket(), &options).unwrap();
    for (s, r) in answer(&cheat, &prompt, Sampling::default(), 0, 64)
        .iter()
        .zip(&steps)
    {
        assert_ne!(s.logit_digest, r.logit_digest);
    }
}

#[test]
fn a_steered_answer_replays_bit_for_bit_and_keeps_its_form() {
    let steering = Steering {
        bias: vec![(5, 2500), (9, -100_000)],
        grammar: Some(crate::tokenizer::Grammar::Regex("[a-f]{3,9}x?".to_owned())),
        logprobs: Some(3),
    };
    let sampling = Sampling {
        presence_penalty_milli: 300,
        frequency_penalty_milli: -100,
        ..warm()
    };
    let prompt = prompt(20);
    let mut generation = Generation::new(&MODEL, &prompt, sampling, 11, 30, &[]).unwrap();
    generation.steer(&steering).unwrap();
    generation.prefill(&CancelFlag::new()).unwrap();
    let mut steps = Vec::new();
    while steps.last().is_none_or(|s: &Step| s.finish.is_none()) {
        steps.push(generation.step().unwrap());
    }
    let text: String = steps.iter().map(|s| s.text.as_str()).collect();
    let body = text.trim_end_matches('x');
    assert!(
        body.len() >= 3 && body.bytes().all(|b| (b'a'..=b'f').contains(&b)),
        "{text:?}"
    );
    assert_eq!(steps.last().unwrap().finish, Some(Finish::Stop));
    for step in &steps {
        let logprobs = step.logprobs.as_ref().expect("asked for");
        assert_eq!(logprobs.top.len(), 3);
        assert!(logprobs.top[0].micro >= logprobs.chosen.micro);
        assert_eq!(logprobs.chosen.token, step.token);
    }
    let tokens: Vec<u32> = steps.iter().map(|s| s.token).collect();
    let flag = CancelFlag::new();
    let replayed =
        replay_steered(&MODEL, &prompt, &tokens, sampling, &steering, 11, &flag).unwrap();
    for (step, replayed) in steps.iter().zip(&replayed) {
        assert_eq!(replayed.expected_token, step.token);
        assert_eq!(replayed.logit_digest, step.logit_digest);
    }
    // Digests are of the model's own logits, so they do not tell the grammar.
    let plain = replay(&MODEL, &prompt, &tokens, sampling, 11, &flag).unwrap();
    assert!(
        plain
            .iter()
            .zip(&replayed)
            .all(|(a, b)| a.logit_digest == b.logit_digest)
    );
    assert_ne!(plain, replayed);
}
