//! Recomputing an answer from its tokens: what a validator does.

use super::digest::logit_digest;
use super::generation::{Computation, check};
use super::{CHUNK, CancelFlag, EngineError, Sampling, Steering};
use crate::model::Model;

/// Rows of logits held at once: 16 rows of the largest vocabularies are 16 MB.
pub(super) const LOGIT_ROWS: usize = 16;

/// What an honest engine would have produced at one place of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The token that the sampling chooses, given the answer's tokens before it.
    pub expected_token: u32,
    /// Digest of the logits it is chosen from.
    pub logit_digest: [u8; 32],
}

/// Recompute prompt and answer as one prefill. The result has one entry per answer
/// token; an honest answer agrees in every token and digest, bit for bit.
pub fn replay(
    model: &Model,
    prompt: &[u32],
    answer: &[u32],
    sampling: Sampling,
    seed: u64,
    cancel: &CancelFlag,
) -> Result<Vec<Replayed>, EngineError> {
    let steering = Steering::default();
    replay_steered(model, prompt, answer, sampling, &steering, seed, cancel)
}

/// [`replay`] of an answer that was steered.
pub fn replay_steered(
    model: &Model,
    prompt: &[u32],
    answer: &[u32],
    sampling: Sampling,
    steering: &Steering,
    seed: u64,
    cancel: &CancelFlag,
) -> Result<Vec<Replayed>, EngineError> {
    sampling.check()?;
    steering.check(model.tokenizer())?;
    let mut steer = steering.start(model.tokenizer())?;
    check(model, prompt, answer.len() as u64)?;
    let tokens = [prompt, answer].concat();
    check(model, &tokens, 0)?;
    let mut sequence = Computation::default();
    let mut out = Vec::with_capacity(answer.len());
    // The last token's own logits were never sampled from.
    let last = tokens.len() - 1;
    while sequence.computed < last && !answer.is_empty() {
        if cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let from = sequence.computed;
        let to = (from + CHUNK).min(last);
        sequence.compute(&model.0, &tokens, to)?;
        // Row i gives the logits for token i + 1.
        let mut row = from.max(prompt.len() - 1);
        while row < to {
            let end = (row + LOGIT_ROWS).min(to);
            sequence.logits(&model.0, row, end)?;
            let vocab = model.0.graph.vocab;
            for (i, logits) in sequence.scratch.logits.chunks_exact_mut(vocab).enumerate() {
                let logit_digest = logit_digest(logits);
                let before = &tokens[..row + i + 1];
                let expected_token = sampling.sample(logits, before, seed, steer.as_mut());
                if let Some(steer) = &mut steer {
                    steer.accept(tokens[before.len()]);
                }
                out.push(Replayed {
                    expected_token,
                    logit_digest,
                });
            }
            row = end;
        }
    }
    Ok(out)
}
