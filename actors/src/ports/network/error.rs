//! What can go wrong when starting, dialling, looking up and publishing.

use super::{Multiaddr, PeerId, Protocol};
use std::fmt;
use std::time::Duration;

/// Why a swarm did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listening address was refused by the system or by the transports.
    #[error("cannot listen on {address}: {reason}; choose another address or port in the config")]
    Listen {
        /// The address from the config.
        address: Multiaddr,
        /// What the system said.
        reason: String,
    },
    /// A configured address is of no use as such.
    #[error("address {address} {problem}")]
    Address {
        /// The address from the config.
        address: Multiaddr,
        /// What is wrong and what would be right.
        problem: &'static str,
    },
    /// A value in the config that libp2p refuses.
    #[error("the network config is not usable: {0}")]
    Config(String),
}

/// One address that was tried, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The address.
    pub address: Multiaddr,
    /// The innermost cause.
    pub reason: String,
}

struct Attempts<'a>(&'a [Attempt]);

impl fmt::Display for Attempts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Attempt { address, reason }) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "; " };
            write!(f, "{comma}{address}: {reason}")?;
        }
        Ok(())
    }
}

/// Why no stream to a peer came about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No address was given, or none names the peer.
    #[error("no address ends in /p2p/<peer id>; take the addresses from the host's listing")]
    NoPeer,
    /// The addresses name different peers.
    #[error("the addresses name {other} besides another peer; open one stream per peer")]
    TwoPeers {
        /// The peer named second.
        other: PeerId,
    },
    /// Not one address could be reached.
    #[error("cannot reach {peer} ({})", Attempts(attempts))]
    Unreachable {
        /// The peer.
        peer: PeerId,
        /// What was tried.
        attempts: Vec<Attempt>,
    },
    /// Somebody else answers at that address.
    #[error("{found} answers at {address}, not the wanted peer: the listing is stale or false")]
    WrongPeer {
        /// The peer that answered.
        found: PeerId,
        /// Where.
        address: Multiaddr,
    },
    /// The address is this node's own.
    #[error("that is this node itself")]
    Myself,
    /// The caller's time was up.
    #[error("no stream within {after:?}")]
    Timeout {
        /// The limit.
        after: Duration,
    },
    /// The peer does not serve this protocol.
    #[error("the peer does not speak {protocol}; it may run another version or role")]
    NotSpoken {
        /// The protocol.
        protocol: Protocol,
    },
    /// This side refuses, by one of its own bounds.
    #[error("too many {what} ({limit}); wait for one to end")]
    Busy {
        /// What there are too many of.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// The connection went away while the stream was being agreed on.
    #[error("the connection was lost ({reason})")]
    Lost {
        /// What the transport said.
        reason: String,
    },
    /// The swarm was shut down.
    #[error("the network is shut down")]
    Closed,
}

impl OpenError {
    /// Whether the peer has no part in it: this side is at one of its own bounds, or at its end.
    pub fn is_own(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Closed | Self::Myself)
    }

    /// Whether the same call may succeed later without any change.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } => true,
            Self::Busy { .. } | Self::Lost { .. } => true,
            Self::NoPeer | Self::TwoPeers { .. } | Self::WrongPeer { .. } => false,
            Self::Myself | Self::NotSpoken { .. } | Self::Closed => false,
        }
    }
}

/// Why a lookup, an announcement or a publication failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverlayError {
    /// Beyond one of this side's bounds.
    #[error("too many {what}: at most {limit}")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// A key, topic or message of a size that is not allowed.
    #[error("{what} of {length} bytes; allowed are 1 to {limit}")]
    Size {
        /// What has the wrong size.
        what: &'static str,
        /// Its size in bytes.
        length: usize,
        /// The largest allowed.
        limit: usize,
    },
    /// Nobody to send to.
    #[error("no connected peer follows {topic}; connect to more peers or wait for them")]
    NoListeners {
        /// The topic.
        topic: String,
    },
    /// This very message was published before.
    #[error("the same message was already published")]
    Duplicate,
    /// The lookup did not end in time.
    #[error("the lookup took longer than {after:?}")]
    Timeout {
        /// The limit.
        after: Duration,
    },
    /// Something libp2p reports that has no other place here.
    #[error("{0}")]
    Other(String),
    /// The swarm was shut down.
    #[error("the network is shut down")]
    Closed,
}

/// The innermost cause of an error; libp2p nests several layers that say nothing.
pub(super) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
