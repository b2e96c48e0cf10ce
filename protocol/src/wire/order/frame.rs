//! One frame of an order stream, its encoding and the bounds that are checked before it is read.

use super::Chunk;
use crate::codec::{self, CodecError, bound};
use crate::ids::Digest;
use crate::limits;
use crate::refusal::Refusal;
use crate::wire::envelope::{Signed, check_extensions};
use serde::{Deserialize, Serialize};

/// The digest of the signed terms that a buyer accepts.
pub type Accept = Digest;

/// One frame of an order stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// buyer → host: [`Order`](super::Order)
    Order(Signed),
    /// host → buyer: [`Terms`](super::Terms)
    Terms(Signed),
    /// host → buyer: not served, or ended.
    Refusal(Refusal),
    /// buyer → host: the terms with this digest are accepted.
    Accept(Accept),
    /// host → buyer
    Chunk(Chunk),
    /// host → buyer: [`Invoice`](super::Invoice)
    Invoice(Signed),
    /// buyer → host: [`Paid`](super::Paid)
    Paid(Signed),
    /// buyer → host: no more output; what was delivered will be paid.
    Stop,
    /// buyer → host: end at once.
    Cancel,
    /// host → buyer: [`Receipt`](super::Receipt)
    Receipt(Signed),
    /// buyer → host: [`Countersigned`](super::Countersigned)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Extension;
    use crate::money::Counts;
    use crate::refusal::Code;
    use crate::wire::attached::Attached;
    use crate::wire::chain::{ChainedToken, NO_LOGITS, Piece};

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
}
