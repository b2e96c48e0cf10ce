//! An order from first frame to receipt: the two sides' machines.
//!
//! Driven by the inference machine on both sides.

pub mod buyer;
pub(crate) mod context;
pub mod host;
pub(crate) mod late;
pub mod record;
mod recount;
