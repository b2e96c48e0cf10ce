//! The inference machine: buys and sells answers, token by token.

pub mod io;
