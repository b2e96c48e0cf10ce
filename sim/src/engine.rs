//! The pseudo model: token n is a function of (model, job, n), so any engine can replay it.
//!
//! Not inference. A node's engine produces no token beyond its allowance; a
//! dishonest one alters tokens from some position on, and the world remembers.

use protocol::chain::{ChainedToken, Piece};
use protocol::codec;
use protocol::crypto::tagged_hash;
use protocol::ids::{Digest, ModelDigest, OrderId};
use protocol::inference::io::PromptFacts;
use protocol::order::wire::prompt_digest;
use protocol::work::Job;
use std::collections::BTreeMap;

/// Numerics that every honest engine of the world shares.
pub const NUMERICS: &str = "sim-1";
/// Tokens of one engine step.
pub const STEP: u64 = 4;

/// A job bound to a model: all that is needed to produce any of its tokens.
#[derive(Debug, Clone)]
pub struct Answer {
    seed: Digest,
    /// Tokens until the model ends by itself.
    pub length: u64,
}

impl Answer {
    /// Binds a job.
    pub fn new(model: &ModelDigest, job: &Job) -> Self {
        let seed = tagged_hash("sim/answer/1", &[&model.0, &codec::encode(job)]);
        let most = u64::from(job.max_output.max(1));
        let drawn = u64::from_le_bytes(seed.0[..8].try_into().unwrap_or_default());
        Answer {
            seed,
            length: most / 2 + 1 + drawn % most,
        }
    }

    /// The token at a position, counted from 0.
    pub fn token(&self, position: u64) -> ChainedToken {
        let logits = tagged_hash("sim/token/1", &[&self.seed.0, &position.to_le_bytes()]);
        let id = u32::from_le_bytes(logits.0[..4].try_into().unwrap_or_default()) % 32_000;
        let piece = Piece {
            control: position + 1 == self.length,
            bytes: format!(" w{id}").into_bytes(),
        };
        ChainedToken { id, logits, piece }
    }
}

/// What the tokenizer of the world says of a prompt.
pub fn count(job: &Job, salt: &[u8; 16]) -> PromptFacts {
    let tokens = 8 + job.text_bytes() as u64 / 4;
    let ids: Vec<u32> = (0..u32::try_from(tokens).unwrap_or(u32::MAX)).collect();
    PromptFacts {
        tokens,
        cached: 0,
        longest: tokens,
        digest: prompt_digest(salt, &ids),
    }
}

/// One generation under way.
#[derive(Debug)]
pub struct Running {
    /// What is produced.
    pub answer: Answer,
    /// The job's own limit.
    pub most: u64,
    /// Tokens produced.
    pub produced: u64,
    /// Tokens allowed.
    pub allowed: u64,
    /// A step is scheduled.
    pub busy: bool,
    /// First altered position, at a dishonest host.
    pub bad_from: Option<u64>,
    /// The model, for the slots.
    pub model: ModelDigest,
}

/// The generations of one node.
#[derive(Debug, Default)]
pub struct Engine {
    /// By order.
    pub running: BTreeMap<OrderId, Running>,
}
