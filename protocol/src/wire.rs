//! What nodes say to each other: signed bodies, frames, and the rules that anybody can check.
//!
//! Not behaviour, and nothing that the machines of one node tell each other: see
//! `message`. Knows the ground floor alone (ids, money, time, codec, crypto); named by
//! every machine and every driver, and names none of them.

pub mod attached;
pub mod blob;
pub mod bundle;
pub mod chain;
pub mod envelope;
pub mod mandate;
pub mod manifest;
pub mod order;
pub mod quote;
pub mod text;

#[cfg(test)]
pub(crate) mod testing;
