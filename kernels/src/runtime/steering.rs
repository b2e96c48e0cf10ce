//! What is done to the logits beside sampling: bias, and whether probabilities are
//! reported.

use super::EngineError;
use super::logprobs::MAX_LOGPROBS;
use crate::tokenizer::Tokenizer;

/// As many biases as hosted interfaces take.
const MAX_BIASES: usize = 512;
/// The OpenAI interface's largest bias, 100, in thousandths.
const MAX_BIAS_MILLI: u32 = 100_000;

/// What an answer is asked for beyond its sampling. The default asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steering {
    /// Added to the logits of these tokens, in thousandths.
    pub bias: Vec<(u32, i32)>,
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

    /// The state that follows one answer; `None` where nothing touches the logits.
    pub(super) fn start(&self) -> Option<Steer> {
        (!self.bias.is_empty()).then(|| Steer {
            bias: self.bias.clone(),
        })
    }
}

/// Steering on its way through one answer.
pub(crate) struct Steer {
    bias: Vec<(u32, i32)>,
}

impl Steer {
    /// Add the biases.
    pub fn apply(&mut self, logits: &mut [f32]) {
        for (token, milli) in &self.bias {
            if let Some(l) = logits.get_mut(*token as usize) {
                *l += *milli as f32 / 1000.0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Gguf, TensorType};
    use crate::runtime::Sampling;
    use crate::synthetic::{Shape, qwen3};

    #[test]
    fn biases_and_probabilities_are_bounded() {
        let file = Gguf::from_bytes(qwen3(&Shape::tiny(), TensorType::Q8_0, 1)).unwrap();
        let tokenizer = Tokenizer::from_gguf(&file).unwrap();
        let bias = |bias: Vec<(u32, i32)>| Steering {
            bias,
            ..Steering::default()
        };
        let good = bias(vec![(1, 100_000), (2, -100_000)]);
        assert!(good.check(&tokenizer).is_ok());
        for wrong in [
            vec![(1, 100_001)],
            vec![(1, 1), (1, 2)],
            vec![(u32::MAX, 1)],
        ] {
            assert!(bias(wrong).check(&tokenizer).is_err());
        }
        let logprobs = |n| Steering {
            logprobs: Some(n),
            ..Steering::default()
        };
        assert!(logprobs(20).check(&tokenizer).is_ok());
        assert!(logprobs(21).check(&tokenizer).is_err());
        let mut steer = bias(vec![(2, 1500)]).start().unwrap();
        let mut logits = [1.0, 0.0, 0.0];
        let greedy = Sampling::default();
        assert_eq!(greedy.sample(&mut logits, &[0], 1, Some(&mut steer)), 2);
    }
}
