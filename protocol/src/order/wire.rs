//! What travels on `/freehold/order/1`.
//!
//! Not behaviour: see `order::buyer` and `order::host`. Signed bodies and chunks end in
//! extension records, so that fields can be added.

use super::attached::Attached;
use crate::codec::{self, CodecError, Extension, bound};
use crate::crypto::tagged_hash;
use crate::ids::{Digest, ModelDigest, NodeKey, OrderId, PaymentHash};
use crate::limits;
use crate::money::{Counts, Msat, Prices};
use crate::refusal::{Code, Refusal};
use crate::time::WallTime;
use crate::wire::chain::ChainedToken;
use crate::wire::envelope::{Body, MessageType, Signed, check_extensions};
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
/// It has no id of its own: [`OrderId::of`] the signed order names it, so nobody can use
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

crate::wire::envelope::bodies!(Terms, Invoice, Paid, Receipt, Countersigned);

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

/// The digest of the signed terms that a buyer accepts.
pub type Accept = Digest;

/// One frame of an order stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// buyer → host: [`Order`]
    Order(Signed),
    /// host → buyer: [`Terms`]
    Terms(Signed),
    /// host → buyer: not served, or ended.
    Refusal(Refusal),
    /// buyer → host: the terms with this digest are accepted.
    Accept(Accept),
    /// host → buyer
    Chunk(Chunk),
    /// host → buyer: [`Invoice`]
    Invoice(Signed),
    /// buyer → host: [`Paid`]
    Paid(Signed),
    /// buyer → host: no more output; what was delivered will be paid.
    Stop,
    /// buyer → host: end at once.
    Cancel,
    /// host → buyer: [`Receipt`]
    Receipt(Signed),
    /// buyer → host: [`Countersigned`]
    Countersigned(Signed),
}

impl Frame {
    /// Encodes the frame, without its length prefix.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Decodes a frame and checks its bounds.
    ///
    /// # Errors
    /// When it is malformed or over a limit.
    pub fn decode(bytes: &[u8]) -> Result<Frame, CodecError> {
        let frame: Frame = codec::decode(bytes, limits::MAX_ORDER_FRAME_BYTES)?;
        if let Frame::Chunk(chunk) = &frame {
            bound(chunk.tokens.len(), limits::MAX_CHUNK_TOKENS)?;
            let mut bytes = 0;
            for token in &chunk.tokens {
                bound(token.piece.bytes.len(), limits::MAX_PIECE_BYTES)?;
                bytes += token.piece.bytes.len();
            }
            bound(bytes, limits::MAX_CHUNK_TEXT_BYTES)?;
            chunk.attached.check(chunk.tokens.len())?;
            if check_extensions(&chunk.extensions).is_err() {
                let reason = "a chunk with an extension that must be understood".to_owned();
                return Err(CodecError::Malformed { reason });
            }
        }
        if let Frame::Refusal(refusal) = &frame {
            bound(refusal.message.len(), limits::MAX_SHORT_TEXT_BYTES)?;
        }
        Ok(frame)
    }

    /// Returns the frame's name, for logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Frame::Order(_) => "order",
            Frame::Terms(_) => "terms",
            Frame::Refusal(_) => "refusal",
            Frame::Accept(_) => "accept",
            Frame::Chunk(_) => "chunk",
            Frame::Invoice(_) => "invoice",
            Frame::Paid(_) => "paid",
            Frame::Stop => "stop",
            Frame::Cancel => "cancel",
            Frame::Receipt(_) => "receipt",
            Frame::Countersigned(_) => "countersigned",
        }
    }
}

/// The description hash of the invoice that covers `covers`: binds it to the order.
pub fn description_hash(order: &OrderId, seq: u32, covers: &Counts) -> [u8; 32] {
    tagged_hash(
        "freehold/invoice/1",
        &[&order.0, &seq.to_le_bytes(), &codec::encode(covers)],
    )
    .0
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
    use crate::validator::testing::order_body;
    use crate::wire::chain::{NO_LOGITS, Piece};

    fn chunk(pieces: &[usize]) -> Chunk {
        let token = |bytes: &usize| ChainedToken {
            id: 7,
            logits: NO_LOGITS,
            piece: Piece::text(vec![b'a'; *bytes]),
        };
        Chunk {
            seq: 0,
            tokens: pieces.iter().map(token).collect(),
            totals: Counts::default(),
            finish: None,
            attached: Attached::default(),
            extensions: Vec::new(),
        }
    }

    fn is_read(chunk: Chunk) -> bool {
        let frame = Frame::Chunk(chunk);
        match Frame::decode(&frame.encode()) {
            Ok(read) => read == frame,
            Err(_) => false,
        }
    }

    #[test]
    fn a_chunk_is_bounded_in_tokens_and_in_text() {
        assert!(is_read(chunk(&[1; limits::MAX_CHUNK_TOKENS])));
        assert!(!is_read(chunk(&[1; limits::MAX_CHUNK_TOKENS + 1])));
        assert!(is_read(chunk(&[limits::MAX_PIECE_BYTES])));
        assert!(!is_read(chunk(&[limits::MAX_PIECE_BYTES + 1])));
        let full = limits::MAX_CHUNK_TEXT_BYTES / limits::MAX_PIECE_BYTES;
        let mut pieces = vec![limits::MAX_PIECE_BYTES; full];
        assert!(is_read(chunk(&pieces)));
        pieces.push(1);
        assert!(!is_read(chunk(&pieces)));
    }

    #[test]
    fn a_chunk_is_read_with_extensions_that_may_be_ignored_alone() {
        for (kind, fine) in [(1, true), (2, false)] {
            let mut chunk = chunk(&[1]);
            let value = vec![9];
            chunk.extensions = vec![Extension { kind, value }];
            assert_eq!(is_read(chunk), fine, "{kind}");
        }
    }

    #[test]
    fn the_words_of_a_refusal_are_bounded() {
        for (more, fine) in [(0, true), (1, false)] {
            let words = "x".repeat(limits::MAX_SHORT_TEXT_BYTES + more);
            let mut refusal = Refusal::new(Code::Busy, "");
            refusal.message = words;
            let frame = Frame::Refusal(refusal);
            assert_eq!(Frame::decode(&frame.encode()).is_ok(), fine);
        }
    }

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
