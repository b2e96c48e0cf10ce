//! The system's clocks, read once per turn by the driver.
//!
//! The only place outside tests where the five machines' time comes from.

use protocol::time::{Now, Tick, WallTime};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Where a driver reads the time, once per turn.
pub trait Clock: Unpin + 'static {
    /// Reads both clocks.
    fn now(&self) -> Now;
}

/// A monotonic and a wall clock of one run.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Starts the run's monotonic time at zero.
    pub fn start() -> Self {
        SystemClock {
            start: Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let tick = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Now {
            tick: Tick(tick),
            wall: wall_now(),
        }
    }
}

/// Reads the wall clock.
pub fn wall_now() -> WallTime {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
