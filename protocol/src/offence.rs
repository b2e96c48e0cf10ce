//! Misbehaviour of a peer, as data: it is theirs, not an error of ours.
//!
//! Reputation decides what an offence costs; this only says what was seen.

use crate::ids::{NodeKey, OrderId};
use serde::{Deserialize, Serialize};

/// What a peer did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OffenceKind {
    /// Bytes that do not decode, or a frame over its limit.
    MalformedFrame,
    /// A frame that the state of the stream does not allow.
    UnexpectedFrame,
    /// A signature that does not verify, or a wrong signer.
    BadSignature,
    /// An envelope seen before, too old, or meant for somebody else. Its signer is the
    /// victim of whoever sent it again, so it is booked against nobody.
    Replay,
    /// Token counts or totals that disagree with what was delivered.
    WrongCount,
    /// An invoice to another payee, of another amount, or not bound to the order.
    WrongInvoice,
    /// A receipt that disagrees with the evidence.
    WrongReceipt,
    /// Terms above what the listing says.
    PriceAboveListing,
    /// An order accepted and then not served.
    NotServed,
    /// Output delivered and then not paid for.
    NotPaid,
    /// A listing that was not reachable or not payable.
    GhostListing,
    /// An answer that a replay did not reproduce.
    WrongAnswer,
    /// Terms with another tokenizer, template or numerics than the listing. A listing
    /// that a relay held back looks the same.
    TermsNotAsListed,
    /// Terms that charge more prompt tokens than the model's own vocabulary counts.
    FalseInput,
    /// Pieces that the model's own vocabulary does not have for their tokens.
    FalseText,
    /// Terms or an invoice too near to their end. Clocks that differ look the same.
    Stale,
}

impl OffenceKind {
    /// Returns whether it proves bad faith, as against a fault anybody can have.
    ///
    /// Only what a host signed after the order was accepted may be reported as one of
    /// these: before that a relay, a clock or an update can be the cause. None of them
    /// changes how many tokens a prompt has.
    pub fn is_objective(&self) -> bool {
        matches!(
            self,
            OffenceKind::WrongAnswer
                | OffenceKind::WrongReceipt
                | OffenceKind::WrongCount
                | OffenceKind::FalseInput
                | OffenceKind::FalseText
                | OffenceKind::WrongInvoice
        )
    }
}

/// An offence by `by`, with what a person needs to look into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offence {
    /// Who did it.
    pub by: NodeKey,
    /// In which order, where there was one.
    pub order: Option<OrderId>,
    /// What was done.
    pub kind: OffenceKind,
    /// One sentence of detail.
    pub detail: String,
}
