//! What output may carry beside tokens and text: probabilities and embeddings.
//!
//! Not signed and not chained by itself: the token chain commits to each embedding
//! through its digest, and to probabilities through the logits that they come from.

use crate::codec::{CodecError, bound};
use crate::crypto::tagged_hash;
use crate::ids::Digest;
use crate::limits;
use crate::wire::chain::Piece;
use crate::wire::order::Chunk;
use crate::work::{Job, Work};
use serde::{Deserialize, Serialize};

/// What a job may ask for beside tokens and text; each list is empty or has one entry per
/// token of its chunk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Probabilities. No digest commits to them: a replay can compute them again.
    pub logprobs: Vec<TokenLogprobs>,
    /// Embeddings; each token's digest is [`vector_digest`] of its own, its id the text's index.
    pub vectors: Vec<Vector>,
}

/// A token with its probability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// Id in the vocabulary.
    pub token: u32,
    /// Its text, which need not be whole characters.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability, in millionths; never above 0.
    pub micro: i64,
}

/// The probability of a token, and the likeliest alternatives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenLogprobs {
    /// The token that was drawn.
    pub chosen: TokenLogprob,
    /// The likeliest, best first.
    pub top: Vec<TokenLogprob>,
}

/// An embedding: its elements, IEEE 754 single precision, little-endian. Here they are bytes:
/// nothing is computed with them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Vector(pub Vec<u8>);

impl std::fmt::Debug for Vector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vector({} elements)", self.0.len() / 4)
    }
}

/// What the token chain commits to in place of a logit digest where a unit is an embedding.
pub fn vector_digest(vector: &Vector) -> Digest {
    tagged_hash("freehold/vector/1", &[&vector.0])
}

impl Attached {
    /// Bounds and shape, whatever was asked for.
    pub(super) fn check(&self, tokens: usize) -> Result<(), CodecError> {
        let whole = |list: usize| list == 0 || list == tokens;
        if !whole(self.logprobs.len()) || !whole(self.vectors.len()) {
            let reason = "what is attached does not fit the tokens".to_owned();
            return Err(CodecError::Malformed { reason });
        }
        for one in &self.logprobs {
            bound(one.top.len(), limits::MAX_LOGPROBS as usize)?;
            for token in one.top.iter().chain([&one.chosen]) {
                bound(token.bytes.len(), limits::MAX_TOKEN_BYTES)?;
            }
        }
        for vector in &self.vectors {
            bound(vector.0.len(), limits::MAX_VECTOR_BYTES)?;
        }
        let texts = |one: &TokenLogprobs| -> usize {
            let tokens = one.top.iter().chain([&one.chosen]);
            tokens.map(|token| token.bytes.len()).sum()
        };
        bound(
            self.logprobs.iter().map(texts).sum(),
            limits::MAX_CHUNK_LOGPROB_BYTES,
        )?;
        bound(
            self.vectors.iter().map(|vector| vector.0.len()).sum(),
            limits::MAX_CHUNK_VECTOR_BYTES,
        )
    }
}

/// Whether a chunk that begins at unit `delivered` carries what its job asked for, and no more.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn fits(job: &Job, delivered: u64, chunk: &Chunk) -> Result<(), String> {
    let (attached, tokens) = (&chunk.attached, chunk.tokens.len());
    let wants_logprobs = job.steering.logprobs.is_some();
    let wants_vectors = matches!(job.work, Work::Embed { .. });
    for (what, wanted, found) in [
        (
            "probabilities",
            wants_logprobs && !wants_vectors,
            attached.logprobs.len(),
        ),
        ("embeddings", wants_vectors, attached.vectors.len()),
    ] {
        let expected = if wanted { tokens } else { 0 };
        if found != expected {
            return Err(format!("{found} {what} where {expected} were due"));
        }
    }
    let top = job.steering.logprobs.unwrap_or(0) as usize;
    for (token, logprobs) in chunk.tokens.iter().zip(&attached.logprobs) {
        if logprobs.chosen.token != token.id || logprobs.top.len() > top {
            return Err("probabilities of other tokens than were delivered".to_owned());
        }
    }
    for ((index, token), vector) in (delivered..).zip(&chunk.tokens).zip(&attached.vectors) {
        let whole = !vector.0.is_empty() && vector.0.len().is_multiple_of(4);
        let bare = token.piece == Piece::default();
        if u64::from(token.id) != index || token.logits != vector_digest(vector) || !whole || !bare
        {
            return Err(format!(
                "embedding {index} is not the one that its digest names"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::Counts;
    use crate::wire::chain::ChainedToken;
    use crate::work::{Sampling, Steering};

    fn job(work: Work, logprobs: Option<u32>) -> Job {
        Job {
            work,
            max_output: 8,
            sampling: Sampling::default(),
            seed: 1,
            stop: Vec::new(),
            date: String::new(),
            steering: Steering {
                logprobs,
                ..Steering::default()
            },
            prefix: Vec::new(),
            extensions: Vec::new(),
        }
    }

    fn chunk(tokens: Vec<ChainedToken>, attached: Attached) -> Chunk {
        Chunk {
            seq: 0,
            tokens,
            totals: Counts::default(),
            finish: None,
            attached,
            extensions: Vec::new(),
        }
    }

    fn logprobs(token: u32) -> TokenLogprobs {
        TokenLogprobs {
            chosen: TokenLogprob {
                token,
                bytes: vec![b'a'],
                micro: -1,
            },
            top: Vec::new(),
        }
    }

    #[test]
    fn an_embedding_is_taken_only_in_its_place_and_with_its_digest() {
        let texts = vec!["a".to_owned(), "b".to_owned()];
        let job = job(Work::Embed { texts }, None);
        let vector = Vector(vec![0, 0, 128, 63, 0, 0, 32, 192]);
        let token = |id| ChainedToken {
            id,
            logits: vector_digest(&vector),
            piece: Piece::default(),
        };
        let carries = |vectors| Attached {
            vectors,
            ..Attached::default()
        };
        let good = chunk(vec![token(1)], carries(vec![vector.clone()]));
        assert_eq!(fits(&job, 1, &good), Ok(()));
        assert!(fits(&job, 0, &good).is_err());
        let other = Vector(vec![0, 0, 128, 63, 0, 0, 32, 64]);
        assert!(fits(&job, 1, &chunk(vec![token(1)], carries(vec![other]))).is_err());
        assert!(fits(&job, 1, &chunk(vec![token(1)], carries(Vec::new()))).is_err());
        // Of whole elements, one at least, and with no text beside it.
        for bytes in [Vec::new(), vec![0, 0, 128]] {
            let vector = Vector(bytes);
            let named = ChainedToken {
                logits: vector_digest(&vector),
                ..token(1)
            };
            assert!(fits(&job, 1, &chunk(vec![named], carries(vec![vector]))).is_err());
        }
        let speaks = ChainedToken {
            piece: Piece::text(*b"a"),
            ..token(1)
        };
        assert!(fits(&job, 1, &chunk(vec![speaks], carries(vec![vector.clone()]))).is_err());
    }

    #[test]
    fn probabilities_come_where_they_were_asked_for_and_only_there() {
        let work = || Work::Complete {
            prompt: "x".to_owned(),
        };
        let token = ChainedToken {
            id: 7,
            logits: Digest([0; 32]),
            piece: Piece::text(*b"a"),
        };
        let carries = |logprobs| Attached {
            logprobs,
            ..Attached::default()
        };
        let bare = chunk(vec![token.clone()], Attached::default());
        let with = chunk(vec![token.clone()], carries(vec![logprobs(7)]));
        let wrong = chunk(vec![token], carries(vec![logprobs(8)]));
        let (plain, asked) = (job(work(), None), job(work(), Some(0)));
        assert!(fits(&plain, 0, &bare).is_ok() && fits(&asked, 0, &with).is_ok());
        for (job, chunk) in [(&plain, &with), (&asked, &bare), (&asked, &wrong)] {
            assert!(fits(job, 0, chunk).is_err());
        }
    }

    #[test]
    fn an_embedding_is_shown_by_its_size() {
        let vector = Vector(vec![0; 4_096]);
        assert_eq!(format!("{vector:?}"), "Vector(1024 elements)");
    }

    #[test]
    fn a_token_comes_with_as_many_alternatives_as_were_asked_for_at_most() {
        let prompt = "x".to_owned();
        let job = job(Work::Complete { prompt }, Some(2));
        for (count, fine) in [(0, true), (2, true), (3, false)] {
            let token = ChainedToken {
                id: 7,
                logits: Digest([0; 32]),
                piece: Piece::text(*b"a"),
            };
            let mut one = logprobs(7);
            one.top = vec![logprobs(8).chosen; count];
            let attached = Attached {
                logprobs: vec![one],
                ..Attached::default()
            };
            let chunk = chunk(vec![token], attached);
            assert_eq!(fits(&job, 0, &chunk).is_ok(), fine, "{count}");
        }
    }

    #[test]
    fn an_embedding_has_no_probabilities_whatever_was_asked_for() {
        let texts = vec!["a".to_owned()];
        let job = job(Work::Embed { texts }, Some(0));
        let vector = Vector(vec![0; 4]);
        let token = || ChainedToken {
            id: 0,
            logits: vector_digest(&vector),
            piece: Piece::default(),
        };
        let vectors = vec![vector.clone()];
        let bare = Attached {
            vectors,
            ..Attached::default()
        };
        let with = Attached {
            logprobs: vec![logprobs(0)],
            ..bare.clone()
        };
        assert_eq!(fits(&job, 0, &chunk(vec![token()], bare)), Ok(()));
        assert!(fits(&job, 0, &chunk(vec![token()], with)).is_err());
    }

    #[test]
    fn probabilities_are_bounded_one_by_one_and_in_sum() {
        let of = |count: usize, alternatives: usize, bytes: usize| {
            let mut one = logprobs(7);
            one.chosen.bytes = vec![b'a'; bytes];
            one.top = vec![one.chosen.clone(); alternatives];
            Attached {
                logprobs: vec![one; count],
                ..Attached::default()
            }
        };
        let most = limits::MAX_LOGPROBS as usize;
        assert!(of(1, most, 1).check(1).is_ok());
        assert!(of(1, most + 1, 1).check(1).is_err());
        assert!(of(1, 1, limits::MAX_TOKEN_BYTES).check(1).is_ok());
        assert!(of(1, 1, limits::MAX_TOKEN_BYTES + 1).check(1).is_err());
        // A list has one entry a token, or none.
        assert!(of(2, 0, 1).check(2).is_ok() && of(0, 0, 0).check(2).is_ok());
        assert!(of(1, 0, 1).check(2).is_err() && of(3, 0, 1).check(2).is_err());
        // A token and one alternative, of 1 KiB each.
        let full = limits::MAX_CHUNK_LOGPROB_BYTES / (2 * limits::MAX_TOKEN_BYTES);
        let bytes = limits::MAX_TOKEN_BYTES;
        assert!(of(full, 1, bytes).check(full).is_ok());
        assert!(of(full + 1, 1, bytes).check(full + 1).is_err());
    }

    #[test]
    fn what_is_attached_is_bounded() {
        let vectors = |count, bytes| Attached {
            vectors: vec![Vector(vec![0; bytes]); count],
            ..Attached::default()
        };
        assert!(vectors(8, limits::MAX_VECTOR_BYTES).check(8).is_ok());
        assert!(vectors(9, limits::MAX_VECTOR_BYTES).check(9).is_err());
        assert!(vectors(1, limits::MAX_VECTOR_BYTES + 4).check(1).is_err());
        assert!(vectors(1, 4).check(2).is_err());
    }
}
