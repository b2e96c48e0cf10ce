//! An order from first frame to receipt: wire types and the two sides' machines.
//!
//! Driven by the inference machine on both sides.

pub mod buyer;
pub mod host;
pub mod record;
mod recount;
