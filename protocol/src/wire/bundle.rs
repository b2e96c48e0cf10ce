//! Evidence bundles and verdicts: what a third party needs to repeat a check.
//!
//! Not the check itself, which needs an engine: see `validator`.

use crate::codec::Extension;
use crate::ids::{Digest, ModelDigest, NodeKey, OrderId};
use crate::time::WallTime;
use crate::wire::chain::ChainedToken;
use crate::wire::envelope::Signed;
use serde::{Deserialize, Serialize};

/// Name of the audit stream protocol.
pub const AUDIT_PROTOCOL: &str = "/freehold/audit/1";

/// An order with its evidence. Contains the prompt: it leaves the buyer's machine
/// only with the user's consent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// The buyer's signed order.
    pub order: Signed,
    /// The host's signed terms.
    pub terms: Signed,
    /// Everything that was delivered.
    pub tokens: Vec<ChainedToken>,
    /// The host's signed invoices, oldest first: evidence even where the host died.
    pub invoices: Vec<Signed>,
    /// The host's signed receipt, if it came to that.
    pub receipt: Option<Signed>,
    /// The buyer's countersignature.
    pub countersigned: Option<Signed>,
}

/// How far a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Signatures, totals, prices, chain: anybody can repeat it for free.
    Bookkeeping,
    /// The answer was computed again, bit for bit.
    ExactReplay,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Everything agrees.
    Honest,
    /// The host's signed account contradicts itself or the evidence.
    FalseAccount {
        /// What disagrees.
        detail: String,
    },
    /// A replay differs from what the host signed.
    WrongAnswer {
        /// First token (counted from 0) at which it differs.
        position: u64,
        /// What differs.
        detail: String,
    },
    /// Not enough evidence, or this node cannot repeat the work. Convicts nobody.
    Inconclusive {
        /// Why.
        detail: String,
    },
}

impl Finding {
    /// Returns whether it convicts the host.
    pub fn convicts(&self) -> bool {
        matches!(
            self,
            Finding::FalseAccount { .. } | Finding::WrongAnswer { .. }
        )
    }
}

/// A validator's signed verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The order.
    pub id: OrderId,
    /// Digest of the signed receipt, or of the last invoice where there is none.
    pub evidence: Digest,
    /// The host that is judged.
    pub host: NodeKey,
    /// The model.
    pub model: ModelDigest,
    /// The validator.
    pub validator: NodeKey,
    /// How far the check went.
    pub tier: Tier,
    /// What it found.
    pub finding: Finding,
    /// Numerics of the validator's engine.
    pub numerics: Option<String>,
    /// Tokens recomputed.
    pub tokens: u64,
    /// When.
    pub time: WallTime,
    /// Extension records.
    pub extensions: Vec<Extension>,
}

crate::wire::envelope::bodies!(Verdict);

/// Frames of an audit stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuditFrame {
    /// buyer → validator
    Check(Box<Bundle>),
    /// validator → buyer: a signed [`Verdict`]
    Verdict(Signed),
    /// validator → buyer
    Refusal(crate::refusal::Refusal),
}
