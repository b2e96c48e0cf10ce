//! An order from first frame to receipt: the two sides' machines.
//!
//! The host's is driven by the inference machine, the buyer's by a purchase.

pub(crate) mod breach;
pub(crate) mod buyer;
pub(crate) mod context;
pub mod host;
pub(crate) mod late;
pub mod record;
