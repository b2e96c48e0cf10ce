//! What touches the world: each port is a plain asynchronous API that knows
//! nothing of actors and machines.

pub mod network;
pub mod relay;
