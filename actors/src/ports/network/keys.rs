//! Node keys as libp2p identities, and back.
//!
//! A serving node's peer id *is* its node key: the libp2p key is the node's
//! secret normalised to even y, so that the compressed public key is `02` and
//! the x-only key (BIP340), and a peer that completes the Noise handshake has
//! proved the key that signed its listing. Short keys are inlined in peer ids,
//! so the map works both ways without a lookup.
//!
//! Keeps no secret beyond the identity handed to the swarm and derives none.

use libp2p::PeerId;
use libp2p::identity::{self, Keypair};
use libp2p::multihash::Multihash;
use protocol::ids::NodeKey;
use secp256k1::{Parity, SECP256K1};

/// First byte of a compressed public key with even y (SEC1).
const EVEN_Y: u8 = 0x02;
/// The multihash code of "the digest is the data itself".
const IDENTITY_HASH: u64 = 0;

/// A key that is no point of the curve, or a secret out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The secret is zero or not below the order of the curve.
    #[error("the secret key is not a number between 1 and the order of secp256k1")]
    Secret,
    /// The x-only key is no x coordinate of the curve.
    #[error("{0} is not an x-only public key of secp256k1")]
    Public(NodeKey),
}

/// Who a swarm is to its peers.
#[derive(Clone)]
pub struct Identity(Keypair);

impl Identity {
    /// The identity of a serving node, from its secret node key (big-endian).
    pub fn from_secret(secret: [u8; 32]) -> Result<Self, KeyError> {
        let secret = secp256k1::SecretKey::from_slice(&secret).map_err(|_| KeyError::Secret)?;
        let even = match secret.x_only_public_key(SECP256K1).1 {
            Parity::Even => secret,
            Parity::Odd => secret.negate(),
        };
        // Wipes the bytes it is given.
        let secret = identity::secp256k1::SecretKey::try_from_bytes(even.secret_bytes())
            .map_err(|_| KeyError::Secret)?;
        Ok(Self(identity::secp256k1::Keypair::from(secret).into()))
    }

    /// A fresh identity that says nothing about its owner: for buyers.
    pub fn ephemeral() -> Self {
        Self(Keypair::generate_ed25519())
    }

    /// The peer id of this identity.
    pub fn peer_id(&self) -> PeerId {
        self.0.public().to_peer_id()
    }

    /// The node key of this identity; `None` for an ephemeral one.
    pub fn node_key(&self) -> Option<NodeKey> {
        node_key_of(&self.peer_id())
    }

    pub(super) fn keypair(&self) -> &Keypair {
        &self.0
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.peer_id())
    }
}

/// The peer id under which the owner of `key` serves.
pub fn peer_id_of(key: &NodeKey) -> Result<PeerId, KeyError> {
    let mut compressed = [EVEN_Y; 33];
    compressed[1..].copy_from_slice(key.as_bytes());
    let public = identity::secp256k1::PublicKey::try_from_bytes(&compressed)
        .map_err(|_| KeyError::Public(*key))?;
    Ok(identity::PublicKey::from(public).to_peer_id())
}

/// The node key that `peer` proved, if its identity is one (secp256k1, even y).
pub fn node_key_of(peer: &PeerId) -> Option<NodeKey> {
    let hash: &Multihash<64> = peer.as_ref();
    if hash.code() != IDENTITY_HASH {
        return None;
    }
    let public = identity::PublicKey::try_decode_protobuf(hash.digest()).ok()?;
    let compressed = public.try_into_secp256k1().ok()?.to_bytes();
    match compressed.split_first() {
        Some((&EVEN_Y, x)) => Some(NodeKey(x.try_into().ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn x_only(secret: [u8; 32]) -> NodeKey {
        let secret = secp256k1::SecretKey::from_slice(&secret).unwrap();
        NodeKey(secret.x_only_public_key(SECP256K1).0.serialize())
    }

    proptest! {
        #[test]
        fn a_node_key_and_its_peer_id_name_each_other(secret in any::<[u8; 32]>()) {
            prop_assume!(secp256k1::SecretKey::from_slice(&secret).is_ok());
            let identity = Identity::from_secret(secret).unwrap();
            let key = x_only(secret);
            prop_assert_eq!(identity.node_key(), Some(key));
            prop_assert_eq!(peer_id_of(&key).unwrap(), identity.peer_id());
            prop_assert_eq!(node_key_of(&identity.peer_id()), Some(key));
        }
    }

    #[test]
    fn an_ephemeral_identity_and_an_odd_key_have_no_node_key() {
        assert_eq!(Identity::ephemeral().node_key(), None);
        let odd = loop {
            let pair = identity::secp256k1::Keypair::generate();
            if pair.public().to_bytes()[0] != EVEN_Y {
                break identity::PublicKey::from(pair.public().clone());
            }
        };
        assert_eq!(node_key_of(&odd.to_peer_id()), None);
    }

    #[test]
    fn bad_keys_are_errors() {
        assert_eq!(
            Identity::from_secret([0; 32]).unwrap_err(),
            KeyError::Secret
        );
        assert_eq!(
            Identity::from_secret([0xff; 32]).unwrap_err(),
            KeyError::Secret
        );
        let none = NodeKey([0xff; 32]);
        assert_eq!(peer_id_of(&none).unwrap_err(), KeyError::Public(none));
    }
}
