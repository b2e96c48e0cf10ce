//! One mnemonic, one key per purpose.
//!
//! The node key follows NIP-06 with account 1' (the person's own key at 0' is
//! never touched); the Lightning seed and the secret of the order keys are derived by HKDF with
//! a label each, so that no two purposes share a secret.

use bip39::Mnemonic;
use bitcoin::bip32::{DerivationPath, Xpriv};
use hkdf::Hkdf;
use sha2::Sha256;

/// NIP-06, account 1'.
const NODE_PATH: &str = "m/44'/1237'/1'/0/0";

/// Why a mnemonic gives no keys.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeyError {
    /// Words or checksum are wrong.
    #[error(
        "this is not a BIP39 mnemonic ({reason}): write the words exactly as `freehold init` printed them"
    )]
    Mnemonic {
        /// What the parser said.
        reason: String,
    },
    /// The derived secret is outside the curve's order (one in 2^128).
    #[error("this mnemonic gives no usable key: make another with `freehold init`")]
    Unusable,
}

/// The secrets of a node.
#[derive(Clone)]
pub struct NodeKeys {
    /// Nostr, libp2p, envelopes of a serving node.
    pub node: [u8; 32],
    /// Gives the keys that sign orders: never the node key, so that a buyer is not a
    /// public person.
    pub order: [u8; 32],
    /// Lightning and on-chain coins.
    pub lightning: [u8; 64],
}

impl NodeKeys {
    /// Derives every key from the words.
    ///
    /// # Errors
    /// When the words are no mnemonic.
    pub fn from_words(words: &str) -> Result<Self, KeyError> {
        let mnemonic =
            Mnemonic::parse_normalized(words.trim()).map_err(|error| KeyError::Mnemonic {
                reason: error.to_string(),
            })?;
        let seed = mnemonic.to_seed_normalized("");
        let secp = bitcoin::secp256k1::Secp256k1::new();
        let master =
            Xpriv::new_master(bitcoin::NetworkKind::Main, &seed).map_err(|_| KeyError::Unusable)?;
        let path: DerivationPath = NODE_PATH.parse().map_err(|_| KeyError::Unusable)?;
        let node = master
            .derive_priv(&secp, &path)
            .map_err(|_| KeyError::Unusable)?;
        let hkdf = Hkdf::<Sha256>::new(None, &seed);
        let (mut order, mut lightning) = ([0; 32], [0; 64]);
        hkdf.expand(b"freehold/order-key/1", &mut order)
            .map_err(|_| KeyError::Unusable)?;
        hkdf.expand(b"freehold/lightning-seed/1", &mut lightning)
            .map_err(|_| KeyError::Unusable)?;
        Ok(NodeKeys {
            node: node.private_key.secret_bytes(),
            order,
            lightning,
        })
    }

    /// Draws new words (12, 128 bits of entropy).
    pub fn fresh_words() -> String {
        let mut entropy = [0u8; 16];
        rand::RngCore::fill_bytes(&mut rand::rngs::OsRng, &mut entropy);
        // 16 bytes are always a valid entropy length.
        Mnemonic::from_entropy(&entropy)
            .map(|mnemonic| mnemonic.to_string())
            .unwrap_or_default()
    }
}

impl std::fmt::Debug for NodeKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeKeys(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_key_is_nip_06_at_account_one() {
        // Mnemonic of NIP-06's first test vector; its account 0' gives 7f7ff03d…
        let words =
            "leader monkey parrot ring guide accident before fence cannon height naive bean";
        let keys = NodeKeys::from_words(words).unwrap();
        let seed = Mnemonic::parse_normalized(words)
            .unwrap()
            .to_seed_normalized("");
        let secp = bitcoin::secp256k1::Secp256k1::new();
        let master = Xpriv::new_master(bitcoin::NetworkKind::Main, &seed).unwrap();
        let at = |path: &str| {
            master
                .derive_priv(&secp, &path.parse::<DerivationPath>().unwrap())
                .unwrap()
                .private_key
        };
        assert_eq!(
            hex::encode(at("m/44'/1237'/0'/0/0").secret_bytes()),
            "7f7ff03d123792d6ac594bfa67bf6d0c0ab55b6b1fdb6249303fe861f1ccba9a"
        );
        assert_eq!(keys.node, at(NODE_PATH).secret_bytes());
        assert_ne!(keys.node, keys.order);
    }

    #[test]
    fn fresh_words_are_a_mnemonic_and_nonsense_is_refused_with_the_fix() {
        assert!(NodeKeys::from_words(&NodeKeys::fresh_words()).is_ok());
        let error = NodeKeys::from_words("one two three").unwrap_err();
        assert!(error.to_string().contains("freehold init"));
    }
}
