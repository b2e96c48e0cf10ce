//! The discovery machine: listings in, ranked candidates out.

pub mod io;
