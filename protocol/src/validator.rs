//! The validator machine: evidence in, signed verdicts out.

pub mod bookkeeping;
pub mod compare;
pub mod machine;
pub mod second;
pub mod store;

pub use bookkeeping::{Facts, bookkeeping};
pub use machine::{Config, Validator};
