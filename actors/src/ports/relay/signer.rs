//! Who signs events: an injected signer, since a key may live elsewhere (NIP-46).
//!
//! Not key storage and not key derivation. Used by `listing` to sign listings and
//! by `session` to answer a relay's AUTH challenge (NIP-42).

use nostr::event::{Event, Signature, UnsignedEvent};
use nostr::key::PublicKey;
use protocol::ids::NodeKey;
use secp256k1::{Keypair, Message, SECP256K1, SecretKey};
use std::fmt;

/// Signs Nostr events with one key. Called from async threads: must not block long.
pub trait EventSigner: Send + Sync {
    /// Returns the x-only public key that the signatures belong to.
    fn author(&self) -> NodeKey;

    /// Returns the BIP340 signature over `event_id`, the SHA-256 of NIP-01.
    fn sign(&self, event_id: &[u8; 32]) -> [u8; 64];
}

/// Signs with a secret held in memory.
#[derive(Clone)]
pub struct SecretSigner(Keypair);

impl SecretSigner {
    /// Takes a secp256k1 secret; `None` if it is zero or not below the group order.
    pub fn from_secret(secret: &[u8; 32]) -> Option<Self> {
        let secret = SecretKey::from_slice(secret).ok()?;
        Some(Self(Keypair::from_secret_key(SECP256K1, &secret)))
    }

    /// Draws a fresh key, for a client that nobody needs to recognise.
    pub fn random() -> Self {
        Self(Keypair::new(SECP256K1, &mut secp256k1::rand::thread_rng()))
    }
}

impl EventSigner for SecretSigner {
    fn author(&self) -> NodeKey {
        NodeKey(self.0.x_only_public_key().0.serialize())
    }

    fn sign(&self, event_id: &[u8; 32]) -> [u8; 64] {
        // Fresh auxiliary randomness, as BIP340 recommends against side channels.
        let message = Message::from_digest(*event_id);
        *SECP256K1
            .sign_schnorr_with_rng(&message, &self.0, &mut secp256k1::rand::thread_rng())
            .as_ref()
    }
}

impl fmt::Debug for SecretSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretSigner({})", self.author())
    }
}

/// The signer returned a signature that does not belong to its own key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signer's signature does not verify with its own key; check which key it holds")]
pub struct BadSigner;

/// Signs `unsigned` and checks the result, so that nothing unverifiable is published.
pub fn sign_event(unsigned: UnsignedEvent, signer: &dyn EventSigner) -> Result<Event, BadSigner> {
    let id = unsigned.compute_id();
    let signature = Signature::from_byte_array(signer.sign(id.as_bytes()));
    let event = unsigned.add_signature(signature).map_err(|_| BadSigner)?;
    event.verify().map_err(|_| BadSigner)?;
    Ok(event)
}

/// Returns the signer's key in Nostr's own type.
pub fn public_key(signer: &dyn EventSigner) -> Result<PublicKey, BadSigner> {
    PublicKey::from_slice(signer.author().as_bytes()).map_err(|_| BadSigner)
}
