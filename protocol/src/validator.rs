//! The validator machine: evidence in, signed verdicts out.

pub mod io;
