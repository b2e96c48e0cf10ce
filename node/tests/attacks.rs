//! Strangers against whole, running nodes: a host of the lab, started as a user would, with a real
//! channel to an honest buyer, and clients that know no more of it than its address and its
//! listing. After each attack an honest order goes through at once, memory and disk of the host
//! are back, and it is still listed ([`fitness`]).
//!
//! `FREEHOLD_ATTACK_SECONDS` sets how long each flood lasts. All of it takes minutes, so it is no
//! part of the ordinary tests: the README has its command. The tests run one after the other, as
//! they measure one process each.

#[path = "attacks/files.rs"]
mod files;
#[path = "attacks/fitness.rs"]
mod fitness;
#[path = "attacks/free.rs"]
mod free;
#[path = "attacks/gateway.rs"]
mod gateway;
#[path = "attacks/orders.rs"]
mod orders;
#[path = "attacks/relay.rs"]
mod relay;
#[path = "attacks/stranger.rs"]
mod stranger;
#[path = "attacks/wire.rs"]
mod wire;

use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};

/// How long a flood lasts, or what is held is held, in the ordinary run.
const SECONDS: u64 = 2;

/// One test at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

async fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().await
}

/// How long a flood lasts.
fn long() -> Duration {
    let asked = std::env::var("FREEHOLD_ATTACK_SECONDS");
    let seconds = asked.ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(SECONDS))
}
