//! Speed of streams as the engine serves them: scheduling, sampling and hand-over
//! included. Called by benches; [`super::streams`] leaves those out.

use super::Plan;
use crate::model::Model;
use crate::runtime::{Engine, EngineError, EngineOptions, Request, Sampling};
use std::time::Instant;

/// Tokens per second of all streams of a plan together, greedy, counted from the first
/// token of any to the last of all. The plan's prompt is the prompt of each stream; its
/// depth is not looked at.
///
/// # Errors
/// Where a stream is refused or fails.
pub fn served(model: &Model, plan: &Plan) -> Result<f64, EngineError> {
    model.settle();
    let streams = plan.streams.max(1);
    let options = EngineOptions {
        streams,
        ..EngineOptions::default()
    };
    let engine = Engine::new(model, options).map_err(|_| EngineError::Stopped)?;
    let streams = (0..streams)
        .map(|seed| engine.submit(request(model, plan, seed)))
        .collect::<Result<Vec<_>, _>>()?;
    let read = |stream: crate::runtime::Stream| {
        let mut times = Vec::with_capacity(plan.generate);
        for step in stream {
            step?;
            times.push(Instant::now());
        }
        Ok(times)
    };
    let times = std::thread::scope(|scope| {
        let readers: Vec<_> = streams
            .into_iter()
            .map(|stream| scope.spawn(move || read(stream)))
            .collect();
        readers
            .into_iter()
            .map(|reader| reader.join().unwrap_or(Err(EngineError::Stopped)))
            .collect::<Result<Vec<Vec<Instant>>, EngineError>>()
    })?;
    let first = times.iter().filter_map(|t| t.first()).min();
    let last = times.iter().filter_map(|t| t.last()).max();
    let seconds = first.zip(last).map_or(0.0, |(first, last)| {
        last.duration_since(*first).as_secs_f64()
    });
    let made: usize = times.iter().map(|t| t.len().saturating_sub(1)).sum();
    Ok(made as f64 / seconds.max(f64::MIN_POSITIVE))
}

fn request(model: &Model, plan: &Plan, seed: usize) -> Request {
    let vocab = model.info().vocab as usize;
    let token = |i: usize| ((i * 7919 + seed * 104_729 + 7) % vocab) as u32;
    Request {
        prompt: (0..plan.prompt.max(1)).map(token).collect(),
        sampling: Sampling::default(),
        seed: seed as u64,
        max_output: plan.generate as u32,
        stop: Vec::new(),
        owner: seed as u64,
        scope: [0; 32],
        allowance: u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OpenOptions;

    #[test]
    fn served_streams_have_a_speed_and_refusals_are_passed_on() {
        let pocket = crate::pocket::pocket();
        let model = Model::from_bytes(pocket, &OpenOptions::default()).expect("it loads");
        let mut plan = Plan {
            prompt: 9,
            generate: 8,
            depth: 0,
            streams: 3,
        };
        assert!(served(&model, &plan).expect("it fits") > 0.0);
        plan.generate = 1_000_000;
        let refused = served(&model, &plan);
        assert!(matches!(refused, Err(EngineError::Context { .. })));
    }
}
