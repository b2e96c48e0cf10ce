//! `/freehold/blob/1`: the beginnings of models' files, for those who have not the models.
//!
//! `serve` gives them away, `allowance` bounds how much and `transfers` to how many at once, `fetch` reads and verifies them,
//! [`Vocabularies`] keeps what was read and counts prompts with it. Proofs are
//! `protocol::wire::blob`'s; what a count is held against is decided by the order machine.

mod allowance;
mod fetch;
mod serve;
#[cfg(test)]
mod tests;
mod transfers;
mod vocabularies;

pub use allowance::{Allowance, Bounds};
pub use fetch::{FetchError, Limits, fetch};
pub use serve::{Blobs, turn_away};
pub use vocabularies::{Cache, Vocabularies};

const _: () = assert!(kernels::gguf::GROUP_BYTES as u64 == protocol::wire::blob::GROUP_BYTES);
