//! The shells around the machines: actors, their driver and their ports.

pub mod ports;
