//! The one source of chance of a run: a seeded ChaCha stream with a few shapes.
//!
//! Not for the machines, which have seeds of their own drawn from here.

use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Nanoseconds of a millisecond, the unit in which delays are drawn.
pub const MS: u64 = 1_000_000;

/// A seeded stream of chance.
#[derive(Debug, Clone)]
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// Starts the stream of a seed.
    pub fn new(seed: u64) -> Self {
        Dice(ChaCha8Rng::seed_from_u64(seed))
    }

    /// True `ppm` times in a million.
    pub fn chance(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.0.gen_range(0..1_000_000) < ppm
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0.gen_range(low..=high.max(low))
    }

    /// An index below `length`, zero for an empty list.
    pub fn below(&mut self, length: usize) -> usize {
        if length == 0 {
            0
        } else {
            self.0.gen_range(0..length)
        }
    }

    /// Nanoseconds between `low` and `high` milliseconds.
    pub fn ms(&mut self, low: u64, high: u64) -> u64 {
        self.between(low * MS, high * MS)
    }

    /// A pause in nanoseconds around `mean_ms`, between a fifth of it and three times it.
    pub fn pause(&mut self, mean_ms: u64) -> u64 {
        let (a, b) = (self.ms(mean_ms / 5, mean_ms), self.ms(0, mean_ms));
        a + if self.chance(500_000) { b * 2 } else { b / 2 }
    }

    /// 32 bytes: a machine's seed or a secret.
    pub fn bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.0.fill_bytes(&mut bytes);
        bytes
    }
}
