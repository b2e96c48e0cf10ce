//! Everything that freehold decides, as pure functions of (state, time, input).
//!
//! Wire types, codec, signatures, and one state machine per actor. No clock, no
//! IO, no threads, no async: the node's actors and the simulator drive the same
//! machines. Start reading at `machine`, then `route`.

pub mod ids;
pub mod money;
pub mod time;
