//! The host's answer to an order, and what an order that broke off may cost at most.

use crate::codec::Extension;
use crate::ids::Digest;
use crate::money::{Counts, Msat, Prices};
use crate::time::WallTime;
use crate::wire::envelope::bodies;
use crate::work::Job;
use serde::{Deserialize, Serialize};

/// The host's signed answer to an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Digest of the signed order.
    pub order: Digest,
    /// The prompt as counted by the pinned tokenizer.
    pub input: Counts,
    /// Msat per million units.
    pub prices: Prices,
    /// Unpaid output that the host grants once the entry payment (if any) is settled.
    pub window: Msat,
    /// Size of one step of payment.
    pub quantum: Msat,
    /// Debt from earlier orders that the first invoice adds.
    pub carried_debt: Msat,
    /// What must be paid before prefill; `None` for a known buyer.
    pub entry: Option<EntryInvoice>,
    /// Numerics under which the answer can be replayed.
    pub numerics: Option<String>,
    /// Digest of the tokenizer.
    pub tokenizer: Digest,
    /// Digest of the chat template.
    pub template: Digest,
    /// How soon the host expects to begin once the entry payment is settled. Milliseconds.
    /// A place is kept: the order is served later than that rather than not at all.
    pub starts_within_ms: u64,
    /// Until when the terms can be accepted.
    pub expires: WallTime,
    /// Extension records.
    pub extensions: Vec<Extension>,
}

impl Terms {
    /// The most that the host of an order that broke off may have computed and sent beyond
    /// `counts`, where `window` bounds what it gives unpaid: before the first output the input,
    /// too. No more is given than was ordered.
    pub fn most_under_way(&self, job: &Job, counts: &Counts, window: Msat) -> Msat {
        let all = counts.with_delivered(job.meter(), job.most_delivered());
        let ordered = self.prices.cost_or_max(&all);
        let seen = match counts.delivered() {
            0 => Msat::ZERO,
            _ => self.prices.cost_or_max(counts),
        };
        window.min(ordered.saturating_sub(seen))
    }
}

/// The entry payment: the input and at most one quantum of output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryInvoice {
    /// BOLT 11.
    pub bolt11: String,
    /// Its amount.
    pub msat: Msat,
}

bodies!(Terms);
