//! The reputation machine: first-party history in, explained scores out.

pub mod book;
pub mod decay;
pub mod history;
pub mod machine;
mod reach;
pub mod score;

pub use machine::{Config, Reputation};
pub use score::Weights;
