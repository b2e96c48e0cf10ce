//! The pseudo model: token n is a function of (model, job, n), so any engine can replay it.
//!
//! Not inference. A node's engine produces no token beyond its allowance; a
//! dishonest one alters tokens from some position on, and the world remembers.

use protocol::codec;
use protocol::crypto::tagged_hash;
use protocol::ids::{Digest, ModelDigest, NodeKey, OrderId};
use protocol::message::inference::PromptFacts;
use protocol::money::Meter;
use protocol::wire::attached::{Attached, Vector, vector_digest};
use protocol::wire::chain::{ChainedToken, NO_LOGITS, Piece};
use protocol::wire::order::prompt_digest;
use protocol::work::Job;
use std::collections::{BTreeMap, BTreeSet};

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
    embeds: bool,
}

impl Answer {
    /// Binds a job.
    pub fn new(model: &ModelDigest, job: &Job) -> Self {
        let seed = tagged_hash("sim/answer/1", &[&model.0, &codec::encode(job)]);
        let embeds = job.meter() == Meter::Item;
        if embeds {
            let length = job.most_delivered();
            return Answer {
                seed,
                length,
                embeds,
            };
        }
        let most = u64::from(job.max_output.max(1));
        let drawn = u64::from_le_bytes(seed.0[..8].try_into().unwrap_or_default());
        Answer {
            seed,
            length: most / 2 + 1 + drawn % most,
            embeds,
        }
    }

    /// The token at a position, counted from 0.
    pub fn token(&self, position: u64) -> ChainedToken {
        if self.embeds {
            let id = u32::try_from(position).unwrap_or(u32::MAX);
            let logits = vector_digest(&self.vector(position));
            let piece = Piece::default();
            return ChainedToken { id, logits, piece };
        }
        let logits = tagged_hash("sim/token/1", &[&self.seed.0, &position.to_le_bytes()]);
        let id = u32::from_le_bytes(logits.0[..4].try_into().unwrap_or_default()) % 32_000;
        let piece = Piece {
            control: position + 1 == self.length,
            bytes: word_of(id).into_bytes(),
        };
        ChainedToken { id, logits, piece }
    }

    fn vector(&self, position: u64) -> Vector {
        let bytes = tagged_hash("sim/vector/1", &[&self.seed.0, &position.to_le_bytes()]);
        Vector(bytes.0.to_vec())
    }

    /// What goes with the tokens from one position to another.
    pub fn attached(&self, from: u64, until: u64) -> Attached {
        let vectors = match self.embeds {
            true => (from..until).map(|at| self.vector(at)).collect(),
            false => Vec::new(),
        };
        Attached {
            vectors,
            ..Attached::default()
        }
    }
}

/// The text of one token: a function of its id alone, as with a real vocabulary.
pub fn word_of(id: u32) -> String {
    format!("w{id} ")
}

/// The token as an engine shows it whose listing has no numerics.
pub fn without_logits(token: ChainedToken) -> ChainedToken {
    ChainedToken {
        logits: NO_LOGITS,
        ..token
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
    /// The listing has no numerics: digests of logits are not shown.
    pub plain: bool,
}

/// The generations of one node.
#[derive(Debug, Default)]
pub struct Engine {
    /// By order.
    pub running: BTreeMap<OrderId, Running>,
    /// Buyers whose prompts are in the prefix cache.
    pub cached: BTreeSet<NodeKey>,
}
