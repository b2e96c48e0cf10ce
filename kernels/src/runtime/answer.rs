//! The text side of one answer: from logits to a token, its text and the end.
//!
//! Knows no cache and no batch: whatever makes answers makes its tokens here, so that
//! a token cannot depend on where it was computed.

use super::digest::logit_digest;
use super::generation::check;
use super::logprobs::Logprobs;
use super::pick::Picked;
use super::steering::{Steer, Steering};
use super::stop::Stops;
use super::{EngineError, Sampling};
use crate::cuda::{Found, Rule};
use crate::model::Model;
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
    /// The model's own probabilities, where they were asked for.
    pub logprobs: Option<Box<Logprobs>>,
    /// Set on the last token.
    pub finish: Option<Finish>,
}

/// Tokens so far and how the next one is chosen.
pub(super) struct Answer {
    model: Model,
    /// Prompt, then answer.
    pub tokens: Vec<u32>,
    pub prompt_len: usize,
    sampling: Sampling,
    seed: u64,
    max_output: u32,
    text: TextStream,
    stops: Stops,
    steer: Option<Steer>,
    logprobs: Option<u32>,
    pub finish: Option<Finish>,
}

impl Answer {
    /// Check everything that is asked for. Computes nothing.
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
            tokens: prompt.to_vec(),
            prompt_len: prompt.len(),
            sampling,
            seed,
            max_output,
            text: TextStream::default(),
            stops: Stops::new(stop)?,
            steer: None,
            logprobs: None,
            finish: (max_output == 0).then_some(Finish::Length),
        })
    }

    /// Bias, constrain and report on the choices from now on.
    pub fn steer(&mut self, steering: &Steering) -> Result<(), EngineError> {
        steering.check(self.model.tokenizer())?;
        self.steer = steering.start(self.model.tokenizer())?;
        self.logprobs = steering.logprobs;
        Ok(())
    }

    /// Tokens made so far.
    pub fn made(&self) -> &[u32] {
        &self.tokens[self.prompt_len..]
    }

    /// Most tokens that may still be made.
    pub fn left(&self) -> usize {
        (self.max_output as usize).saturating_sub(self.made().len())
    }

    /// Choose and add the token that follows all tokens, given its finite logits,
    /// which are changed.
    pub fn choose(&mut self, logits: &mut [f32]) -> Step {
        let logit_digest = logit_digest(logits);
        let own = self.logprobs.map(|n| (n, logits.to_vec()));
        let steer = self.steer.as_mut();
        let token = self.sampling.sample(logits, &self.tokens, self.seed, steer);
        if let Some(steer) = &mut self.steer {
            steer.accept(token);
        }
        self.tokens.push(token);
        let mut step = self.deliver(token, logit_digest);
        step.logprobs = own.map(|(n, logits)| Box::new(Logprobs::new(&logits, token, n)));
        step
    }

    /// What to ask of a device in place of the logits; `None` where they are needed.
    pub fn rule(&self) -> Option<Rule> {
        match (&self.steer, self.logprobs) {
            (None, None) => self.sampling.rule(self.tokens.len(), self.seed),
            _ => None,
        }
    }

    /// [`Self::choose`] from what the device found by the rule, where that suffices.
    pub fn pick(&mut self, found: &Found, rule: &Rule) -> Option<Step> {
        let vocab = self.model.0.graph.vocab;
        let (token, digest): Picked = self.sampling.pick(found, rule, vocab)?;
        self.tokens.push(token);
        Some(self.deliver(token, digest))
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
        } else if self.made().len() >= self.max_output as usize {
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
            logprobs: None,
            finish: self.finish,
        }
    }
}
