//! Answers, digests, shared prompts and replays on a device against those of the CPU.

use super::*;
use crate::runtime::{
    CancelFlag, Engine, EngineError, EngineOptions, Generation, Request, Sampling, Steering, Step,
    replay,
};

/// The model on a device.
pub(super) fn on(device: &Arc<dyn Backend>, bytes: Vec<u8>) -> Model {
    let mut model = cpu(bytes);
    let there = upload(&model, device);
    let file = file(&model);
    let inner = Arc::get_mut(&mut model.0).unwrap();
    inner.device = Some(there);
    inner.graph.forget_weights();
    inner.graph.keep_embedding(&file);
    model
}

fn request(prompt: u32, own: u32) -> Request {
    Request {
        prompt: (0..prompt)
            .chain([own])
            .map(|i| (i * 31 + 1) % 256)
            .collect(),
        sampling: Sampling {
            temperature_milli: 900,
            top_p_milli: 950,
            ..Sampling::default()
        },
        seed: 7,
        max_output: 5,
        stop: Vec::new(),
        owner: 0,
        scope: [0; 32],
        allowance: u64::MAX,
    }
}

fn alone(model: &Model, r: &Request) -> Vec<Step> {
    let mut generation =
        Generation::new(model, &r.prompt, r.sampling, r.seed, r.max_output, &r.stop).unwrap();
    generation.prefill(&CancelFlag::new()).unwrap();
    let mut steps: Vec<Step> = Vec::new();
    while steps.last().is_none_or(|step| step.finish.is_none()) {
        steps.push(generation.step().unwrap());
    }
    steps
}

/// Generation, an engine whose second answer finds its prompt computed, and a replay.
pub(super) fn check_runtime(device: &Arc<dyn Backend>) {
    let bytes = || qwen3(&Shape::tiny(), TensorType::Q8_0, 5);
    let (here, there) = (cpu(bytes()), on(device, bytes()));
    let first = request(140, 1);
    let expected = alone(&here, &first);
    assert_eq!(alone(&there, &first), expected);
    let engine = Engine::new(&there, EngineOptions::default()).unwrap();
    let answer = |r: &Request| {
        let mut stream = engine.submit(r.clone()).unwrap();
        let steps: Result<Vec<Step>, _> = stream.by_ref().collect();
        (steps.unwrap(), stream.cached())
    };
    assert_eq!(answer(&first).0, expected);
    // Two whole pages are the same; the rest is its own.
    let second = request(140, 2);
    assert_eq!(answer(&second), (alone(&here, &second), 128));
    let tokens: Vec<u32> = expected.iter().map(|s| s.token).collect();
    let r = &first;
    let replayed = |model: &Model| {
        replay(
            model,
            &r.prompt,
            &tokens,
            r.sampling,
            r.seed,
            &CancelFlag::new(),
        )
        .unwrap()
    };
    assert_eq!(replayed(&there), replayed(&here));
}

#[test]
fn answers_digests_and_replays_are_those_of_the_cpu() {
    check_runtime(&Emulated::device(5));
}

#[test]
fn every_way_of_choosing_gives_the_tokens_of_the_cpu() {
    let bytes = || qwen3(&Shape::tiny(), TensorType::Q8_0, 5);
    let (here, there) = (cpu(bytes()), on(&Emulated::device(6), bytes()));
    let warm = |top_k, top_p_milli, min_p_milli| Sampling {
        temperature_milli: 700,
        top_k,
        top_p_milli,
        min_p_milli,
        ..Sampling::default()
    };
    let penalised = Sampling {
        presence_penalty_milli: 500,
        ..warm(0, 1000, 0)
    };
    let each = [
        Sampling::default(),
        warm(0, 1000, 0),
        warm(0, 1000, 100),
        warm(20, 900, 0),
        warm(64, 1000, 0),
        warm(0, 300, 20),
        penalised,
    ];
    for sampling in each {
        let r = Request {
            sampling,
            ..request(20, 3)
        };
        assert_eq!(alone(&there, &r), alone(&here, &r), "{sampling:?}");
    }
    let reported = |model: &Model| {
        let r = request(9, 1);
        let mut g =
            Generation::new(model, &r.prompt, r.sampling, r.seed, r.max_output, &r.stop).unwrap();
        let steering = Steering {
            bias: vec![(3, 9000)],
            logprobs: Some(5),
            ..Steering::default()
        };
        g.steer(&steering).unwrap();
        g.prefill(&CancelFlag::new()).unwrap();
        [(); 3].map(|()| g.step().unwrap())
    };
    assert_eq!(reported(&there), reported(&here));
}

#[test]
fn a_failing_device_gives_an_error_and_never_an_answer() {
    let there = on(
        &Emulated::device(0),
        qwen3(&Shape::tiny(), TensorType::Q8_0, 5),
    );
    let pages = there.0.device.as_ref().unwrap().pages();
    let kept: Vec<_> = std::iter::from_fn(|| pages.take().ok()).collect();
    let r = request(3, 1);
    let mut generation =
        Generation::new(&there, &r.prompt, r.sampling, r.seed, r.max_output, &r.stop).unwrap();
    let failed = generation.prefill(&CancelFlag::new()).unwrap_err();
    let expected = CudaError::Pages { pages: kept.len() };
    assert_eq!(failed, EngineError::Device(expected));
}

#[test]
fn a_lost_device_ends_every_answer_and_the_engine_takes_no_more() {
    let device = Emulated::refusing(0, false);
    let bytes = qwen3(&Shape::tiny(), TensorType::Q8_0, 5);
    let there = on(&(device.clone() as Arc<dyn Backend>), bytes);
    let engine = Engine::new(&there, EngineOptions::default()).unwrap();
    let answer = || {
        let stream = engine.submit(request(20, 1))?;
        stream.collect::<Result<Vec<Step>, EngineError>>()
    };
    assert!(answer().is_ok() && engine.broken().is_none());
    device.lose();
    let lost = |result| matches!(result, Err(EngineError::Device(e)) if e.is_lost());
    assert!(lost(answer()));
    assert!(lost(answer()), "the next one is refused with the reason");
    assert!(matches!(engine.broken(), Some(EngineError::Device(_))));
}
