//! Every architecture against the oracle, and against itself however the work is cut.

use super::*;
use crate::gguf::write::Encoding;
use crate::ops::reference::nmse;
use crate::{CancelFlag, EngineError, Generation, Sampling, SimdLevel, replay};
use proptest::prelude::*;

fn tokens(n: u32) -> Vec<u32> {
    (0..n).map(|i| (i * 57 + 11) % 256).collect()
}

fn open(kind: &str, threads: usize, simd: SimdLevel) -> Model {
    let options = OpenOptions {
        threads,
        simd: Some(simd),
        cheat: None,
        ..OpenOptions::default()
    };
    Model::from_bytes(zoo::write(kind, Encoding::Q8_0, 3), &options).unwrap()
}

#[test]
fn every_architecture_agrees_with_the_oracle() {
    for kind in zoo::DECODERS {
        // Keys and values are kept in f16: 1e-6. Eight-bit activations: 2e-3. They also
        // move router logits, so that now and then a row takes another expert.
        let mixture = matches!(kind, "llama-mixture" | "qwen3moe" | "gpt-oss");
        let rounded = if mixture { 3e-2 } else { 2e-3 };
        for (encoding, bound) in [(Encoding::F32, 1e-6), (Encoding::Q8_0, rounded)] {
            let error = error_against_reference(zoo::write(kind, encoding, 3), &tokens(150));
            assert!(error < bound, "{kind} {encoding:?}: {error:e}");
        }
    }
}

#[test]
fn an_encoders_vectors_agree_with_the_oracle() {
    for (encoding, bound) in [(Encoding::F32, 1e-6), (Encoding::Q8_0, 1e-3)] {
        let bytes = zoo::write("bert", encoding, 3);
        let file = Gguf::from_bytes(bytes.clone()).unwrap();
        let model = load(bytes).unwrap();
        assert_eq!(model.embedding_len(), Some(64));
        for n in [1, 2, 17, 64, 65, 150] {
            let found = model.embed(&tokens(n)).unwrap();
            let found = found.iter().map(|x| f64::from(*x));
            let truth = oracle::embedding(&file, &tokens(n));
            let error = nmse(truth.iter().copied(), found);
            assert!(error < bound, "{encoding:?} {n}: {error:e}");
        }
    }
}

#[test]
fn text_is_not_asked_of_an_encoder_nor_vectors_of_a_decoder() {
    let encoder = load(zoo::write("bert", Encoding::Q8_0, 3)).unwrap();
    assert_eq!(encoder.logits(&[1], false), Err(EngineError::NoText));
    let sampling = Sampling::default();
    let refused = Generation::new(&encoder, &[1], sampling, 0, 1, &[]).err();
    assert_eq!(refused, Some(EngineError::NoText));
    assert_eq!(encoder.embed(&[]), Err(EngineError::EmptyPrompt));
    let long = Err(EngineError::Context {
        needed: 513,
        context: 512,
    });
    assert_eq!(encoder.embed(&tokens(513)), long);
    let decoder = load(zoo::write("llama", Encoding::Q8_0, 3)).unwrap();
    assert_eq!(decoder.embed(&[1]), Err(EngineError::NoEmbeddings));
}

fn bits(rows: &[Vec<f32>]) -> Vec<Vec<u32>> {
    let row = |row: &Vec<f32>| row.iter().map(|x| x.to_bits()).collect();
    rows.iter().map(row).collect()
}

#[test]
fn threads_and_levels_do_not_change_a_bit_of_any_architecture() {
    let tokens = tokens(140);
    for kind in zoo::DECODERS {
        let expected = bits(
            &open(kind, 1, SimdLevel::Portable)
                .logits(&tokens, true)
                .unwrap(),
        );
        for level in [SimdLevel::Avx2, SimdLevel::Avx512Vnni] {
            for threads in [1, 3] {
                let found = open(kind, threads, level).logits(&tokens, true).unwrap();
                assert!(bits(&found) == expected, "{kind} {level:?} {threads}");
            }
        }
    }
    let expected = open("bert", 1, SimdLevel::Portable).embed(&tokens).unwrap();
    for level in [SimdLevel::Avx2, SimdLevel::Avx512Vnni] {
        assert_eq!(open("bert", 3, level).embed(&tokens).unwrap(), expected);
    }
}

#[test]
fn decoding_any_architecture_gives_the_bits_of_a_prefill() {
    for kind in zoo::DECODERS {
        let model = open(kind, 2, SimdLevel::Avx512Vnni);
        let (prompt, sampling) = (tokens(60), Sampling::default());
        let mut generation = Generation::new(&model, &prompt, sampling, 7, 90, &[]).unwrap();
        generation.prefill(&CancelFlag::new()).unwrap();
        let mut steps = Vec::new();
        while steps.is_empty()
            || steps
                .last()
                .is_some_and(|s: &crate::Step| s.finish.is_none())
        {
            steps.push(generation.step().unwrap());
        }
        let answer: Vec<u32> = steps.iter().map(|s| s.token).collect();
        let replayed = replay(&model, &prompt, &answer, sampling, 7, &CancelFlag::new()).unwrap();
        for (step, again) in steps.iter().zip(replayed) {
            assert_eq!(step.token, again.expected_token, "{kind}");
            assert_eq!(step.logit_digest, again.logit_digest, "{kind}");
        }
    }
}

/// Logits of the last token of each of several sequences that share one batch.
fn together(model: &Model, sequences: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let inner = &model.0;
    let mut caches: Vec<_> = sequences
        .iter()
        .map(|tokens| {
            let mut cache = crate::runtime::Cache::default();
            cache.reserve(&inner.graph, tokens.len());
            cache
        })
        .collect();
    let rows: Vec<Row> = sequences
        .iter()
        .enumerate()
        .flat_map(|(sequence, tokens)| {
            tokens.iter().enumerate().map(move |(i, token)| Row {
                sequence,
                position: i as u32,
                token: *token,
            })
        })
        .collect();
    let mut scratch = Scratch::default();
    let mut caches: Vec<_> = caches.iter_mut().collect();
    inner.forward(&rows, &mut caches, &mut scratch);
    let mut end = 0;
    let mut out = Vec::new();
    for tokens in sequences {
        end += tokens.len();
        inner.logits(end - 1, end, &mut scratch);
        out.push(scratch.logits.clone());
    }
    out
}

#[test]
fn sequences_that_share_a_batch_do_not_change_a_bit_of_each_other() {
    let sequences: Vec<Vec<u32>> = [5, 90, 33, 1].map(tokens).to_vec();
    for kind in zoo::DECODERS {
        let model = open(kind, 2, SimdLevel::Avx512Vnni);
        let shared = together(&model, &sequences);
        for (tokens, shared) in sequences.iter().zip(shared) {
            let alone = model.logits(tokens, false).unwrap();
            assert!(alone[0] == shared, "{kind} {}", tokens.len());
        }
    }
}

#[test]
fn a_window_forgets_what_lies_behind_it() {
    // Every layer sees 70 positions, itself among them: three layers see 208 back.
    let mut bytes = zoo::write("gpt-oss", Encoding::Q8_0, 3);
    patch(
        &mut bytes,
        b"gpt-oss.block_count\x04\0\0\0\x03",
        b"gpt-oss.block_count\x04\0\0\0\x01",
    );
    let model = load(bytes).unwrap();
    let last = |first: u32| {
        let mut tokens = tokens(150);
        tokens[150 - 71] = first;
        tokens[0] = first;
        model.logits(&tokens, false).unwrap()
    };
    assert_eq!(last(1), last(2));
    let mut seen = tokens(150);
    seen[150 - 70] += 1;
    let mut other = tokens(150);
    other[150 - 71] += 1;
    let plain = model.logits(&tokens(150), false).unwrap();
    assert_ne!(model.logits(&seen, false).unwrap(), plain);
    assert_eq!(model.logits(&other, false).unwrap(), plain);
}

#[test]
fn hyperparameters_out_of_bounds_are_refused_by_name() {
    let cases: [(&str, &[u8], &[u8]); 7] = [
        (
            "qwen3moe",
            b"expert_used_count\x04\0\0\0\x03",
            b"expert_used_count\x04\0\0\0\x09",
        ),
        (
            "qwen3moe",
            b"expert_count\x04\0\0\0\x08\0\0",
            b"expert_count\x04\0\0\0\x08\0\xff",
        ),
        (
            "gemma3",
            b"sliding_window\x04\0\0\0\x46",
            b"sliding_window\x04\0\0\0\0",
        ),
        (
            "mistral3",
            b"\x04\0\0\0\0\0\0\0yarn",
            b"\x04\0\0\0\0\0\0\0yawn",
        ),
        (
            "llama",
            b"dimension_count\x04\0\0\0\x10",
            b"dimension_count\x04\0\0\0\x11",
        ),
        (
            "llama",
            b"freq_base\x06\0\0\0\0\x50\xc3\x47",
            b"freq_base\x06\0\0\0\0\0\0\x3f",
        ),
        (
            "gemma3-capped",
            b"final_logit_softcapping\x06\0\0\0\0\0\x40\x40",
            b"final_logit_softcapping\x06\0\0\0\0\0\x40\xc0",
        ),
    ];
    for (kind, from, to) in cases {
        let mut bytes = zoo::write(kind, Encoding::Q8_0, 3);
        patch(&mut bytes, from, to);
        let result = load(bytes);
        assert!(
            matches!(result, Err(LoadError::Hyperparameter { .. })),
            "{kind} {result:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_mutated_model_never_panics_the_engine(
        kind in 0..=zoo::DECODERS.len(),
        changes in prop::collection::vec((0usize..9_000, any::<u8>()), 1..6),
    ) {
        let kind = zoo::DECODERS.get(kind).unwrap_or(&"bert");
        let mut bytes = zoo::write(kind, Encoding::Q8_0, 7);
        for (at, value) in changes {
            bytes[at] = value;
        }
        if let Ok(model) = load(bytes) {
            let sampling = Sampling::default();
            if let Ok(mut generation) = Generation::new(&model, &[1, 2], sampling, 0, 3, &[])
                && generation.prefill(&CancelFlag::new()).is_ok()
            {
                let _ = generation.step();
            }
            let _ = model.embed(&[1, 2]);
            let chat = [ChatMessage { role: "user".into(), content: "hi".into() }];
            let _ = model.encode_chat(&chat, "2026-11-20");
        }
    }
}
