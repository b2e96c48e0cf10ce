//! Mandates: an owner lets an agent or node spend within bounds, and can revoke it.
//!
//! The documents exist so that orders can already carry them; enforcement comes
//! with agents. A host needs none of this to serve an order.

use crate::codec::Extension;
use crate::ids::{Digest, ModelDigest, NodeKey};
use crate::money::Msat;
use crate::time::WallTime;
use serde::{Deserialize, Serialize};

/// A signed permission to spend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mandate {
    /// Who may act.
    pub agent: NodeKey,
    /// Most per order.
    pub per_order: Msat,
    /// Most per day (UTC).
    pub per_day: Msat,
    /// Models it may buy; empty means any.
    pub models: Vec<ModelDigest>,
    /// From when.
    pub starts: WallTime,
    /// Until when.
    pub expires: WallTime,
    /// Extension records.
    pub extensions: Vec<Extension>,
}

/// Takes a mandate back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Digest of the signed mandate.
    pub mandate: Digest,
    /// Extension records.
    pub extensions: Vec<Extension>,
}

crate::wire::envelope::bodies!(Mandate, Revocation);
