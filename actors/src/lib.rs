//! The shells around the machines: five actors, their driver and their ports.
//!
//! Effects in, completions out. Nothing is decided here: [`node`] wires the
//! ports to the machines of `protocol`, [`driver`] turns them. The only crate
//! that names actix.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

pub mod clock;
pub mod driver;
pub mod keys;
pub mod node;
pub mod ports;
pub mod shell;
