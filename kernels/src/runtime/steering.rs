//! What is done to the logits beside sampling: bias and constraint, and whether
//! probabilities are reported.

use super::EngineError;
use super::logprobs::MAX_LOGPROBS;
use crate::tokenizer::{Constraint, Grammar, Tokenizer};

/// As many biases as hosted interfaces take.
const MAX_BIASES: usize = 512;
/// The OpenAI interface's largest bias, 100, in thousandths.
const MAX_BIAS_MILLI: u32 = 100_000;

/// What an answer is asked for beyond its sampling. The default asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steering {
    /// Added to the logits of these tokens, in thousandths.
    pub bias: Vec<(u32, i32)>,
    /// What the text must look like.
    pub grammar: Option<Grammar>,
    /// Report the probability of each token and of this many alternatives.
    pub logprobs: Option<u32>,
}

impl Steering {
    /// Check every bound.
    pub fn check(&self, tokenizer: &Tokenizer) -> Result<(), EngineError> {
        let largest = self.bias.iter().map(|(_, x)| x.unsigned_abs()).max();
        let largest = largest.unwrap_or(0);
        let mut tokens: Vec<u32> = self.bias.iter().map(|(token, _)| *token).collect();
        tokens.sort_unstable();
        tokens.dedup();
        let known = tokens
            .last()
            .is_none_or(|t| (*t as usize) < tokenizer.len());
        let count = self.bias.len();
        if !known || tokens.len() != count || count > MAX_BIASES || largest > MAX_BIAS_MILLI {
            return Err(EngineError::Bias {
                count,
                largest,
                max_count: MAX_BIASES,
                max_milli: MAX_BIAS_MILLI,
            });
        }
        match self.logprobs {
            Some(asked) if asked > MAX_LOGPROBS => Err(EngineError::Logprobs {
                asked,
                max: MAX_LOGPROBS,
            }),
            _ => Ok(()),
        }
    }

    /// Check every bound, and that the grammar compiles.
    pub fn check_whole(&self, tokenizer: &Tokenizer) -> Result<(), EngineError> {
        self.check(tokenizer)?;
        self.start(tokenizer).map(|_| ())
    }

    /// The state that follows one answer; `None` where nothing touches the logits.
    pub(super) fn start(&self, tokenizer: &Tokenizer) -> Result<Option<Steer>, EngineError> {
        let grammar = self.grammar.as_ref();
        let constraint = grammar.map(|g| Constraint::new(tokenizer, g)).transpose()?;
        if self.bias.is_empty() && constraint.is_none() {
            return Ok(None);
        }
        Ok(Some(Steer {
            bias: self.bias.clone(),
            constraint,
        }))
    }
}

/// Steering on its way through one answer.
pub(crate) struct Steer {
    bias: Vec<(u32, i32)>,
    constraint: Option<Constraint>,
}

impl Steer {
    /// Take away what is not allowed here, then add the biases.
    pub fn apply(&mut self, logits: &mut [f32]) {
        if let Some(constraint) = &mut self.constraint {
            constraint.mask(logits);
        }
        for (token, milli) in &self.bias {
            if let Some(l) = logits.get_mut(*token as usize) {
                *l += *milli as f32 / 1000.0;
            }
        }
    }

    /// Go on behind this token.
    pub fn accept(&mut self, token: u32) {
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(token);
        }
    }
}

#[cfg(test)]
mod tests;
