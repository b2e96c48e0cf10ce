//! The token chain: one hash that commits to every token of an answer, to the
//! logits it was drawn from and to the bytes that it stands for.
//!
//! `c_0 = H(order, terms)`, `c_n = H(c_(n-1), token, logit digest, kind, bytes)`. It
//! runs over tokens, not chunks, so it is the same however the stream was cut. Logit
//! digests and bytes travel with the tokens: so the buyer can check each head that the
//! host signs, and cannot later pass off other tokens as that host's. What is shown to
//! a person is a pure function of the bytes ([`crate::wire::text`]), so a signed head is a
//! signature under the text as well.

use crate::crypto::tagged_hash;
use crate::ids::Digest;
use serde::{Deserialize, Serialize};

/// What a token stands for: its bytes, and whether they are text or a mark between texts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// A control token, such as the end of a turn: its bytes are its name, not text.
    pub control: bool,
    /// The token's exact bytes, which need not be whole characters; at most
    /// [`crate::limits::MAX_PIECE_BYTES`]. Empty for an embedding.
    pub bytes: Vec<u8>,
}

impl Piece {
    /// A piece of text.
    pub fn text(bytes: impl Into<Vec<u8>>) -> Self {
        Piece {
            control: false,
            bytes: bytes.into(),
        }
    }
}

/// One delivered token: its id, the digest of the logits it was drawn from, its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainedToken {
    /// Token id in the model's vocabulary.
    pub id: u32,
    /// BLAKE3 over the 64 largest (id, f32 bits); [`NO_LOGITS`] where the listing has no
    /// numerics; for an embedding [`crate::wire::attached::vector_digest`].
    pub logits: Digest,
    /// What the id stands for in the model's vocabulary.
    pub piece: Piece,
}

/// The id of a token whose vocabulary the host does not know: no vocabulary reaches it.
/// Its piece alone says what was delivered.
pub const UNKNOWN_TOKEN: u32 = u32::MAX;
/// Stands for a logit digest where the engine shows no logits and the ids say what was
/// delivered. Zeros: no text and no logits are known that hash to it.
pub const NO_LOGITS: Digest = Digest([0; 32]);

/// The running head of a token chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenChain {
    head: Digest,
    length: u64,
}

impl TokenChain {
    /// Starts the chain of an order under its terms.
    pub fn new(order: &Digest, terms: &Digest) -> Self {
        TokenChain {
            head: tagged_hash("freehold/chain/0", &[&order.0, &terms.0]),
            length: 0,
        }
    }

    /// Appends a token.
    pub fn push(&mut self, token: &ChainedToken) {
        self.head = tagged_hash(
            "freehold/chain/n",
            &[
                &self.head.0,
                &token.id.to_le_bytes(),
                &token.logits.0,
                &[u8::from(token.piece.control)],
                &token.piece.bytes,
            ],
        );
        self.length += 1;
    }

    /// Returns the head over all tokens so far.
    pub fn head(&self) -> Digest {
        self.head
    }

    /// Returns how many tokens were appended.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Returns whether no token was appended.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_commits_to_id_logits_and_bytes() {
        let head = |token: ChainedToken| {
            let mut chain = TokenChain::new(&Digest([1; 32]), &Digest([2; 32]));
            chain.push(&token);
            chain.head()
        };
        let token = ChainedToken {
            id: 7,
            logits: Digest([3; 32]),
            piece: Piece::text("sat"),
        };
        let mut others = vec![token.clone(); 4];
        others[0].id = 8;
        others[1].logits = Digest([4; 32]);
        others[2].piece.bytes = b"btc".to_vec();
        others[3].piece.control = true;
        for other in others {
            assert_ne!(head(other), head(token.clone()));
        }
    }
}
