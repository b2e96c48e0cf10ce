//! A bound on work that nobody has paid for.

use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::Duration;

/// Orders that are tokenized, rendered and compiled at once before they are paid: fewer
/// than there are renderers, so that paid ones find some free.
const UNPAID_MAX: usize = 2;
/// How long an order waits for its turn.
const UNPAID_TIMEOUT: Duration = Duration::from_secs(2);

/// Lets few through at once; clones share the bound.
#[derive(Debug, Clone, Default)]
pub(super) struct Gate(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    inside: Mutex<usize>,
    left: Condvar,
}

/// A place inside, until it is dropped.
#[derive(Debug)]
pub(super) struct Inside<'a>(&'a Shared);

impl Gate {
    /// Enters, after a wait where it is full; `None` where it stays full.
    pub fn enter(&self) -> Option<Inside<'_>> {
        self.enter_within(UNPAID_TIMEOUT)
    }

    pub(super) fn enter_within(&self, timeout: Duration) -> Option<Inside<'_>> {
        let shared = &*self.0;
        let mut inside = shared.inside.lock();
        let full = |inside: &mut usize| *inside >= UNPAID_MAX;
        let waited = shared.left.wait_while_for(&mut inside, full, timeout);
        if waited.timed_out() && full(&mut inside) {
            return None;
        }
        *inside += 1;
        Some(Inside(shared))
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        *self.0.inside.lock() -= 1;
        self.0.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_gate_lets_nobody_in_until_somebody_leaves() {
        let gate = Gate::default();
        let mut inside: Vec<_> = (0..UNPAID_MAX).filter_map(|_| gate.enter()).collect();
        assert_eq!(inside.len(), UNPAID_MAX);
        assert!(gate.enter_within(Duration::ZERO).is_none());
        inside.pop();
        assert!(gate.enter_within(Duration::ZERO).is_some());
    }
}
