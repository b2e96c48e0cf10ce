//! The discovery machine: listings in, ranked candidates out.

pub mod announce;
pub mod find;
pub mod listings;
pub mod machine;

pub use machine::{Config, Discovery};
