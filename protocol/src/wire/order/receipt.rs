//! The host's account of an order that is over, and the buyer's signature under it.

use super::Finish;
use crate::codec::Extension;
use crate::ids::{Digest, ModelDigest, NodeKey, OrderId, PaymentHash};
use crate::money::{Counts, Msat, Prices};
use crate::refusal::Code;
use crate::time::WallTime;
use crate::wire::envelope::bodies;
use serde::{Deserialize, Serialize};

/// How an order ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// All output was delivered.
    Complete,
    /// The buyer stopped it.
    Stopped,
    /// It failed.
    Failed(Code),
}

/// One payment of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentEntry {
    /// Which invoice; 0 is the entry payment.
    pub seq: u32,
    /// Its hash.
    pub hash: PaymentHash,
    /// Its amount, without routing fees.
    pub msat: Msat,
}

/// The host's signed account of the whole order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The order's id.
    pub id: OrderId,
    /// Digest of the signed order.
    pub order: Digest,
    /// Digest of the signed terms.
    pub terms: Digest,
    /// The buyer's order key.
    pub buyer: NodeKey,
    /// The host's node key.
    pub host: NodeKey,
    /// The model.
    pub model: ModelDigest,
    /// Its tokenizer.
    pub tokenizer: Digest,
    /// Its chat template.
    pub template: Digest,
    /// Numerics of the engine; `None`: not replayable.
    pub numerics: Option<String>,
    /// Prices applied.
    pub prices: Prices,
    /// Salted digest of the prompt tokens.
    pub prompt: Digest,
    /// Head of the token chain over everything delivered: commits to tokens and text.
    pub head: Digest,
    /// Why output ended.
    pub finish: Finish,
    /// Totals delivered.
    pub counts: Counts,
    /// Cost of the totals.
    pub cost: Msat,
    /// Payments received, in ascending order of their numbers, each once.
    pub payments: Vec<PaymentEntry>,
    /// Delivered and not paid: a remainder too small to invoice.
    pub debt: Msat,
    /// When prefill began.
    pub started: WallTime,
    /// When the last token was sent.
    pub ended: WallTime,
    /// How it ended.
    pub status: Status,
    /// Extension records.
    pub extensions: Vec<Extension>,
}

/// The buyer's signature under a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Countersigned {
    /// Digest of the signed receipt.
    pub receipt: Digest,
    /// Extension records.
    pub extensions: Vec<Extension>,
}

bodies!(Receipt, Countersigned);
