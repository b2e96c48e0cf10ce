//! The one binary: command line, configuration, profiler, gateway, wiring.
//!
//! ```text
//! cli ──► session ──► control (client) ──HTTP──► server ──► actors::node::Node
//!            └─ starts service where no node runs on the folder ─┘
//! ```
//! Every command talks to a node over its control API, also where it started the
//! node itself: one code path. Nothing about money or trust is decided here.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

pub mod calendar;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod folder;
pub mod lab;
pub mod models;
pub mod profile;
pub mod sats;
pub mod server;
pub mod service;
pub mod session;
pub mod signals;

pub use cli::main;
