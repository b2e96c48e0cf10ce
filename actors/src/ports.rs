//! What touches the world: each port is a plain asynchronous API that knows
//! nothing of actors and machines.

pub mod blob;
pub mod compute;
pub mod network;
pub mod relay;
pub mod runner;
pub mod storage;
pub mod wallet;
