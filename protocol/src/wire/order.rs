//! What travels on `/freehold/order/1`: the order here, the rest of it in files of its own.
//!
//! Not behaviour: see `order::buyer` and `order::host`. Signed bodies and chunks end in
//! extension records, so that fields can be added.

mod frame;
mod receipt;
mod stream;
mod terms;

pub use frame::{Accept, Frame};
pub use receipt::{Countersigned, PaymentEntry, Receipt, Status};
pub use stream::{Chunk, Finish, Invoice, Paid, description_hash};
pub use terms::{EntryInvoice, Terms};

use crate::codec::{CodecError, Extension, bound};
use crate::crypto::tagged_hash;
use crate::ids::{Digest, ModelDigest, NodeKey};
use crate::limits;
use crate::money::Msat;
use crate::wire::envelope::{Body, MessageType, Signed};
use crate::wire::manifest::PaymentMode;
use crate::work::Job;
use serde::{Deserialize, Serialize};

/// Name of the stream protocol.
pub const PROTOCOL: &str = "/freehold/order/1";

/// How an order reaches its host. The buyer's choice; a host sees it in the order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// The quickest address.
    #[default]
    Fast,
    /// An onion service only.
    Onion,
    /// Never leaves the buyer's machine.
    Local,
}

/// What the host keeps of the prompt when the order is over. A promise, not a proof.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retention {
    /// Its evidence, for as long as its settings say.
    #[default]
    Keep,
    /// Digests and counts alone.
    Forget,
}

/// Where the prompt may be read while the order runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handling {
    /// The host's program and its operator can read it.
    #[default]
    Plain,
    /// Only inside attested hardware. No host of this version offers it: refused by name.
    Confidential,
}

/// The buyer's signed order, addressed to one host.
///
/// It has no id of its own: [`OrderId::of`](crate::ids::OrderId::of) the signed order names it, so nobody can use
/// an id twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The model, by digest.
    pub model: ModelDigest,
    /// What to compute.
    pub job: Job,
    /// The buyer pays no more than this for the order.
    pub max_cost: Msat,
    /// How it is paid.
    pub mode: PaymentMode,
    /// The smallest amount that the buyer's wallet can pay and a divisor of every amount
    /// that it can pay; 1 where it knows millisatoshi.
    pub payment_grain: Msat,
    /// How it travels.
    pub path: Path,
    /// What the host keeps of it.
    pub retention: Retention,
    /// Where it may be read.
    pub handling: Handling,
    /// Salts the prompt's digest in the receipt, so that a receipt does not reveal a guessable prompt.
    pub salt: [u8; 16],
    /// The router it came through.
    pub via: Option<NodeKey>,
    /// Delegations and mandates, outermost first.
    pub authority: Vec<Signed>,
    /// Extension records.
    pub extensions: Vec<Extension>,
}

impl Body for Order {
    const TYPE: MessageType = MessageType::Order;
    const VERSION: u16 = 1;

    fn extensions(&self) -> Vec<&[Extension]> {
        vec![&self.extensions, &self.job.extensions]
    }
}

impl Order {
    /// Checks the bounds that the frame's length does not imply.
    ///
    /// # Errors
    /// The first limit that is passed.
    pub fn check(&self) -> Result<(), CodecError> {
        bound(self.authority.len(), limits::MAX_AUTHORITY_DOCUMENTS)?;
        for document in &self.authority {
            bound(document.bytes.len(), limits::MAX_AUTHORITY_BYTES)?;
        }
        Ok(())
    }
}

/// The salted digest of prompt tokens that a receipt carries.
pub fn prompt_digest(salt: &[u8; 16], tokens: &[u32]) -> Digest {
    let bytes: Vec<u8> = tokens
        .iter()
        .flat_map(|token| token.to_le_bytes())
        .collect();
    tagged_hash("freehold/prompt/1", &[salt, &bytes])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testing::order_body;

    #[test]
    fn documents_of_authority_are_bounded_in_number_and_in_size() {
        let with = |count, bytes| {
            let document = Signed {
                bytes: vec![0; bytes],
                signature: crate::ids::Signature([0; 64]),
            };
            let mut order = order_body();
            order.authority = vec![document; count];
            order.check()
        };
        let (count, bytes) = (limits::MAX_AUTHORITY_DOCUMENTS, limits::MAX_AUTHORITY_BYTES);
        assert_eq!(with(count, bytes), Ok(()));
        assert!(with(count + 1, 1).is_err() && with(1, bytes + 1).is_err());
    }

    #[test]
    fn prompts_have_one_digest_each_and_another_with_each_salt() {
        let one = prompt_digest(&[1; 16], &[1, 2]);
        assert_eq!(one, prompt_digest(&[1; 16], &[1, 2]));
        assert_ne!(one, prompt_digest(&[2; 16], &[1, 2]));
        assert_ne!(one, prompt_digest(&[1; 16], &[2, 1]));
    }
}
