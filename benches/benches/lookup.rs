//! What guessing tokens ahead is worth to one stream: greedy answers of a random model,
//! which soon repeat themselves, with and without it, in turns. The tokens are compared,
//! too. A text that repeats nothing has the speed without.
//!
//! `cargo bench --workspace --bench lookup`, on a quiet machine, 2 GB of memory.

use anyhow::{Context, Result, ensure};
use kernels::gguf::TensorType;
use kernels::synthetic::{Shape, qwen3};
use kernels::{Engine, EngineOptions, Load, Model, OpenOptions, Request, Sampling};
use std::time::Instant;

/// Answers of a round, and tokens of an answer.
const ANSWERS: u32 = 3;
const TOKENS: u32 = 128;
const ROUNDS: usize = 3;

fn main() -> Result<()> {
    println!(
        "Qwen3-0.6B shape, {ANSWERS} answers of {TOKENS} tokens, tokens/s by the median of {ROUNDS} rounds"
    );
    for ty in [TensorType::Q8_0, TensorType::Q4_K] {
        let file = qwen3(&Shape::qwen3_0_6b(), ty, 1);
        let model = Model::from_bytes(file, &OpenOptions::default())?;
        model.settle();
        let (mut without, mut with, mut last) = (Vec::new(), Vec::new(), Load::default());
        for _ in 0..ROUNDS {
            let (plain, tokens, _) = round(&model, 0)?;
            let (guessed, same, load) = round(&model, 1)?;
            ensure!(tokens == same, "guesses changed tokens");
            without.push(plain);
            with.push(guessed);
            last = load;
        }
        let (without, with) = (median(without), median(with));
        println!(
            "{ty}: {without:.1} without, {with:.1} with, {:.2} times; {} of {} guessed tokens were right",
            with / without,
            last.guessed_right,
            last.guessed
        );
    }
    Ok(())
}

/// Tokens a second from the first token of each answer, the tokens, and what the engine
/// counted.
fn round(model: &Model, lookup: usize) -> Result<(f64, Vec<u32>, Load)> {
    let options = EngineOptions {
        lookup,
        ..EngineOptions::default()
    };
    let engine = Engine::new(model, options)?;
    let (mut seconds, mut tokens) = (0.0, Vec::new());
    for answer in 0..ANSWERS {
        let token = |i: u32| (i * 7919 + answer * 104_729) % model.info().vocab;
        let mut stream = engine.submit(Request {
            prompt: (0..60).map(token).collect(),
            sampling: Sampling::default(),
            seed: 0,
            max_output: TOKENS,
            stop: Vec::new(),
            owner: 0,
            scope: [0; 32],
            allowance: u64::MAX,
        })?;
        tokens.push(stream.next().context("no token")??.token);
        let start = Instant::now();
        for step in stream {
            tokens.push(step?.token);
        }
        seconds += start.elapsed().as_secs_f64();
    }
    let made = tokens.len() - ANSWERS as usize;
    Ok((made as f64 / seconds, tokens, engine.load()))
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
