//! Speed of a loaded model with a given prompt, depth and number of streams: what
//! `llama-bench` calls pp and tg.
//!
//! Greedy decoding with the digest that every served token carries. Times vary with
//! the machine's load. Called by the node's `bench`.

use crate::model::{Model, Row, Scratch};
use crate::runtime::{CHUNK, Cache, EngineError, Sampling, logit_digest};
use std::time::Instant;

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Tokens of the prompt that is timed; 0 leaves it out.
    pub prompt: usize,
    /// Tokens generated in each stream; 0 leaves it out.
    pub generate: usize,
    /// Tokens that each stream holds before the first generated one.
    pub depth: usize,
    /// Streams that decode together.
    pub streams: usize,
}

/// What was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Speed {
    /// Prompt tokens per second; none where no prompt was timed.
    pub prefill: Option<f64>,
    /// Generated tokens per second, all streams together; none where none were made.
    pub decode: Option<f64>,
}

/// One sequence of the batch.
struct Stream {
    cache: Cache,
    tokens: Vec<u32>,
}

/// Measure once.
///
/// # Errors
/// Where the model makes no text, the tokens do not fit into its context, or it
/// computes something that is not finite.
pub fn streams(model: &Model, plan: &Plan) -> Result<Speed, EngineError> {
    if model.is_encoder() {
        return Err(EngineError::NoText);
    }
    let longest = plan.prompt.max(plan.depth.max(1) + plan.generate);
    let context = model.info().context;
    if longest as u64 > u64::from(context) {
        return Err(EngineError::Context {
            needed: longest as u64,
            context,
        });
    }
    model.settle();
    let mut scratch = Scratch::default();
    let mut speed = Speed::default();
    if plan.prompt > 0 {
        let mut stream = Stream::new(model, plan.prompt, 0);
        let start = Instant::now();
        stream.prefill(model, &mut scratch)?;
        choose(model, 1, &mut scratch)?;
        speed.prefill = Some(plan.prompt as f64 / start.elapsed().as_secs_f64());
    }
    if plan.generate > 0 {
        speed.decode = Some(decode(model, plan, &mut scratch)?);
    }
    Ok(speed)
}

fn decode(model: &Model, plan: &Plan, scratch: &mut Scratch) -> Result<f64, EngineError> {
    let mut all: Vec<Stream> = (0..plan.streams.max(1))
        .map(|seed| Stream::new(model, plan.depth.max(1), seed))
        .collect();
    for stream in &mut all {
        let last = stream.tokens.pop();
        stream.prefill(model, scratch)?;
        stream.tokens.extend(last);
    }
    let start = Instant::now();
    for _ in 0..plan.generate {
        let rows: Vec<Row> = all
            .iter()
            .enumerate()
            .map(|(sequence, stream)| Row {
                sequence,
                position: stream.tokens.len() as u32 - 1,
                token: stream.tokens[stream.tokens.len() - 1],
            })
            .collect();
        let mut caches: Vec<&mut Cache> = all
            .iter_mut()
            .map(|stream| {
                stream.cache.reserve(&model.0.graph, stream.tokens.len());
                &mut stream.cache
            })
            .collect();
        model.0.forward(&rows, &mut caches, scratch);
        sound(scratch)?;
        let made = choose(model, all.len(), scratch)?;
        for (stream, token) in all.iter_mut().zip(made) {
            stream.tokens.push(token);
        }
    }
    Ok((all.len() * plan.generate) as f64 / start.elapsed().as_secs_f64())
}

/// Whether the device did what it was told.
fn sound(scratch: &mut Scratch) -> Result<(), EngineError> {
    let failure = scratch.failure.take();
    failure.map_or(Ok(()), |failure| Err(failure.into()))
}

/// The next token of each of the last `rows` rows.
fn choose(model: &Model, rows: usize, scratch: &mut Scratch) -> Result<Vec<u32>, EngineError> {
    let (graph, greedy) = (&model.0.graph, Sampling::default());
    let computed = scratch.x.len() / graph.width;
    model.0.logits(computed - rows, computed, scratch);
    sound(scratch)?;
    scratch
        .logits
        .chunks_exact_mut(graph.vocab)
        .map(|logits| {
            if !logits.iter().all(|l| l.is_finite()) {
                return Err(EngineError::NotFinite { position: 0 });
            }
            std::hint::black_box(logit_digest(logits));
            Ok(greedy.choose(logits, &[], 0))
        })
        .collect()
}

impl Stream {
    /// A stream with `len` tokens that differ from stream to stream.
    fn new(model: &Model, len: usize, seed: usize) -> Self {
        let vocab = model.info().vocab as usize;
        Self {
            cache: Cache::default(),
            tokens: (0..len)
                .map(|i| ((i * 7919 + seed * 104_729 + 7) % vocab) as u32)
                .collect(),
        }
    }

    /// Compute all tokens, in the chunks of a served prompt.
    fn prefill(&mut self, model: &Model, scratch: &mut Scratch) -> Result<(), EngineError> {
        self.cache.reserve(&model.0.graph, self.tokens.len());
        for (chunk, tokens) in self.tokens.chunks(CHUNK).enumerate() {
            let rows: Vec<Row> = tokens
                .iter()
                .enumerate()
                .map(|(i, token)| Row {
                    sequence: 0,
                    position: (chunk * CHUNK + i) as u32,
                    token: *token,
                })
                .collect();
            model.0.forward(&rows, &mut [&mut self.cache], scratch);
            sound(scratch)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OpenOptions;

    fn pocket() -> Model {
        let options = OpenOptions {
            threads: 1,
            ..OpenOptions::default()
        };
        Model::from_bytes(crate::pocket::pocket(), &options).expect("the pocket model loads")
    }

    #[test]
    fn every_part_of_a_plan_is_measured_and_only_those() {
        let plan = Plan {
            prompt: 3,
            generate: 2,
            depth: 70,
            streams: 2,
        };
        let speed = streams(&pocket(), &plan).expect("it fits");
        assert!(speed.prefill.is_some_and(|x| x > 0.0));
        assert!(speed.decode.is_some_and(|x| x > 0.0));
        let nothing = Plan {
            prompt: 0,
            generate: 0,
            ..plan
        };
        let speed = streams(&pocket(), &nothing).expect("nothing fits");
        assert_eq!(speed, Speed::default());
    }

    #[test]
    fn a_depth_beyond_the_context_is_refused() {
        let plan = Plan {
            prompt: 0,
            generate: 1,
            depth: 1 << 20,
            streams: 1,
        };
        let refused = streams(&pocket(), &plan);
        assert!(matches!(refused, Err(EngineError::Context { .. })));
    }
}
