//! Quotes: a router asks hosts for terms on behalf of a buyer.
//!
//! The frames exist so that no later change of the wire is needed; no role uses
//! them yet. A router sees evidence of payment, never funds.

use crate::envelope::{Body, Extension, MessageType, Signed};
use crate::ids::{ModelDigest, NodeKey};
use crate::money::{Counts, Msat, Prices};
use crate::time::WallTime;
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

/// One host's signed offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// Who would serve it.
    pub host: NodeKey,
    /// Prices it is bound to until `expires`.
    pub prices: Prices,
    /// The router's own fee, invoiced by the router itself.
    pub router_fee: Msat,
    /// Until when.
    pub expires: WallTime,
    /// Extension records.
    pub extensions: Vec<Extension>,
}

impl Body for QuoteRequest {
    const TYPE: MessageType = MessageType::QuoteRequest;
    const VERSION: u16 = 1;
}

impl Body for Quote {
    const TYPE: MessageType = MessageType::Quote;
    const VERSION: u16 = 1;
}

/// Frames of a quote stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum QuoteFrame {
    /// buyer → router: a signed [`QuoteRequest`]
    Request(Signed),
    /// router → buyer: signed [`Quote`]s, each by its host
    Offers(Vec<Signed>),
    /// router → buyer
    Refusal(crate::refusal::Refusal),
}
