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
    /// BLAKE3 over the 64 largest (id, f32 bits); [`NO_LOGITS`] or a [`TextDigest`] where
    /// the listing has no numerics.
    pub logits: Digest,
}

/// The id of a token whose vocabulary the host does not know: no vocabulary reaches it.
pub const UNKNOWN_TOKEN: u32 = u32::MAX;
/// Stands for a logit digest where the engine shows no logits and the ids say what was
/// delivered. Zeros: no text and no logits are known that hash to it.
pub const NO_LOGITS: Digest = Digest([0; 32]);

/// Commits to the text of an answer without token ids: after each piece, the digest of
/// everything so far. It takes the place of the logit digest beside [`UNKNOWN_TOKEN`],
/// so that the chain still says what was delivered, however it was cut.
#[derive(Debug, Clone)]
pub struct TextDigest(blake3::Hasher);

impl Default for TextDigest {
    fn default() -> Self {
        TextDigest(blake3::Hasher::new_derive_key("freehold/text/1"))
    }
}

impl TextDigest {
    /// Appends text.
    pub fn push(&mut self, text: &str) {
        self.0.update(text.as_bytes());
    }

    /// Returns the digest of all text so far.
    pub fn digest(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_digest_does_not_depend_on_where_the_text_was_cut() {
        let of = |pieces: &[&str]| {
            let mut text = TextDigest::default();
            pieces.iter().for_each(|piece| text.push(piece));
            text.digest()
        };
        assert_eq!(of(&["a sat", " is"]), of(&["a", " sat is"]));
        assert_ne!(of(&["a sat"]), of(&["a sat", " is"]));
        assert_ne!(of(&[]), NO_LOGITS);
        // Not the plain hash of a file with that content.
        assert_ne!(of(&["a"]).0, *blake3::hash(b"a").as_bytes());
    }
}
