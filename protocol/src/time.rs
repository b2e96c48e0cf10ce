//! Time as an argument: a monotonic tick and a wall clock, both read by the driver.
//!
//! Not a clock. `std::time::Instant` can be neither made up nor replayed, so it
//! stays out of this crate; the simulator skews the two clocks apart.

use serde::{Deserialize, Serialize};

/// Monotonic time of one run, in nanoseconds since an arbitrary start.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Tick(pub u64);

impl Tick {
    /// Returns this tick `ms` milliseconds later.
    pub fn after_ms(self, ms: u64) -> Tick {
        Tick(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }

    /// Returns the milliseconds from `earlier` to this tick, zero if it is not earlier.
    pub fn ms_since(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000_000
    }
}

/// Wall-clock time: milliseconds since the Unix epoch.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct WallTime(pub u64);

impl WallTime {
    /// Returns this time `ms` milliseconds later.
    pub fn after_ms(self, ms: u64) -> WallTime {
        WallTime(self.0.saturating_add(ms))
    }

    /// Returns the milliseconds from `earlier` to this time, zero if it is not earlier.
    pub fn ms_since(self, earlier: WallTime) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns whole seconds since the Unix epoch, as Nostr counts (NIP-01).
    pub fn secs(self) -> u64 {
        self.0 / 1_000
    }
}

/// One reading of both clocks, taken by the driver once per turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time; never goes backwards within a run.
    pub tick: Tick,
    /// Wall time; may jump.
    pub wall: WallTime,
}
