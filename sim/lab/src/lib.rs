//! The lab: real parts of a Bitcoin and Nostr world on one machine.
//!
//! What it is: a regtest chain that ldk-node accepts as a bitcoind, and a small
//! Nostr relay, on free loopback ports, started and stopped in one process, so
//! that a demo or a test moves real (worthless) coins over real channels and
//! finds peers over a real relay. Nothing on the path is faked: scripts go
//! through Bitcoin Core's interpreter, blocks carry work, relay events carry
//! signatures.
//!
//! What it is not: part of a node. It knows nothing of freehold, holds no
//! wallet of anybody's, and no network but regtest can be named in its API;
//! addresses of other networks are refused, and so is a bitcoind that reports
//! another chain.
//!
//! Who calls it: `freehold demo`, `freehold lab`, and the tests.
//!
//! Map:
//! - [`chain`] blocks, mempool, rules;
//! - [`rpc`] the bitcoind JSON-RPC in front of it, and a client;
//! - [`bitcoind`] a real bitcoind in its place (`BITCOIND_EXE`);
//! - [`Chain`], [`ChainDriver`] one handle over both;
//! - [`relay`] the relay and its fault switches;
//! - [`Lab`] all of it together.
//!
//! Using it with ldk-node, learnt the hard way:
//! - Mining is by order only. ldk-node looks at the chain every 2 s; call its
//!   `sync_wallets()` after mining to spare the wait.
//! - A funding transaction is broadcast in the background: wait for it with
//!   [`Lab::wait_for_mempool`] before mining, or let a [`Miner`] do it.
//! - Two channel opens back to back may spend the same coin (ldk-node issue
//!   41): call `sync_wallets()` after each pending channel.
//! - After a force close the funds need 144 blocks or more: mine and sync in a
//!   loop; balances listed as pending stay listed long after they are swept.

mod backend;
pub mod bitcoind;
pub mod chain;
mod error;
mod lab;
mod miner;
pub mod relay;
pub mod rpc;

pub use backend::{Chain, ChainDriver};
pub use error::{LabError, require_regtest};
pub use lab::{BitcoindOptions, Funding, Lab, LabOptions};
pub use miner::{Miner, MinerOptions};
pub use relay::{Relay, RelayOptions};
pub use rpc::RpcAccess;
