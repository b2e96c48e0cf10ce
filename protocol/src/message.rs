//! What the machines of one node say: to each other, and to whoever drives them.
//!
//! One file for each machine, with its inputs, its effects, and the values that it is the
//! first to say; [`sibling`] has what passes between two of them. Not behaviour, and nothing
//! that leaves the node: see `wire`. Names no machine, so that no machine need name another.

pub mod discovery;
pub mod inference;
pub mod payment;
pub mod reputation;
pub mod sibling;
pub mod validator;
