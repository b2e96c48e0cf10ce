//! The types of the control API, as JSON on both sides.

use actors::ports::wallet::{ChannelId, Peer};
use protocol::ids::{LightningId, ModelDigest, NodeKey, OrderId, Preimage};
use protocol::message::inference::{BuyerEvent, ModelSelector};
use protocol::money::{Counts, Msat, Prices};
use protocol::refusal::Refusal;
use protocol::wire::bundle::Verdict;
use protocol::wire::manifest::{PaymentMode, Role};
use protocol::wire::order::{Finish, Retention};
use protocol::work::{Sampling, Steering, Work};
use serde::{Deserialize, Serialize};

/// How a node is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The process.
    pub pid: u32,
    /// Version of the software.
    pub version: String,
    /// Base address of its gateway, `http://…`; empty where it has none.
    pub gateway: String,
    /// Node key.
    pub node: NodeKey,
    /// Lightning node id.
    pub lightning: LightningId,
    /// Network that money moves on.
    pub network: String,
    /// Roles enabled.
    pub roles: Vec<Role>,
    /// libp2p addresses; empty for a pure client.
    pub addresses: Vec<String>,
    /// Relays and how they fare.
    pub relays: Vec<RelayRow>,
    /// Models loaded.
    pub models: Vec<ModelRow>,
    /// What of the world is missing just now.
    #[serde(default)]
    pub degraded: Vec<Degraded>,
}

/// Something that a node goes on without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Degraded {
    /// `wallet`, `peers` (of the wallet's channels), `relays`, or `engine of MODEL`.
    pub what: String,
    /// Why it is missing.
    pub why: String,
    /// What does not work meanwhile.
    pub effect: String,
}

/// A relay, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayRow {
    /// Its address.
    pub url: String,
    /// Whether a connection is open.
    pub connected: bool,
    /// Why the last connection ended or failed.
    pub last_error: Option<String>,
    /// Round trip, in milliseconds.
    pub latency_ms: Option<u64>,
    /// Events taken.
    pub events: u64,
}

/// A model on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRow {
    /// Name in the listing.
    pub name: String,
    /// BLAKE3 of its file.
    pub digest: ModelDigest,
    /// Architecture.
    pub architecture: String,
    /// Storage type of most weights.
    pub quantisation: String,
    /// Number of weights.
    pub parameters: u64,
    /// Context in tokens.
    pub context: u32,
    /// Name of the numerics, where answers can be replayed.
    pub numerics: Option<String>,
    /// Prices if it is sold, msat per million.
    pub prices: Prices,
    /// Tokens a second, one stream, as measured at the start (thousandths).
    pub decode_milli_tokens_per_s: u64,
    /// The server that runs it, where it is not this node's engine.
    #[serde(default)]
    pub runner: Option<String>,
}

/// What to buy. Everything left out is chosen by the node, within the caps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuyOrder {
    /// Which model.
    pub model: ModelSelector,
    /// What to compute.
    pub work: Work,
    /// Most output tokens.
    #[serde(default)]
    pub max_output: Option<u32>,
    /// How to draw tokens.
    #[serde(default)]
    pub sampling: Sampling,
    /// Seed; drawn at random where it is not fixed.
    #[serde(default)]
    pub seed: Option<u64>,
    /// Strings that end the answer.
    #[serde(default)]
    pub stop: Vec<String>,
    /// Form of the answer, shifts of logits, probabilities.
    #[serde(default)]
    pub steering: Steering,
    /// Cap on this order.
    #[serde(default)]
    pub max_cost: Option<Msat>,
    /// Budget that it is charged to.
    pub budget: String,
    /// Buy from this host or not at all.
    #[serde(default)]
    pub host: Option<NodeKey>,
    /// Wait for [`super::Client::confirm`] after the choice was shown.
    #[serde(default)]
    pub confirm: bool,
    /// Have the answer checked by recomputation.
    #[serde(default)]
    pub audit: bool,
    /// Sign with a key of this order alone.
    #[serde(default)]
    pub private: bool,
    /// How to pay.
    #[serde(default)]
    pub mode: PaymentMode,
    /// What the host is asked to keep of it.
    #[serde(default)]
    pub retention: Retention,
}

impl BuyOrder {
    /// An order with everything left to the node.
    pub fn new(model: ModelSelector, work: Work, budget: impl Into<String>) -> Self {
        BuyOrder {
            model,
            work,
            max_output: None,
            sampling: Sampling::default(),
            seed: None,
            stop: Vec::new(),
            steering: Steering::default(),
            max_cost: None,
            budget: budget.into(),
            host: None,
            confirm: false,
            audit: false,
            private: false,
            mode: PaymentMode::Metered,
            retention: Retention::Keep,
        }
    }
}

/// One line of a purchase's stream: its number first, then what happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum BuyLine {
    /// The purchase's number, for confirm, stop and cancel.
    Started {
        /// The number.
        request: u64,
        /// What the user must agree to besides the choice: a sentence.
        #[serde(default)]
        notice: Option<String>,
    },
    /// What happened.
    Happened {
        /// The event.
        event: BuyerEvent,
    },
}

/// One line of an answer that the node's own machine makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum RunLine {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// The end.
    End {
        /// Why output ended.
        finish: Finish,
        /// What was computed.
        counts: Counts,
    },
    /// It failed.
    Failed {
        /// Why.
        refusal: Refusal,
    },
}

/// A verdict, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictRow {
    /// The order.
    pub order: OrderId,
    /// The verdict (`verdict`), or why there is none (`no_verdict`).
    #[serde(flatten, with = "verdict_or_reason")]
    pub result: Result<Box<Verdict>, String>,
}

/// JSON of [`VerdictRow::result`]: one key of two, in place of Rust's `Ok` and `Err`.
mod verdict_or_reason {
    use protocol::wire::bundle::Verdict;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Told {
        Verdict(Box<Verdict>),
        NoVerdict(String),
    }

    pub fn serialize<S: Serializer>(
        result: &Result<Box<Verdict>, String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let told = match result {
            Ok(verdict) => Told::Verdict(verdict.clone()),
            Err(reason) => Told::NoVerdict(reason.clone()),
        };
        told.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Result<Box<Verdict>, String>, D::Error> {
        Ok(match Told::deserialize(deserializer)? {
            Told::Verdict(verdict) => Ok(verdict),
            Told::NoVerdict(reason) => Err(reason),
        })
    }
}

/// A channel to open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRequest {
    /// With whom.
    pub peer: Peer,
    /// Its size in sat.
    pub sats: u64,
    /// Given to the peer at once.
    #[serde(default)]
    pub push: Msat,
    /// Announced to the network.
    #[serde(default)]
    pub announce: bool,
}

/// A channel whose funding transaction is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Our name for it.
    pub id: ChannelId,
    /// The funding transaction.
    pub funding_txid: String,
}

/// How a payment by hand ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum PayResult {
    /// Paid.
    Settled {
        /// The proof.
        preimage: Preimage,
        /// Routing fee.
        fee: Msat,
    },
    /// Nothing was paid and nothing is under way.
    Failed {
        /// Why.
        reason: String,
    },
    /// Not known yet: do not pay another invoice in its place.
    Unknown {
        /// What is known.
        why: String,
    },
}

/// The body of an error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// An error as OpenAI clients read it, and the fix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// What happened.
    pub message: String,
    /// Class of error.
    #[serde(rename = "type")]
    pub kind: String,
    /// For programs.
    pub code: Option<String>,
    /// The parameter at fault.
    pub param: Option<String>,
    /// What a person can do.
    pub fix: Option<String>,
}

/// Body of `wallet/invoice`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoiceRequest {
    /// Amount.
    pub msat: Msat,
    /// What it is for, as the payer reads it.
    pub description: String,
    /// Seconds until it expires.
    pub expiry_s: u32,
}

/// Body of `wallet/pay`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayRequest {
    /// The invoice.
    pub bolt11: String,
    /// Most for routing.
    pub max_fee: Msat,
}

/// Body of `wallet/close`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseRequest {
    /// Which channel.
    pub id: ChannelId,
    /// Without the peer.
    pub force: bool,
}

/// Body of `wallet/withdraw`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithdrawRequest {
    /// Where to.
    pub address: String,
    /// How much; all where it is left out.
    pub sats: Option<u64>,
}

impl ErrorBody {
    /// The error object of a refusal.
    pub fn of(refusal: &Refusal) -> Self {
        let code = serde_json::to_value(refusal.code)
            .ok()
            .and_then(|code| code.as_str().map(str::to_owned));
        ErrorBody {
            error: ErrorDetail {
                message: refusal.to_string(),
                kind: kind(refusal.code.http_status()).to_owned(),
                code,
                param: None,
                fix: Some(refusal.fix().to_owned()),
            },
        }
    }
}

/// OpenAI's class of error for a status.
pub fn kind(status: u16) -> &'static str {
    match status {
        401 | 403 => "authentication_error",
        402 => "insufficient_quota",
        404 => "not_found_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}
