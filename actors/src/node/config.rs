//! What a node needs to start, and why it does not.

use crate::keys::NodeKeys;
use crate::ports::blob::Cache;
use crate::ports::network::{self, Multiaddr};
use protocol::message::inference::Served;
use protocol::route::Configs;
use protocol::wire::envelope::Network;
use protocol::wire::manifest::Role;

/// Everything a node needs to start.
pub struct NodeConfig {
    /// The network that money moves on.
    pub network: Network,
    /// Its secrets.
    pub keys: NodeKeys,
    /// Roles that were chosen.
    pub roles: Vec<Role>,
    /// Where the serving swarm listens (multiaddrs); unused by a pure client.
    pub listen: Vec<Multiaddr>,
    /// Addresses to announce in place of the listening ones.
    pub announce: Vec<Multiaddr>,
    /// Peers to begin with.
    pub bootstrap: Vec<Multiaddr>,
    /// Nostr relays.
    pub relays: Vec<String>,
    /// Models that are sold.
    pub serve: Vec<Served>,
    /// Least invoice.
    pub quantum: protocol::money::Msat,
    /// Coarse hardware bands for the listing.
    pub bands: Vec<String>,
    /// What may be set of each machine.
    pub machines: Configs,
    /// Where vocabularies of models that are bought from others are kept.
    pub vocabularies: Cache,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A key is unusable.
    #[error("the node's keys are unusable: make new ones with `freehold init`")]
    Keys,
    /// The swarm does not start.
    #[error("the network does not start")]
    Network(#[from] network::StartError),
    /// The relays cannot be used.
    #[error("the relays cannot be used")]
    Relay(#[from] crate::ports::relay::RelayError),
    /// Stored records cannot be read.
    #[error(transparent)]
    Storage(#[from] crate::ports::storage::StorageError),
    /// The actors' threads do not start.
    #[error("the actors do not start: {reason}")]
    Actors {
        /// What the system said.
        reason: String,
    },
    /// The node did not answer.
    #[error("the node did not answer in time: look at its log")]
    Silent,
}
