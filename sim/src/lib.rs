//! The deterministic simulator: many nodes, the real machines, made-up time.
//!
//! Everything a node decides is decided by the machines of `protocol`; this
//! crate is only the world around them: clocks, disks that forget, networks that
//! lose, wallets that do not know, engines that lie, relays that are stale, and
//! people who change their minds. One seed gives one history, bit for bit.
//!
//! Not the lab (`sim/lab`), which runs real processes. Start at [`World`]; the
//! judges are in [`check`] and share no code with what they judge; the bugs that
//! prove the judges awake are in [`plant`].

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

pub mod adversary;
pub mod callers;
pub mod check;
pub mod crypto;
pub mod dice;
pub mod engine;
pub mod event;
pub mod faults;
pub mod net;
pub mod node;
pub mod plant;
pub mod profile;
pub mod record;
pub mod relay;
pub mod run;
pub mod store;
pub mod trace;
pub mod users;
pub mod wallet;
pub mod world;

pub use run::{Outcome, SeedReport, simulate};
pub use world::{Options, World};
