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
        if !self.is_encoder() {
            return Err(EngineError::NoEmbeddings);
        }
        check_tokens(self, tokens, 0)?;
        let mut sequence = Computation::default();
        sequence.compute(&self.0, tokens, tokens.len())?;
        Ok(pooled(self, &sequence.scratch.x))
    }
}

/// One vector of all rows of a text that an encoder has computed.
pub(super) fn pooled(model: &Model, x: &[f32]) -> Vec<f32> {
    let (width, simd) = (model.0.graph.width, model.0.simd);
    let Head::Pooled(pooling) = model.0.graph.head else {
        return Vec::new();
    };
    let mut out = match pooling {
        Pooling::First => x[..width].to_vec(),
        Pooling::Last => x[x.len() - width..].to_vec(),
        Pooling::Mean => {
            let mut sum = vec![0.0; width];
            x.chunks_exact(width)
                .for_each(|row| norm::add(simd, &mut sum, row));
            norm::scale(simd, &mut sum, 1.0 / (x.len() / width) as f32);
            sum
        }
    };
    norm::to_unit_length(simd, &mut out);
    out
}
