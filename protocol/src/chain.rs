//! The token chain: one hash that commits to every token of an answer and to the
//! logits it was drawn from.
//!
//! `c_0 = H(order, terms)`, `c_n = H(c_(n-1), token, logit digest)`. It runs over
//! tokens, not chunks, so it is the same however the stream was cut. The logit
//! digests travel with the tokens: so the buyer can check each head that the host
//! signs, and cannot later pass off other tokens as that host's.

use crate::crypto::tagged_hash;
use crate::ids::Digest;
use serde::{Deserialize, Serialize};

/// One delivered token: its id and the digest of the logits it was drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainedToken {
    /// Token id in the model's vocabulary.
    pub id: u32,
    /// BLAKE3 over the 64 largest (id, f32 bits).
    pub logits: Digest,
}

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
            &[&self.head.0, &token.id.to_le_bytes(), &token.logits.0],
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
