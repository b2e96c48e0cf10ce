//! Logits of given tokens: what a comparison with another engine reads.

use super::generation::{Computation, check};
use super::replay::LOGIT_ROWS;
use super::{CHUNK, EngineError};
use crate::model::Model;

impl Model {
    /// Logits after every token (`all`) or after the last one, one row of
    /// vocabulary size each. Tokens are taken as they are: no BOS is added. The rows
    /// are kept, so for long inputs use [`Self::each_logits`].
    pub fn logits(&self, tokens: &[u32], all: bool) -> Result<Vec<Vec<f32>>, EngineError> {
        let mut rows = Vec::new();
        self.each_logits(tokens, all, |_, logits| rows.push(logits.to_vec()))?;
        Ok(rows)
    }

    /// [`Self::logits`], handed over row by row with the number of its token, in
    /// memory that does not grow with the rows.
    pub fn each_logits(
        &self,
        tokens: &[u32],
        all: bool,
        mut each: impl FnMut(usize, &[f32]),
    ) -> Result<(), EngineError> {
        check(self, tokens, 0)?;
        let first = if all { 0 } else { tokens.len() - 1 };
        let mut sequence = Computation::default();
        while sequence.computed < tokens.len() {
            let from = sequence.computed;
            let to = (from + CHUNK).min(tokens.len());
            sequence.compute(&self.0, tokens, to)?;
            let mut row = from.max(first);
            while row < to {
                let end = (row + LOGIT_ROWS).min(to);
                let logits = sequence.logits(&self.0, row, end)?;
                for (i, logits) in logits.chunks_exact(self.0.graph.vocab).enumerate() {
                    each(row + i, logits);
                }
                row = end;
            }
        }
        Ok(())
    }
}
