//! What goes into and comes out of the discovery machine.

#![allow(missing_docs)] // the fields of inputs and effects are named for what they are

use crate::ids::{EffectId, ModelDigest, NodeKey, RequestId};
use crate::machine::Record;
use crate::message::inference::Query;
use crate::message::reputation::ScoreCard;
use crate::message::sibling::Message;
use crate::money::Msat;
use crate::time::WallTime;
use crate::wire::manifest::{Manifest, ModelOffer};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A load report on a model's gossip topic, or asked for at order time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulse {
    /// The host.
    pub host: NodeKey,
    /// The model.
    pub model: ModelDigest,
    /// Orders running.
    pub running: u32,
    /// Orders waiting.
    pub queued: u32,
    /// Orders it can run at once.
    pub slots: u32,
    /// When it was sent.
    pub time: WallTime,
}

/// One listed (host, model), for an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRow {
    /// The manifest; one for all rows of a host.
    #[serde(with = "crate::wire::manifest::shared")]
    pub manifest: Arc<Manifest>,
    /// Model of this row.
    pub model: ModelDigest,
    /// Relays that served the listing.
    pub relays: Vec<String>,
    /// When it was last seen.
    pub seen: WallTime,
    /// Latest load report.
    pub pulse: Option<Pulse>,
    /// Why it ranks where it does.
    pub score: ScoreCard,
}

/// A host that could serve an order, with the reasons for its rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its node key.
    pub host: NodeKey,
    /// The node that its invoices must pay.
    pub lightning: crate::ids::LightningId,
    /// The offer that matched.
    pub offer: ModelOffer,
    /// Least invoice.
    pub quantum: Msat,
    /// Most days for which it says that it keeps a finished order.
    pub keep_days: u32,
    /// Where to dial.
    pub addresses: Vec<String>,
    /// Why it stands where it stands.
    pub score: ScoreCard,
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

/// Inputs of the discovery machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A relay served a listing whose event signature, proof of work and expiry were verified.
    ListingSeen {
        relay: String,
        author: NodeKey,
        created: WallTime,
        expires: WallTime,
        manifest: Arc<Manifest>,
    },
    /// A relay served a verified deletion of `author`'s listing.
    ListingDeleted { author: NodeKey, at: WallTime },
    /// A pulse arrived by gossip from the transport key `from`.
    PulseSeen { from: Option<NodeKey>, pulse: Pulse },
    /// Local load changed (from Inference).
    LoadChanged {
        model: ModelDigest,
        running: u32,
        queued: u32,
        slots: u32,
    },
    /// From Inference: who could serve this?
    FindCandidates { request: RequestId, query: Query },
    /// From Validator: who could check this model?
    FindValidators { id: EffectId, model: ModelDigest },
    /// From Reputation: answers [`Message::ScoreHosts`].
    HostsScored { id: EffectId, cards: Vec<ScoreCard> },
    /// Operator: publish this manifest from now on (times are filled in); after a self-test.
    Announce(Box<Manifest>),
    /// Operator: take our listing back.
    Withdraw,
    /// [`Effect::SelfTest`] is done: the addresses that the listing is to name, or why it failed.
    SelfTested {
        id: EffectId,
        result: Result<Vec<String>, SelfTestError>,
    },
    /// [`Effect::Publish`] is done.
    Published {
        id: EffectId,
        accepted: Vec<String>,
        refused: Vec<(String, String)>,
    },
    /// Operator: list what is known.
    List { id: EffectId },
}

/// Why a self-test did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SelfTestError {
    /// This node was reached, and had no place left for the connection or the stream.
    NoRoom,
    /// It is not reachable or not payable: a sentence.
    Failed(String),
}

/// Effects of the discovery machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make durable before anything behind it starts.
    Persist(Vec<Record>),
    /// To a sibling machine.
    Tell(Message),
    /// Check from outside the order path that we are reachable, at the addresses that this
    /// machine has now, and payable.
    SelfTest {
        id: EffectId,
        manifest: Box<Manifest>,
    },
    /// Publish our listing.
    Publish {
        id: EffectId,
        manifest: Box<Manifest>,
    },
    /// Delete our listing.
    Unpublish,
    /// Gossip a pulse on its model's topic.
    SendPulse(Pulse),
    /// Follow a model's topic.
    Follow(ModelDigest),
    /// Answers [`Input::List`].
    Reply { id: EffectId, hosts: Vec<HostRow> },
    /// Tell the operator what keeps our own listing back, and the fix.
    Notice(String),
    /// Tell the operator how our own listing fares, where all is well.
    News(String),
}
