//! The stream protocols that nodes speak: their names and frame limits.
//!
//! Not their content, which `protocol` defines and the actors drive.

use libp2p::StreamProtocol;
use std::fmt;

/// A protocol spoken in frames on a stream of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// One order, from the buyer's offer to both signatures on the receipt.
    Order,
    /// A bundle in, a signed verdict out.
    Audit,
    /// Signed offers from a router.
    Quote,
    /// The beginning of a model's file in slices, each with its BLAKE3 proof.
    Blob,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Order, Self::Audit, Self::Quote, Self::Blob];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Order => "/freehold/order/1",
            Self::Audit => "/freehold/audit/1",
            Self::Quote => "/freehold/quote/1",
            Self::Blob => "/freehold/blob/1",
        }
    }

    /// The largest frame in bytes.
    pub const fn frame_limit(self) -> usize {
        match self {
            // A long prompt of 128k tokens is some 600 kB of text.
            Self::Order => 1 << 20,
            // A bundle holds an order and every token's commitment: 128k
            // tokens at about 50 bytes, besides the prompt.
            Self::Audit => 8 << 20,
            // A handful of offers of about a kilobyte each.
            Self::Quote => 256 << 10,
            // A group of 256 KiB, its proof, and the digests of a split model's files.
            Self::Blob => 320 << 10,
        }
    }

    pub(super) fn wire(self) -> StreamProtocol {
        StreamProtocol::new(self.name())
    }

    pub(super) fn from_wire(name: &StreamProtocol) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|one| one.name() == name.as_ref())
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
