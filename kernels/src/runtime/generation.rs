//! One answer, token by token.

use super::digest::logit_digest;
use super::stop::Stops;
use super::{CHUNK, Cache, CancelFlag, EngineError, Sampling};
use crate::model::{Inner, Model, Row, Scratch};
use crate::tokenizer::TextStream;

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it, or a stop string was met.
    Stop,
    /// The most output tokens asked for, or the end of the context.
    Length,
}

/// One generated token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its id.
    pub token: u32,
    /// The text that is now complete: whole characters, nothing of a stop string.
    pub text: String,
    /// Digest of the logits it was chosen from.
    pub logit_digest: [u8; 32],
    /// Set on the last token.
    pub finish: Option<Finish>,
}

/// One sequence with its cache: prompt in, answer out.
pub struct Generation {
    model: Model,
    sequence: Sequence,
    sampling: Sampling,
    seed: u64,
    prompt_len: usize,
    max_output: u32,
    text: TextStream,
    stops: Stops,
    finish: Option<Finish>,
}

impl Generation {
    /// Prepare an answer of at most `max_output` tokens. Computes nothing yet.
    pub fn new(
        model: &Model,
        prompt: &[u32],
        sampling: Sampling,
        seed: u64,
        max_output: u32,
        stop: &[String],
    ) -> Result<Self, EngineError> {
        sampling.check()?;
        check(model, prompt, u64::from(max_output))?;
        Ok(Self {
            model: model.clone(),
            sequence: Sequence::new(prompt),
            sampling,
            seed,
            prompt_len: prompt.len(),
            max_output,
            text: TextStream::default(),
            stops: Stops::new(stop)?,
            finish: (max_output == 0).then_some(Finish::Length),
        })
    }

    /// Number of prompt tokens.
    pub fn prompt_len(&self) -> usize {
        self.prompt_len
    }

    /// Prompt tokens computed so far.
    pub fn prefilled(&self) -> usize {
        self.sequence.computed.min(self.prompt_len)
    }

    /// Tokens generated so far.
    pub fn answer(&self) -> &[u32] {
        &self.sequence.tokens[self.prompt_len..]
    }

    /// Compute the prompt, in chunks; may be called again after a cancellation.
    pub fn prefill(&mut self, cancel: &CancelFlag) -> Result<(), EngineError> {
        while self.prefilled() < self.prompt_len {
            if cancel.is_cancelled() {
                return Err(EngineError::Cancelled);
            }
            let to = (self.sequence.computed + CHUNK).min(self.prompt_len);
            self.sequence.compute(&self.model.0, to)?;
        }
        Ok(())
    }

    /// The next token.
    pub fn step(&mut self) -> Result<Step, EngineError> {
        if self.finish.is_some() {
            return Err(EngineError::Finished);
        }
        if self.prefilled() < self.prompt_len {
            return Err(EngineError::NotPrefilled);
        }
        let model = self.model.clone();
        let sequence = &mut self.sequence;
        if sequence.computed < sequence.tokens.len() {
            sequence.compute(&model.0, sequence.tokens.len())?;
        }
        let logits = sequence.last_logits(&model.0)?;
        let logit_digest = logit_digest(logits);
        let token = self
            .sampling
            .choose(&mut sequence.scratch.logits, &sequence.tokens, self.seed);
        sequence.tokens.push(token);
        Ok(self.deliver(token, logit_digest))
    }

    fn deliver(&mut self, token: u32, logit_digest: [u8; 32]) -> Step {
        let tokenizer = self.model.tokenizer();
        let ended = tokenizer.is_stop(token);
        let whole = if ended {
            String::new()
        } else {
            self.text.push(tokenizer, token)
        };
        let (mut text, stopped) = self.stops.push(&whole);
        if ended || stopped {
            self.finish = Some(Finish::Stop);
        } else if self.answer().len() >= self.max_output as usize {
            self.finish = Some(Finish::Length);
        }
        if self.finish.is_some() && !stopped {
            let (rest, stopped) = self.stops.push(&self.text.finish());
            text.push_str(&rest);
            if !stopped {
                text.push_str(&self.stops.finish());
            }
        }
        Step {
            token,
            text,
            logit_digest,
            finish: self.finish,
        }
    }
}

/// Check that the model makes text, a prompt, and that it fits with `output` further
/// tokens.
pub(super) fn check(model: &Model, tokens: &[u32], output: u64) -> Result<(), EngineError> {
    match model.is_encoder() {
        true => Err(EngineError::NoText),
        false => check_tokens(model, tokens, output),
    }
}

/// Check tokens, and that they fit with `output` further ones.
pub(super) fn check_tokens(model: &Model, tokens: &[u32], output: u64) -> Result<(), EngineError> {
    let info = model.info();
    if tokens.is_empty() {
        return Err(EngineError::EmptyPrompt);
    }
    if let Some(token) = tokens.iter().find(|t| **t >= info.vocab) {
        return Err(EngineError::Token {
            token: *token,
            vocab: info.vocab,
        });
    }
    let needed = tokens.len() as u64 + output;
    match needed <= u64::from(info.context) {
        true => Ok(()),
        false => Err(EngineError::Context {
            needed,
            context: info.context,
        }),
    }
}

/// Tokens and how far they have been computed.
pub(super) struct Sequence {
    pub tokens: Vec<u32>,
    /// Tokens whose keys and values are in the cache.
    pub computed: usize,
    /// First row still in `scratch.x`.
    first_row: usize,
    cache: Cache,
    pub scratch: Scratch,
}

impl Sequence {
    pub fn new(tokens: &[u32]) -> Self {
        Self {
            tokens: tokens.to_vec(),
            computed: 0,
            first_row: 0,
            cache: Cache::default(),
            scratch: Scratch::default(),
        }
    }

    /// Compute tokens up to `to`, in one batch.
    pub fn compute(&mut self, model: &Inner, to: usize) -> Result<(), EngineError> {
        self.cache.reserve(&model.graph, to);
        let rows: Vec<Row> = (self.computed..to)
            .map(|i| Row {
                sequence: 0,
                position: i as u32,
                token: self.tokens[i],
            })
            .collect();
        model.forward(&rows, &mut [&mut self.cache], &mut self.scratch);
        let width = model.graph.width;
        let bad = self
            .scratch
            .x
            .chunks_exact(width)
            .position(|x| !x.iter().all(|x| x.is_finite()));
        if let Some(row) = bad {
            return Err(EngineError::NotFinite {
                position: rows[row].position,
            });
        }
        self.first_row = self.computed;
        self.computed = to;
        Ok(())
    }

    /// Logits after the last computed token.
    pub fn last_logits(&mut self, model: &Inner) -> Result<&[f32], EngineError> {
        self.logits(model, self.computed - 1, self.computed)
    }

    /// Logits after the tokens `from .. to` of the last batch, row by row.
    pub fn logits(&mut self, model: &Inner, from: usize, to: usize) -> Result<&[f32], EngineError> {
        model.logits(
            from - self.first_row,
            to - self.first_row,
            &mut self.scratch,
        );
        let logits = &self.scratch.logits;
        match logits.iter().position(|l| !l.is_finite()) {
            None => Ok(logits),
            Some(i) => Err(EngineError::NotFinite {
                position: (from + i / model.graph.vocab) as u32,
            }),
        }
    }
}
