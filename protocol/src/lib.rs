//! Everything that freehold decides, as pure functions of (state, time, input).
//!
//! Wire types, codec, signatures, and one state machine per actor. No clock, no
//! IO, no threads, no async: the node's actors and the simulator drive the same
//! machines. Start reading at `machine`, then `message::sibling` and `route`.
//!
//! Modules lie on floors, and each names those of lower floors alone:
//! - values: `codec`, `ids`, `limits`, `money`, `time`; on them `crypto`, `offence`, `quota`,
//!   `refusal`, `work`;
//! - `wire`, what nodes say to each other; beside it `machine`, the contract of a machine;
//! - `message`, what the machines of one node say; beside it `replay`;
//! - the machines `discovery`, `payment`, `reputation`, `validator`, and `inference` above its
//!   parts `order` and `purchase`; none of them names another;
//! - `route`, which names them all.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

pub mod codec;
pub mod crypto;
pub mod discovery;
pub mod ids;
pub mod inference;
pub mod limits;
pub mod machine;
pub mod message;
pub mod money;
pub mod offence;
pub mod order;
pub mod payment;
mod purchase;
mod quota;
pub mod refusal;
pub mod replay;
pub mod reputation;
pub mod route;
pub mod time;
pub mod validator;
pub mod wire;
pub mod work;
