//! When to try a relay again: exponential, with full jitter, within two bounds.
//!
//! Not a timer: it only computes waits. Used by `task`.

use rand::Rng;
use std::time::Duration;

/// The waits between attempts to reach one relay.
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// Creates a schedule whose waits never leave `min..=max`.
    pub fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max: max.max(min),
            failures: 0,
        }
    }

    /// Starts again from the shortest wait, after a connection that was of use.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Makes the next wait the longest one, for a relay that misbehaves.
    pub fn punish(&mut self) {
        self.failures = u32::MAX;
    }

    /// Returns the next wait: uniform between `min` and `min * 2^failures`, at most `max`;
    /// at least half of the ceiling, so that a dead relay is asked less and less often.
    pub fn next_wait(&mut self, rng: &mut impl Rng) -> Duration {
        let factor = 1u32.checked_shl(self.failures.min(31)).unwrap_or(u32::MAX);
        let ceiling = self.min.saturating_mul(factor).min(self.max);
        self.failures = self.failures.saturating_add(1);
        let floor = (ceiling / 2).max(self.min).min(ceiling);
        rng.gen_range(floor..=ceiling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_within_their_bounds_and_start_again_after_success() {
        let (min, max) = (Duration::from_millis(500), Duration::from_secs(300));
        let mut rng = rand::thread_rng();
        let mut backoff = Backoff::new(min, max);
        let waits: Vec<_> = (0..64).map(|_| backoff.next_wait(&mut rng)).collect();
        assert!(waits.iter().all(|wait| (min..=max).contains(wait)));
        assert!(waits[0] == min && waits[40] >= max / 2);
        backoff.reset();
        assert_eq!(backoff.next_wait(&mut rng), min);
        backoff.punish();
        assert!(backoff.next_wait(&mut rng) >= max / 2);
    }
}
