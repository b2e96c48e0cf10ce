//! Vectors of whole texts, from models that make embeddings.

use super::EngineError;
use super::generation::{Computation, check_tokens};
use crate::model::{Head, Model, Pooling};
use crate::ops::norm;

impl Model {
    /// Whether the model makes vectors of texts ([`Self::embed`]) rather than text.
    pub fn is_encoder(&self) -> bool {
        matches!(self.0.graph.head, Head::Pooled(_))
    }

    /// Number of elements of a vector, where the model makes vectors.
    pub fn embedding_len(&self) -> Option<usize> {
        self.is_encoder().then_some(self.0.graph.width)
    }

    /// The vector of a text of at most the context's length: rows pooled as the file
    /// says, scaled to length one. Tokens are taken as they are, with the special
    /// ones that the model wants around them. The same bits whatever the machine.
    pub fn embed(&self, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
        let Head::Pooled(pooling) = self.0.graph.head else {
            return Err(EngineError::NoEmbeddings);
        };
        check_tokens(self, tokens, 0)?;
        let mut sequence = Computation::default();
        sequence.compute(&self.0, tokens, tokens.len())?;
        let rows = sequence.scratch.x.chunks_exact(self.0.graph.width);
        let mut out = match pooling {
            Pooling::First => rows.take(1).flatten().copied().collect(),
            Pooling::Last => rows.skip(tokens.len() - 1).flatten().copied().collect(),
            Pooling::Mean => {
                let mut sum = vec![0.0; self.0.graph.width];
                rows.for_each(|row| norm::add(self.0.simd, &mut sum, row));
                norm::scale(self.0.simd, &mut sum, 1.0 / tokens.len() as f32);
                sum
            }
        };
        norm::to_unit_length(self.0.simd, &mut out);
        Ok(out)
    }
}
