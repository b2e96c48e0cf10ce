//! What goes into and comes out of the validator machine.

#![allow(missing_docs)] // the fields of inputs and effects are named for what they are

use crate::ids::{Caller, Digest, EffectId, ModelDigest, NodeKey, OrderId, StreamId};
use crate::machine::Record;
use crate::message::discovery::Candidate;
use crate::message::inference::Evidence;
use crate::message::sibling::Message;
use crate::wire::bundle::{AuditFrame, Bundle, Verdict};
use crate::wire::chain::ChainedToken;
use crate::wire::envelope::Signed;
use crate::work::Job;

/// What a replay on our own engine gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// Prompt tokens, as we count them.
    pub prompt_tokens: u64,
    /// Salted digest of the prompt tokens.
    pub prompt: Digest,
    /// What we would have produced at each position, given the tokens before it.
    pub expected: Vec<ChainedToken>,
    /// Our engine's numerics.
    pub numerics: Option<String>,
}

/// Why a replay gave nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unrepeatable {
    /// This node has no such model, or no engine for it: what anybody can check stands.
    Absent,
    /// The engine met a limit or failed: nothing is known of the answer.
    Failed(String),
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

/// Inputs of the validator machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// From Inference: an order of ours ended.
    OrderEnded(Box<Evidence>),
    /// A peer opened an audit stream and sent this.
    AuditAsked {
        stream: StreamId,
        caller: Caller,
        frame: Box<AuditFrame>,
    },
    /// An audit stream closed.
    StreamClosed { stream: StreamId },
    /// [`Effect::Replay`] is done; `Err` says why this node cannot.
    Replayed {
        id: EffectId,
        result: Result<Box<Replay>, Unrepeatable>,
    },
    /// From Discovery: answers [`Message::FindValidators`].
    ValidatorsFound { id: EffectId, hosts: Vec<Candidate> },
    /// [`Effect::AskValidator`] is done.
    Answered {
        id: EffectId,
        result: Result<Signed, String>,
    },
    /// Operator: judge this bundle now.
    Judge { id: EffectId, bundle: Box<Bundle> },
}

/// Effects of the validator machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make durable before anything behind it starts.
    Persist(Vec<Record>),
    /// To a sibling machine.
    Tell(Message),
    /// Run prompt and answer through our own engine. `stranger`: neither we nor the operator
    /// ask for it; such replays wait for each other.
    Replay {
        id: EffectId,
        stranger: bool,
        model: ModelDigest,
        job: Box<Job>,
        salt: [u8; 16],
        tokens: Vec<ChainedToken>,
    },
    /// End this replay, whether it runs or waits: nobody hears its result.
    CancelReplay { id: EffectId },
    /// Send a bundle to another node's `/freehold/audit/1` and wait for its verdict.
    AskValidator {
        id: EffectId,
        host: NodeKey,
        addresses: Vec<String>,
        bundle: Box<Bundle>,
    },
    /// Answer on an audit stream, then close it.
    Answer {
        stream: StreamId,
        frame: Box<AuditFrame>,
    },
    /// Show the operator a verdict, ours or another validator's. `Err`: no check was possible.
    Report {
        order: OrderId,
        result: Result<Box<Verdict>, String>,
    },
    /// Answers [`Input::Judge`].
    Reply { id: EffectId, verdict: Box<Verdict> },
}
