//! The reputation machine: first-party history in, explained scores out.

pub mod book;
pub mod decay;
pub mod history;
pub mod io;
pub mod machine;
mod reach;
pub mod score;

pub use machine::{Config, Reputation};
pub use score::Weights;

use crate::ids::{ModelDigest, NodeKey};
use crate::time::WallTime;
use serde::{Deserialize, Serialize};

/// One term of a score: parts per million of the best possible, times its weight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoreTerm {
    /// `price`, `speed`, `reliability`, `acceptance`, `verified`, `stake`.
    pub name: String,
    /// 0 to 1,000,000.
    pub value_ppm: u32,
    /// 0 to 1,000,000; the weights of a card sum to 1,000,000.
    pub weight_ppm: u32,
    /// One short sentence.
    pub why: String,
}

/// What this node knows of a host at first hand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It served orders of this node within the last weeks and was not caught.
    Served,
    /// Nothing.
    #[default]
    Unknown,
    /// It failed or refused what it was asked for, and served nothing.
    Failed,
    /// It kept a payment for nothing, and never served.
    Kept,
}

/// A score with its explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoreCard {
    /// The host.
    pub host: NodeKey,
    /// The model.
    pub model: ModelDigest,
    /// Weighted sum of the terms, 0 to 1,000,000.
    pub total_ppm: u32,
    /// The terms.
    pub terms: Vec<ScoreTerm>,
    /// What this node knows of it at first hand.
    pub standing: Standing,
    /// Not to be used before this time, and why.
    pub cooldown: Option<(WallTime, String)>,
}
