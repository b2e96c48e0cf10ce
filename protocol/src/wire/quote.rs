//! Quotes: a router asks hosts for terms on behalf of a buyer.
//!
//! The frames exist so that no later change of the wire is needed; no role uses
//! them yet. A router sees evidence of payment, never funds.

use crate::codec::Extension;
use crate::ids::{Digest, ModelDigest};
use crate::money::{Counts, Msat, Prices};
use crate::time::WallTime;
use crate::wire::envelope::Signed;
use serde::{Deserialize, Serialize};

/// Name of the quote stream protocol.
pub const QUOTE_PROTOCOL: &str = "/freehold/quote/1";

/// What a buyer wants quoted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuoteRequest {
    /// The model.
    pub model: ModelDigest,
    /// Expected size.
    pub expected: Counts,
    /// The buyer pays no more.
    pub max_cost: Msat,
    /// Extension records.
    pub extensions: Vec<Extension>,
}

/// A host's signed offer: what it is bound to, and nothing that is another's to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostQuote {
    /// Digest of the signed request.
    pub request: Digest,
    /// The model.
    pub model: ModelDigest,
    /// Prices it is bound to until `expires`.
    pub prices: Prices,
    /// Size of one step of payment.
    pub quantum: Msat,
    /// How soon it would begin. Milliseconds.
    pub starts_within_ms: u64,
    /// Until when.
    pub expires: WallTime,
    /// Extension records.
    pub extensions: Vec<Extension>,
}

/// A router's signed offer: which quotes it passes on, and its own fee.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterOffer {
    /// Digest of the signed request.
    pub request: Digest,
    /// Digests of the signed [`HostQuote`]s that go with it, best first.
    pub quotes: Vec<Digest>,
    /// The router's own fee, which it invoices itself.
    pub fee: Msat,
    /// The invoice for the fee, BOLT 11; `None` where it is free.
    pub bolt11: Option<String>,
    /// Until when.
    pub expires: WallTime,
    /// Extension records.
    pub extensions: Vec<Extension>,
}

crate::wire::envelope::bodies!(QuoteRequest, HostQuote, RouterOffer);

/// Frames of a quote stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum QuoteFrame {
    /// buyer → router: a signed [`QuoteRequest`]
    Request(Signed),
    /// router → buyer
    Offers {
        /// The router's signed [`RouterOffer`].
        offer: Signed,
        /// The signed [`HostQuote`]s that it names, each by its host.
        quotes: Vec<Signed>,
    },
    /// router → buyer
    Refusal(crate::refusal::Refusal),
}
