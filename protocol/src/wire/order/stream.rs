//! What travels while an order runs: chunks of output, and the invoices that pay for them.

use crate::codec::{self, Extension};
use crate::crypto::tagged_hash;
use crate::ids::{Digest, OrderId, PaymentHash};
use crate::money::{Counts, Msat};
use crate::wire::attached::Attached;
use crate::wire::chain::ChainedToken;
use crate::wire::envelope::bodies;
use serde::{Deserialize, Serialize};

/// Output, as it is produced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Counts up from 0.
    pub seq: u32,
    /// Tokens with what they stand for; none only in the last chunk.
    pub tokens: Vec<ChainedToken>,
    /// Running totals after this chunk.
    pub totals: Counts,
    /// Whether this is the last chunk, and why.
    pub finish: Option<Finish>,
    /// What the job asked for beside tokens and text.
    pub attached: Attached,
    /// Extension records.
    pub extensions: Vec<Extension>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended it, or a stop string did.
    Stop,
    /// The limit on output tokens of the job.
    Length,
    /// The cap on the cost of the order is used up.
    Budget,
    /// The buyer stopped it.
    Stopped,
}

/// A running receipt: asks for payment of what it covers, and commits to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invoice {
    /// The order.
    pub order: OrderId,
    /// 0 is the entry payment; these count from 1.
    pub seq: u32,
    /// BOLT 11, its description hash is [`description_hash`].
    pub bolt11: String,
    /// Its amount.
    pub msat: Msat,
    /// Totals that are paid for once this invoice is.
    pub covers: Counts,
    /// Sum of all invoices up to and with this one.
    pub invoiced: Msat,
    /// Head of the token chain at `covers`: commits to tokens and text.
    pub head: Digest,
    /// Unpaid output that the host grants at this moment.
    pub window: Msat,
    /// Extension records.
    pub extensions: Vec<Extension>,
}

/// The buyer's countersignature of what it paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paid {
    /// The order.
    pub order: OrderId,
    /// Which invoice.
    pub seq: u32,
    /// Its payment hash.
    pub hash: PaymentHash,
    /// Head of the token chain that it covers, as the buyer computed it.
    pub head: Digest,
    /// Extension records.
    pub extensions: Vec<Extension>,
}

bodies!(Invoice, Paid);

/// The description hash of the invoice that covers `covers`: binds it to the order.
pub fn description_hash(order: &OrderId, seq: u32, covers: &Counts) -> [u8; 32] {
    tagged_hash(
        "freehold/invoice/1",
        &[&order.0, &seq.to_le_bytes(), &codec::encode(covers)],
    )
    .0
}
