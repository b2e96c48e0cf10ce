//! What goes into and comes out of the reputation machine.

#![allow(missing_docs)] // the fields of inputs and effects are named for what they are

use crate::ids::{EffectId, ModelDigest, NodeKey, OrderId};
use crate::machine::Record;
use crate::message::sibling::Message;
use crate::offence::Offence;
use crate::refusal::Code;
use crate::time::WallTime;
use crate::wire::bundle::{Finding, Tier};
use serde::{Deserialize, Serialize};

/// How an order with a host went, seen from our side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The order.
    pub order: OrderId,
    /// The host.
    pub host: NodeKey,
    /// The model.
    pub model: ModelDigest,
    /// `None`: it went well, or was refused.
    pub failure: Option<Code>,
    /// The host itself said no, with this code. Counts apart from failures; `failure` is
    /// then not read.
    pub refused: Option<Code>,
    /// From order to first token.
    pub first_token_ms: Option<u64>,
    /// Tokens delivered.
    pub tokens: u64,
    /// From first to last token.
    pub stream_ms: u64,
    /// The host charged no more than it listed.
    pub price_kept: bool,
    /// The host ended it, or fell silent, and keeps more than what it can show that it delivered
    /// costs: output that none of its signatures covers can be anything.
    pub took_payment: bool,
    /// It ended the order without a word of text, though we did not stop it.
    pub blank: bool,
}

impl Outcome {
    /// Returns whether the host served the order to its end.
    pub fn went_well(&self) -> bool {
        self.failure.is_none() && self.refused.is_none() && self.tokens > 0 && !self.blank
    }

    /// Terms above the listing before anything was delivered: nothing was charged, and the
    /// listing may be an old one that a relay kept. The same to the buyer as a refusal.
    pub fn refused_by_price(&self) -> bool {
        !self.price_kept && self.failure.is_some() && self.tokens == 0
    }

    /// Returns whether it shows that the host, and so the network, was reached.
    pub fn shows_contact(&self) -> bool {
        let silent = matches!(self.failure, Some(Code::Disconnected | Code::Timeout));
        self.refused.is_some() || self.first_token_ms.is_some() || !silent
    }
}

/// Validators, each of a Lightning node of its own, that convict a host where all of them say
/// so of one answer. Two liars are met too easily where a tenth of all validators lie.
pub const AGREEING: usize = 3;

/// Who checked, and whose order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witness {
    /// This node, an order of its own.
    Own,
    /// This node, a bundle that somebody else brought.
    Stranger,
    /// Another validator, an order of this node.
    Other(NodeKey),
    /// Several other validators, the same order of this node.
    Agreed([NodeKey; AGREEING]),
}

/// One (host, model) to be scored, with what its listing says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The host.
    pub host: NodeKey,
    /// The model.
    pub model: ModelDigest,
    /// Expected cost of the order in msat, for the price term.
    pub expected_cost_msat: u64,
}

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
    ScoresWanted {
        ticket: EffectId,
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
