//! Answers, digests, shared prompts and replays on a device against those of the CPU.

use super::*;
use crate::runtime::{
    CancelFlag, Engine, EngineOptions, Generation, Request, Sampling, Step, replay,
};

/// The model on a device.
fn on(device: &Arc<dyn Backend>, bytes: Vec<u8>) -> Model {
    let mut model = cpu(bytes);
    let there = upload(&model, device);
    Arc::get_mut(&mut model.0).unwrap().device = Some(there);
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
    assert_eq!(failed, crate::runtime::EngineError::Device(expected));
}
