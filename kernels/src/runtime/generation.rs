//! One answer, token by token.

use super::answer::{Answer, Step};
use super::{CHUNK, Cache, CancelFlag, EngineError, Sampling, Steering};
use crate::cuda::{Found, Rule};
use crate::model::{Inner, Model, Row, Scratch};

/// One sequence with its cache: prompt in, answer out.
pub struct Generation {
    model: Model,
    answer: Answer,
    computation: Computation,
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
        Ok(Self {
            model: model.clone(),
            answer: Answer::new(model, prompt, sampling, seed, max_output, stop)?,
            computation: Computation::default(),
        })
    }

    /// Bias, constrain and report on the choices of this answer.
    pub fn steer(&mut self, steering: &Steering) -> Result<(), EngineError> {
        self.answer.steer(steering)
    }

    /// Number of prompt tokens.
    pub fn prompt_len(&self) -> usize {
        self.answer.prompt_len
    }

    /// Prompt tokens computed so far.
    pub fn prefilled(&self) -> usize {
        self.computation.computed.min(self.answer.prompt_len)
    }

    /// Tokens generated so far.
    pub fn answer(&self) -> &[u32] {
        self.answer.made()
    }

    /// Compute the prompt, in chunks; may be called again after a cancellation.
    pub fn prefill(&mut self, cancel: &CancelFlag) -> Result<(), EngineError> {
        while self.prefilled() < self.answer.prompt_len {
            if cancel.is_cancelled() {
                return Err(EngineError::Cancelled);
            }
            let to = (self.computation.computed + CHUNK).min(self.answer.prompt_len);
            let (model, tokens) = (&self.model.0, &self.answer.tokens);
            self.computation.compute(model, tokens, to)?;
        }
        Ok(())
    }

    /// The next token.
    pub fn step(&mut self) -> Result<Step, EngineError> {
        if self.answer.finish.is_some() {
            return Err(EngineError::Finished);
        }
        if self.prefilled() < self.answer.prompt_len {
            return Err(EngineError::NotPrefilled);
        }
        let (model, tokens) = (&self.model.0, &self.answer.tokens);
        if self.computation.computed < tokens.len() {
            self.computation.compute(model, tokens, tokens.len())?;
        }
        let picked = match self.answer.rule() {
            Some(rule) => {
                let found = self.computation.last_found(model, rule)?;
                found.and_then(|found| self.answer.pick(&found, &rule))
            }
            None => None,
        };
        if let Some(step) = picked {
            return Ok(step);
        }
        self.computation.last_logits(model)?;
        Ok(self.answer.choose(&mut self.computation.scratch.logits))
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

/// How far the tokens of a sequence have been computed, alone.
#[derive(Default)]
pub(super) struct Computation {
    /// Tokens whose keys and values are in the cache.
    pub computed: usize,
    /// First row still in `scratch.x`.
    first_row: usize,
    cache: Cache,
    pub scratch: Scratch,
}

impl Computation {
    /// Compute `tokens` up to `to`, in one batch.
    pub fn compute(&mut self, model: &Inner, tokens: &[u32], to: usize) -> Result<(), EngineError> {
        if model.backing.is_changed() {
            return Err(EngineError::FileChanged);
        }
        self.cache.reserve(&model.graph, to);
        let rows: Vec<Row> = (self.computed..to)
            .map(|i| Row {
                sequence: 0,
                position: i as u32,
                token: tokens[i],
            })
            .collect();
        model.forward(&rows, &mut [&mut self.cache], &mut self.scratch);
        if model.backing.is_changed() {
            return Err(EngineError::FileChanged);
        }
        if let Some(failure) = self.scratch.failure.take() {
            return Err(failure.into());
        }
        let bad = (0..rows.len()).find(|row| !model.is_finite(*row, &self.scratch));
        if let Some(row) = bad {
            return Err(EngineError::NotFinite {
                position: rows[row].position,
            });
        }
        self.first_row = self.computed;
        self.computed = to;
        Ok(())
    }

    /// What a device finds by a rule in the logits after the last computed token; `None`
    /// where the processor computes, or where a logit is not finite.
    fn last_found(&mut self, model: &Inner, rule: Rule) -> Result<Option<Found>, EngineError> {
        let row = self.computed - 1 - self.first_row;
        let found = model.found(&[row], &[rule], &mut self.scratch);
        match self.scratch.failure.take() {
            Some(failure) => Err(failure.into()),
            None => Ok(found.and_then(|all| all.into_iter().find(|f| f.finite))),
        }
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
        if let Some(failure) = self.scratch.failure.take() {
            return Err(failure.into());
        }
        if model.backing.is_changed() {
            return Err(EngineError::FileChanged);
        }
        let logits = &self.scratch.logits;
        match logits.iter().position(|l| !l.is_finite()) {
            None => Ok(logits),
            Some(i) => Err(EngineError::NotFinite {
                position: (from + i / model.graph.vocab) as u32,
            }),
        }
    }
}
