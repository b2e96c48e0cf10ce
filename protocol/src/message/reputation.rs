//! What goes into and comes out of the reputation machine.

#![allow(missing_docs)] // the fields of inputs and effects are named for what they are

use crate::ids::{EffectId, ModelDigest, NodeKey, OrderId};
use crate::machine::Record;
use crate::message::discovery::Subject;
use crate::message::inference::Outcome;
use crate::message::sibling::Message;
use crate::message::validator::Witness;
use crate::offence::Offence;
use crate::time::WallTime;
use crate::wire::bundle::{Finding, Tier};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// One term of a score: parts per million of the best possible, times its weight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoreTerm {
    /// `price`, `speed`, `reliability`, `acceptance`, `verified`, `stake`.
    pub name: Cow<'static, str>,
    /// 0 to 1,000,000.
    pub value_ppm: u32,
    /// 0 to 1,000,000; the weights of a card sum to 1,000,000.
    pub weight_ppm: u32,
    /// One short sentence.
    pub why: Cow<'static, str>,
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

impl ScoreCard {
    /// Returns a card that says that nothing is known.
    pub fn blank(host: NodeKey, model: ModelDigest) -> Self {
        ScoreCard {
            host,
            model,
            total_ppm: 0,
            terms: Vec::new(),
            standing: Standing::Unknown,
            cooldown: None,
        }
    }
}

/// Inputs of the reputation machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// From Inference: an order ended.
    Happened(Outcome),
    /// From Inference: a payment of an order that had failed settled, and the host keeps more than
    /// what it can show that it delivered costs.
    PaymentTaken { host: NodeKey },
    /// From anybody: a peer misbehaved.
    Offended(Offence),
    /// From Validator: a verdict on a host.
    Judged {
        host: NodeKey,
        model: ModelDigest,
        order: OrderId,
        tier: Tier,
        finding: Finding,
        witness: Witness,
    },
    /// From Discovery: score these, compared with each other.
    ScoreHosts {
        id: EffectId,
        subjects: Vec<Subject>,
    },
}

/// Effects of the reputation machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make durable before anything behind it starts.
    Persist(Vec<Record>),
    /// To a sibling machine; carries score cards.
    Tell(Message),
}
