//! Saving and continuing a run: step, powers, weights and moments as little-endian f32 behind
//! a magic and a BLAKE3 digest. Called by the `pocket` binary and by tests.

use super::Run;

const MAGIC: &[u8; 8] = b"fhtrain1";

/// Why a saved state was not taken.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Not a state file, or damaged.
    #[error("the saved run is damaged or of another kind; delete it to start anew")]
    Damaged,
    /// From a run of another plan.
    #[error("the saved run belongs to another plan; use its plan or delete it to start anew")]
    OtherPlan,
}

impl Run {
    /// What a continuation must share. The length of the run is zero as long as the rate
    /// does not depend on it, so that a run can still be made longer.
    fn fingerprint(&self, step: usize) -> [u64; 6] {
        let p = &self.plan;
        let free = step <= self.settings.fall_start(p.steps);
        [
            p.seed,
            if free { 0 } else { p.steps as u64 },
            p.rows as u64,
            p.tokens as u64,
            p.vocab as u64,
            self.weights.len() as u64,
        ]
    }

    /// The state between two steps.
    pub fn save(&self) -> Vec<u8> {
        let mut body = Vec::new();
        self.fingerprint(self.step)
            .iter()
            .for_each(|x| body.extend_from_slice(&x.to_le_bytes()));
        body.extend_from_slice(&(self.step as u64).to_le_bytes());
        let (powers, m, v) = self.adam.parts();
        for list in [&powers[..], &self.weights, m, v] {
            list.iter()
                .for_each(|x| body.extend_from_slice(&x.to_le_bytes()));
        }
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(blake3::hash(&body).as_bytes());
        out.extend(body);
        out
    }

    /// Takes over a state that [`Run::save`] made for the same plan.
    ///
    /// # Errors
    /// When the bytes are not such a state; this run is then unchanged.
    pub fn load(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(StateError::Damaged)?;
        let (digest, body) = rest.split_at_checked(32).ok_or(StateError::Damaged)?;
        if blake3::hash(body).as_bytes() != digest {
            return Err(StateError::Damaged);
        }
        let (head, floats) = body.split_at_checked(7 * 8).ok_or(StateError::Damaged)?;
        let words: Vec<u64> = head
            .chunks_exact(8)
            .map(|c| c.iter().rev().fold(0, |t, &b| t << 8 | b as u64))
            .collect();
        let (n, step) = (self.weights.len(), words[6] as usize);
        if words[..6] != self.fingerprint(step) || floats.len() != (2 + 3 * n) * 4 {
            return Err(StateError::OtherPlan);
        }
        let mut floats = floats
            .chunks_exact(4)
            .map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]]));
        let mut take = |n: usize| -> Vec<f32> { floats.by_ref().take(n).collect() };
        let powers = take(2);
        self.weights = take(n);
        let (m, v) = (take(n), take(n));
        self.adam.restore([powers[0], powers[1]], m, v);
        self.step = step;
        Ok(())
    }
}
