//! Real processes under faults: killed in mid-stream, out of disk, badly configured.
//!
//! Not hostile peers (those are in the crates' own tests and in the simulator).

#[path = "faults/away.rs"]
mod away;
#[path = "faults/books.rs"]
mod books;
#[path = "faults/disk.rs"]
mod disk;
#[path = "faults/files.rs"]
mod files;
#[path = "faults/kill.rs"]
mod kill;
#[path = "faults/stale.rs"]
mod stale;

use std::time::Duration;

/// Bound on every wait. Unpaid invoices of a killed stream expire after three minutes.
const BOUND: Duration = Duration::from_secs(120);
