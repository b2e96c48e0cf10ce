//! The one wire encoding: bincode 2, standard configuration, bounded, no trailing bytes.
//!
//! Not framing: length prefixes belong to the transport port. JSON is used only
//! inside Nostr events and for people.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::cell::Cell;

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// More bytes than this kind of message may have.
    #[error("message of {bytes} bytes is over the limit of {limit}")]
    TooLong {
        /// Size found.
        bytes: usize,
        /// Size allowed.
        limit: usize,
    },
    /// The bytes do not decode.
    #[error("message does not decode: {reason}")]
    Malformed {
        /// What the decoder said.
        reason: String,
    },
    /// The message ended before its bytes did.
    #[error("{bytes} bytes follow the message")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}

/// A typed extension record: odd types may be ignored, even ones must be understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    /// Even: must be understood. Odd: may be ignored.
    pub kind: u16,
    /// Contents; those of one message have at most [`crate::limits::MAX_EXTENSION_BYTES`] together.
    pub value: Vec<u8>,
}

/// The allocation limit inside one decode, so that a short message cannot claim a huge vector.
const DECODE_LIMIT: usize = 16 << 20;

/// Largest buffer that is kept for the next message. Bytes.
const SCRATCH_BYTES: usize = 64 << 10;

thread_local! {
    /// Where messages are put together: one allocation of the right size for each, and no growing.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

fn config() -> bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<DECODE_LIMIT>,
> {
    bincode::config::standard().with_limit::<DECODE_LIMIT>()
}

/// Encodes a message; the same value always gives the same bytes.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // What is encoded inside of `value` finds an empty buffer and leaves a larger one: no harm.
    let mut scratch = SCRATCH.take();
    scratch.clear();
    let config = bincode::config::standard();
    // Serialising our own types into a Vec cannot fail: no map of unknown length, no IO.
    let bytes = match bincode::serde::encode_into_std_write(value, &mut scratch, config) {
        Ok(_) => scratch.as_slice().to_vec(),
        Err(_) => Vec::new(),
    };
    if scratch.capacity() <= SCRATCH_BYTES {
        SCRATCH.set(scratch);
    }
    bytes
}

/// Decodes exactly one message from `bytes`.
///
/// # Errors
/// When it is longer than `limit`, malformed, or followed by anything.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, CodecError> {
    if bytes.len() > limit {
        return Err(CodecError::TooLong {
            bytes: bytes.len(),
            limit,
        });
    }
    let (value, used) = bincode::serde::decode_from_slice(bytes, config()).map_err(|error| {
        CodecError::Malformed {
            reason: error.to_string(),
        }
    })?;
    if used != bytes.len() {
        return Err(CodecError::Trailing {
            bytes: bytes.len() - used,
        });
    }
    Ok(value)
}

/// Refuses `found` of something, bytes or entries, beyond `limit`.
///
/// # Errors
/// When it is more.
pub(crate) fn bound(found: usize, limit: usize) -> Result<(), CodecError> {
    if found > limit {
        Err(CodecError::TooLong {
            bytes: found,
            limit,
        })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn trailing_bytes_are_refused() {
        let mut bytes = encode(&7u32);
        bytes.push(0);
        assert_eq!(
            decode::<u32>(&bytes, 100),
            Err(CodecError::Trailing { bytes: 1 })
        );
    }

    #[test]
    fn a_short_message_cannot_claim_a_huge_vector() {
        let bytes = [253, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert!(matches!(
            decode::<Vec<u8>>(&bytes, 100),
            Err(CodecError::Malformed { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<(Vec<String>, Option<u64>)>(&bytes, 100);
        }
    }
}
