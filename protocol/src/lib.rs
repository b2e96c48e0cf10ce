//! Everything that freehold decides, as pure functions of (state, time, input).
//!
//! Wire types, codec, signatures, and one state machine per actor. No clock, no
//! IO, no threads, no async: the node's actors and the simulator drive the same
//! machines. Start reading at `machine`, then `route`.

pub mod blob;
pub mod bundle;
pub mod chain;
pub mod codec;
pub mod crypto;
pub mod discovery;
pub mod envelope;
pub mod ids;
pub mod inference;
pub mod limits;
pub mod machine;
pub mod mandate;
pub mod manifest;
pub mod money;
pub mod offence;
pub mod order;
pub mod payment;
mod quota;
pub mod quote;
pub mod refusal;
pub mod replay;
pub mod reputation;
pub mod route;
pub mod text;
pub mod time;
pub mod validator;
pub mod work;
