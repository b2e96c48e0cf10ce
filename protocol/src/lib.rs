//! Everything that freehold decides, as pure functions of (state, time, input).
//!
//! Wire types, codec, signatures, and one state machine per actor. No clock, no
//! IO, no threads, no async: the node's actors and the simulator drive the same
//! machines. Start reading at `machine`, then `route`.

pub mod codec;
pub mod crypto;
pub mod discovery;
pub mod ids;
pub mod inference;
pub mod limits;
pub mod machine;
pub mod message;
pub mod money;
pub mod offence;
pub mod order;
pub mod payment;
mod quota;
pub mod refusal;
pub mod replay;
pub mod reputation;
pub mod route;
pub mod time;
pub mod validator;
pub mod wire;
pub mod work;
