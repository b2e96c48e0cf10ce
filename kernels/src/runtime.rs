//! Sequences: cache, generation, replay, and the engine that runs many at once.
//!
//! A [`Generation`] is one order's answer in the making; [`replay`] recomputes one
//! from its tokens and must give the same bits. The thread that calls them is one
//! of the computing threads. Called by the inference and validator actors on
//! threads of their own.

mod answer;
mod cache;
pub(crate) mod digest;
mod embed;
mod engine;
mod generation;
mod logits;
mod logprobs;
mod lookup;
mod pages;
mod pick;
mod prefix;
mod replay;
mod sampling;
mod schedule;
mod steering;
mod stop;
mod stream;

pub use answer::{Finish, Step};
pub use engine::{BACKGROUND, Engine, EngineOptions, Load, Request};
pub use generation::Generation;
pub use logprobs::{Logprob, Logprobs};
pub use replay::{Replayed, replay, replay_steered};
pub use sampling::Sampling;
pub use steering::Steering;
pub use stream::{Control, Next, Stream};

pub(crate) use cache::Cache;
pub(crate) use digest::logit_digest;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Rows computed between two looks at a [`CancelFlag`]: a prompt of any length
/// stops within the time of this many.
pub(crate) const CHUNK: usize = 128;

/// Set from any thread to stop a prefill or a replay between two chunks.
#[derive(Clone, Debug, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stop the work.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the work should stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why a sequence cannot be computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Nothing to continue.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A token id outside the vocabulary.
    #[error("token {token} does not exist: the vocabulary has {vocab}")]
    Token {
        /// The id.
        token: u32,
        /// Vocabulary size.
        vocab: u32,
    },
    /// Prompt and answer do not fit into the context.
    #[error(
        "{needed} tokens (prompt and answer) do not fit into the model's context of {context}: shorten the prompt or ask for fewer tokens"
    )]
    Context {
        /// Prompt tokens plus the most output tokens.
        needed: u64,
        /// The model's context length.
        context: u32,
    },
    /// A sampling parameter outside its range.
    #[error("{name} is {value}; it must be {allowed}")]
    Sampling {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: i64,
        /// What is allowed.
        allowed: &'static str,
    },
    /// Too many or too long stop strings.
    #[error(
        "{count} stop strings of at most {longest} bytes; at most {max_count} of 1 to {max_bytes} bytes are allowed"
    )]
    Stops {
        /// How many were given.
        count: usize,
        /// The longest of them.
        longest: usize,
        /// How many are allowed.
        max_count: usize,
        /// How long they may be.
        max_bytes: usize,
    },
    /// More tokens than the engine's memory for keys and values holds at all.
    #[error(
        "{tokens} tokens (prompt and answer) need {needed_mib} MiB of cache and the engine may use {budget_mib} MiB: shorten the prompt, ask for fewer tokens, or give the engine more memory"
    )]
    Memory {
        /// Prompt tokens plus the most output tokens.
        tokens: u64,
        /// What they need.
        needed_mib: u64,
        /// The engine's budget.
        budget_mib: u64,
    },
    /// The engine has as many jobs as it takes.
    #[error("the engine is busy: try again in {retry_ms} ms")]
    Busy {
        /// When to try again.
        retry_ms: u64,
    },
    /// The engine was shut down, or its thread died.
    #[error("the engine has stopped: restart the node")]
    Stopped,
    /// Stopped by its [`CancelFlag`] or [`Control`].
    #[error("cancelled")]
    Cancelled,
    /// The engine broke off a step of this answer.
    #[error(
        "the engine failed while it computed this answer: try again, and report it where it happens again"
    )]
    Fault,
    /// Somebody wrote to the model's file while it was read.
    #[error(
        "the model's file changed under the running node: start it again, and put new files beside old ones instead of over them"
    )]
    FileChanged,
    /// The model computed something that is not a number.
    #[error(
        "the model's values at position {position} are not finite: the model file is damaged or not usable"
    )]
    NotFinite {
        /// Where.
        position: u32,
    },
    /// Too many or too large logit biases.
    #[error(
        "{count} logit biases of up to {largest} thousandths; at most {max_count} of up to {max_milli} are allowed, each for another token of the vocabulary"
    )]
    Bias {
        /// How many were given.
        count: usize,
        /// The largest magnitude.
        largest: u32,
        /// How many are allowed.
        max_count: usize,
        /// How large they may be.
        max_milli: u32,
    },
    /// More log-probabilities than anybody reads.
    #[error("{asked} log-probabilities a token were asked for; at most {max} are given")]
    Logprobs {
        /// How many.
        asked: u32,
        /// How many are given.
        max: u32,
    },
    /// A grammar, schema or expression that cannot be followed.
    #[error(transparent)]
    Grammar(#[from] crate::tokenizer::GrammarError),
    /// A text asked of a model that makes vectors.
    #[error(
        "this model makes embeddings, not text: ask it for embeddings, or choose another model"
    )]
    NoText,
    /// A vector asked of a model that makes text.
    #[error("this model makes text, not embeddings: choose an embedding model (bert)")]
    NoEmbeddings,
    /// The GPU failed, or has no memory left for another page.
    #[error(transparent)]
    Device(#[from] crate::cuda::CudaError),
    /// `step` after the answer has ended.
    #[error("the answer has already ended")]
    Finished,
    /// `step` before `prefill`.
    #[error("the prompt has not been computed yet: call prefill first")]
    NotPrefilled,
}

impl EngineError {
    /// Whether no later step of the same engine can succeed either.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Device(error) => error.is_lost(),
            Self::FileChanged => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
