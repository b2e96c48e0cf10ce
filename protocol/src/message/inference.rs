//! What goes into and comes out of the inference machine.

#![allow(missing_docs)] // the fields of inputs and effects are named for what they are

use crate::crypto::InvoiceFacts;
use crate::ids::{
    Caller, Digest, EffectId, ModelDigest, NodeKey, OrderId, PaymentHash, Preimage, RequestId,
    StreamId,
};
use crate::machine::Record;
use crate::message::discovery::Candidate;
use crate::message::payment::{Credit, Side};
use crate::message::sibling::Message;
use crate::money::{Counts, Msat};
use crate::refusal::{Code, Refusal};
use crate::wire::attached::Attached;
use crate::wire::bundle::Bundle;
use crate::wire::chain::ChainedToken;
use crate::wire::manifest::{HostLimits, ModelOffer, PaymentMode, Role};
use crate::wire::order::{Finish, Frame, Handling, Path, Receipt, Retention, Status};
use crate::work::Job;
use serde::{Deserialize, Serialize};

/// Which model a buyer wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelSelector {
    /// By the name in listings.
    Name(String),
    /// By digest.
    Digest(ModelDigest),
    /// The best offer of any model.
    Any,
}

/// A purchase, as the local client asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuyRequest {
    /// Numbered by the driver.
    pub request: RequestId,
    /// Which model.
    pub model: ModelSelector,
    /// What to compute.
    pub job: Job,
    /// Spend no more on this order.
    pub max_cost: Msat,
    /// How to pay.
    pub mode: PaymentMode,
    /// How the order reaches the host.
    pub path: Path,
    /// What is asked of the host's store. A promise of the host, not enforced.
    pub retention: Retention,
    /// Where the prompt may be read. Hosts of this version offer [`Handling::Plain`] alone.
    pub handling: Handling,
    /// The budget it is charged to: the CLI, one gateway key, one agent.
    pub budget: String,
    /// Buy from this host or not at all.
    pub host: Option<NodeKey>,
    /// Wait for [`Input::Confirm`] after the choice was shown.
    pub confirm: bool,
    /// Send the evidence to a validator afterwards, always (a sample is checked anyway).
    pub audit: bool,
    /// Sign with a key of this order alone: the host cannot link it to earlier orders,
    /// sees a stranger, and asks a stranger's prepayment.
    pub private: bool,
}

/// What an order needs of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Which model.
    pub model: ModelSelector,
    /// Role needed: `Host` for orders, `Validator` for audits.
    pub role: Role,
    /// How an order is paid: hosts that do not list it are not asked for one.
    pub mode: PaymentMode,
    /// This host or none.
    pub host: Option<NodeKey>,
    /// Prompt tokens that a host may bill at most: what it is ranked by, since nothing else
    /// binds it.
    pub input_tokens: u64,
    /// Bytes of text in the prompt.
    pub input_bytes: u64,
    /// Most output tokens.
    pub output_tokens: u64,
    /// Embeddings wanted; 0 for text.
    pub items: u64,
}

/// What a host learns from tokenizing the prompt of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptFacts {
    /// Tokens in the rendered prompt, of all texts together.
    pub tokens: u64,
    /// Of these, the ones that need not be computed: this buyer sent them before.
    pub cached: u64,
    /// Tokens of the longest text that must fit into the context at once.
    pub longest: u64,
    /// [`crate::wire::order::prompt_digest`] over them.
    pub digest: Digest,
}

/// What a buyer learns from counting its own prompt with the model's vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFacts {
    /// Tokens in the rendered prompt, of all texts together.
    pub tokens: u64,
    /// Digest of the tokenizer that counted.
    pub tokenizer: Digest,
    /// Digest of the template that rendered.
    pub template: Digest,
    /// The numerics whose rules of counting were used.
    pub numerics: Option<String>,
}

/// What came of counting a prompt that this node buys an answer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputCount {
    /// The vocabulary is here, verified against the model's digest.
    Counted(InputFacts),
    /// It is not here.
    Absent,
    /// It is here and does not say: its template met a limit, say.
    Unknown,
}

/// A host that has a model's vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VocabularySource {
    /// Its node key.
    pub host: NodeKey,
    /// Where to dial.
    pub addresses: Vec<String>,
}

/// A model that this node serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// As in the manifest.
    pub offer: ModelOffer,
    /// Limits per order.
    pub limits: HostLimits,
}

/// Whether new orders are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Yes.
    Open,
    /// No: the owner of the machine needs it (idle-only sharing).
    OwnerActive,
    /// No: the node is going down; running orders finish.
    Draining,
}

/// An invoice to pay, checked by the order machine against the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayRequest {
    /// The order.
    pub order: OrderId,
    /// Which invoice of it; 0 is the entry payment.
    pub seq: u32,
    /// The host.
    pub host: NodeKey,
    /// The invoice.
    pub bolt11: String,
    /// What it says.
    pub facts: InvoiceFacts,
    /// Amount to pay.
    pub msat: Msat,
    /// Most for routing.
    pub max_fee: Msat,
    /// Debt from earlier orders that the host's terms add to this order.
    pub carried: Msat,
}

/// Final account of an order on one side, for the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderAccount {
    /// The order.
    pub order: OrderId,
    /// Our side.
    pub side: Side,
    /// The other side's key.
    pub counterparty: NodeKey,
    /// The model.
    pub model: ModelDigest,
    /// Totals delivered.
    pub counts: Counts,
    /// Cost of the totals.
    #[serde(rename = "cost_msat")]
    pub cost: Msat,
    /// Debt from earlier orders that the terms added to it.
    #[serde(default, rename = "carried_msat")]
    pub carried: Msat,
    /// On a buyer's side where the order broke off: what the host may have sent beyond the
    /// totals, at most, because it did not arrive or was not written down.
    #[serde(default, rename = "unsure_msat")]
    pub unsure: Msat,
    /// How it ended.
    pub status: Status,
    /// Digest of the signed receipt.
    pub receipt: Option<crate::ids::Digest>,
}

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

/// A closed order, for the validator: whether it is checked is the validator's business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The request, on the buyer's side.
    pub request: Option<RequestId>,
    /// Everything a third party needs.
    pub bundle: Bundle,
    /// The user asked for a check.
    pub audit: bool,
}

/// Inputs of the inference machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The local client buys.
    Buy(Box<BuyRequest>),
    /// The local client agrees to what [`BuyerEvent::Chosen`] showed.
    Confirm(RequestId),
    /// No more output; what was delivered is paid.
    Stop(RequestId),
    /// End at once.
    Cancel(RequestId),
    /// The models this node serves from now on.
    Serve(Vec<Served>),
    /// Whether new orders are taken from now on.
    Admit(Admission),

    /// [`Effect::OpenStream`] succeeded.
    Opened { id: EffectId, stream: StreamId },
    /// [`Effect::OpenStream`] failed; `ours`: for want of a stream of this node.
    OpenFailed {
        id: EffectId,
        reason: String,
        ours: bool,
    },
    /// A peer opened an order stream to us.
    Inbound { stream: StreamId, caller: Caller },
    /// A frame arrived.
    Received { stream: StreamId, frame: Box<Frame> },
    /// Bytes arrived that are no frame.
    Garbled { stream: StreamId, detail: String },
    /// The stream ended.
    Closed { stream: StreamId },

    /// [`Effect::CountPrompt`] is done.
    Counted {
        id: EffectId,
        result: Result<PromptFacts, Refusal>,
    },
    /// [`Effect::CountInput`] is done.
    InputCounted { id: EffectId, count: InputCount },
    /// Tokens of [`Effect::CheckPieces`] stand for something else; `position` counts output from 0.
    WrongPiece {
        order: OrderId,
        host: NodeKey,
        position: u64,
    },
    /// The engine produced output.
    Produced {
        order: OrderId,
        tokens: Vec<ChainedToken>,
        finish: Option<Finish>,
        attached: Attached,
    },
    /// The engine gave up.
    EngineFailed { order: OrderId, reason: String },

    /// From Discovery: who could serve a request, best first.
    CandidatesFound {
        request: RequestId,
        hosts: Vec<Candidate>,
    },
    /// From Payment, buyer side: the budget is reserved, or not.
    Reserved {
        request: RequestId,
        result: Result<(), Refusal>,
    },
    /// From Payment, buyer side: an invoice's payment is settled; some wallets give no preimage.
    Settled {
        order: OrderId,
        seq: u32,
        hash: PaymentHash,
        preimage: Option<Preimage>,
        msat: Msat,
        fee: Msat,
        ms: u64,
    },
    /// From Payment, buyer side: not sent (caps), failed, or of unknown fate (code says which).
    NotSettled {
        order: OrderId,
        seq: u32,
        refusal: Refusal,
    },
    /// From Payment, host side: how far this buyer is trusted, or why the order is not taken.
    CreditOpened {
        order: OrderId,
        result: Result<Credit, Refusal>,
    },
    /// From Payment, host side: an invoice is ready to be sent.
    InvoiceMade {
        order: OrderId,
        seq: u32,
        result: Result<(String, PaymentHash), Refusal>,
    },
    /// From Payment, host side: an invoice was paid; the window from now on.
    CreditGranted {
        order: OrderId,
        seq: u32,
        hash: PaymentHash,
        msat: Msat,
        window: Msat,
    },
    /// From Payment: the account of an order is in the books, durably.
    OrderClosed { order: OrderId, side: Side },
}

/// What the local client sees of a purchase, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum BuyerEvent {
    /// A host was chosen; nothing was sent to it yet.
    Chosen {
        /// The choice.
        candidate: Box<Candidate>,
        /// The cap on this order.
        max_cost: Msat,
        /// How many hosts were considered.
        considered: u32,
    },
    /// The host's terms were accepted.
    Accepted {
        /// The order.
        order: OrderId,
        /// Prompt tokens, as the host counted them.
        input: Counts,
        /// The entry payment, if one is asked for.
        entry: Option<Msat>,
        /// Credit window granted.
        window: Msat,
        /// One step of payment.
        quantum: Msat,
        /// What is still owed to this host from earlier orders and paid with this one.
        #[serde(default)]
        carried: Msat,
    },
    /// The prompt was counted here too, and the host's count is not above.
    InputCounted {
        /// Prompt tokens by our own count.
        tokens: u64,
    },
    /// Output arrived.
    Output {
        /// Text.
        text: String,
        /// Tokens in this piece.
        tokens: Vec<u32>,
        /// Totals so far.
        totals: Counts,
        /// Cost so far.
        cost: Msat,
        /// Probabilities or embeddings, where they were asked for.
        #[serde(default)]
        attached: Attached,
    },
    /// A payment was settled.
    Paid {
        /// Which invoice; 0 is the entry payment.
        seq: u32,
        /// Its hash.
        hash: PaymentHash,
        /// Amount without fee.
        msat: Msat,
        /// Routing fee.
        fee: Msat,
        /// How long it took, in milliseconds.
        ms: u64,
    },
    /// The order is over.
    Finished {
        /// Why output ended.
        finish: Finish,
        /// The host's receipt, countersigned by us.
        receipt: Box<Receipt>,
    },
    /// The order failed, or never began. What was paid stays in the ledger.
    Failed(Refusal),
}

/// Effects of the inference machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make durable before anything behind it starts.
    Persist(Vec<Record>),
    /// To a sibling machine; [`crate::route`] knows which.
    Tell(Message),
    /// Dial a host and open an order stream.
    OpenStream {
        id: EffectId,
        host: NodeKey,
        addresses: Vec<String>,
        /// From a transport identity that this host has not seen.
        private: bool,
    },
    /// Write a frame.
    Send { stream: StreamId, frame: Box<Frame> },
    /// Finish writing and close.
    Close { stream: StreamId },
    /// Render and tokenize a prompt.
    CountPrompt {
        id: EffectId,
        /// Who sent the order: those of one address are counted one after the other.
        caller: Caller,
        /// Its key paid here before: it is counted before those of strangers.
        payer: bool,
        buyer: NodeKey,
        model: ModelDigest,
        job: Box<Job>,
        salt: [u8; 16],
    },
    /// The order of this [`Effect::CountPrompt`] has ended: a count that has not begun need not.
    /// No completion follows, or one that comes to nothing.
    CancelCount { id: EffectId },
    /// Count a prompt of our own with the model's vocabulary, if it is here.
    CountInput {
        id: EffectId,
        model: ModelDigest,
        job: Box<Job>,
    },
    /// Hold what tokens of an answer that we buy are said to stand for against the model's
    /// vocabulary, with which the prompt was counted. [`Input::WrongPiece`] comes where one is
    /// false, and nothing where all are true.
    CheckPieces {
        order: OrderId,
        host: NodeKey,
        model: ModelDigest,
        /// Position of the first of them in the output.
        from: u64,
        tokens: Vec<ChainedToken>,
    },
    /// Fetch a model's vocabulary for later orders, from any of these hosts, in the
    /// background. Nothing is said when it is done.
    FetchVocabulary {
        model: ModelDigest,
        hosts: Vec<VocabularySource>,
    },
    /// Begin to generate; no token beyond the allowance.
    StartEngine {
        order: OrderId,
        buyer: NodeKey,
        model: ModelDigest,
        job: Box<Job>,
        allowed: u64,
    },
    /// The engine may produce up to `total` output tokens, counted from the start.
    AllowTokens { order: OrderId, total: u64 },
    /// Stop generating within one step. No completion follows.
    CancelEngine { order: OrderId },
    /// Show the local client.
    Deliver {
        request: RequestId,
        event: BuyerEvent,
    },
}
