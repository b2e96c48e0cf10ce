//! Signing, verifying, reading invoices and hashing, behind one injected trait.
//!
//! Not key management. [`Secp`] is the real scheme; the simulator may inject a
//! cheap one for large runs. All of it is pure: same input, same output.

use crate::ids::{Digest, LightningId, NodeKey, PaymentHash, Signature};
use crate::money::Msat;
use crate::time::WallTime;
use secp256k1::{Keypair, Message, Secp256k1, XOnlyPublicKey};
use serde::{Deserialize, Serialize};

pub mod lightning;
#[cfg(test)]
pub(crate) mod testing;

pub use lightning::verify_lightning_message;

/// What a BOLT 11 invoice says, read and signature-checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoiceFacts {
    /// The node that will be paid.
    pub payee: LightningId,
    /// Hash of the preimage that proves the payment.
    pub hash: PaymentHash,
    /// Amount; `None` for an invoice that leaves it open.
    pub msat: Option<Msat>,
    /// SHA-256 description hash, where the invoice carries one.
    pub description_hash: Option<[u8; 32]>,
    /// When it expires.
    pub expires: WallTime,
}

/// Why an invoice could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid BOLT 11 invoice: {reason}")]
pub struct InvoiceError {
    /// What the parser said.
    pub reason: String,
}

/// The node's own signer and everybody's verifier.
pub trait Crypto: Send {
    /// The key that [`Crypto::sign`] signs with.
    fn key(&self) -> NodeKey;
    /// Signs a 32-byte tagged hash (BIP340).
    fn sign(&self, message: &[u8; 32]) -> Signature;
    /// Returns whether `signature` over `message` is by `key`.
    fn verify(&self, key: &NodeKey, message: &[u8; 32], signature: &Signature) -> bool;
    /// Reads a BOLT 11 invoice.
    ///
    /// # Errors
    /// When it does not parse or its signature is wrong.
    fn read_invoice(&self, bolt11: &str) -> Result<InvoiceFacts, InvoiceError>;
    /// Returns whether a Lightning node signed `message`; a simulator may override it.
    fn verify_lightning(&self, key: &LightningId, message: &str, signature: &str) -> bool {
        verify_lightning_message(key, message, signature)
    }
}

impl std::fmt::Debug for dyn Crypto {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "signer of {}", self.key().short())
    }
}

/// The keys that a buyer signs orders with: never its node key, and no two hosts see
/// the same one, so that they cannot compare notes about a buyer.
pub trait OrderKeys: Send {
    /// Returns the signer of an order. The same `host` gives the same key again, since
    /// credit windows are kept per key, unless the order is to stand alone (`once`, its salt).
    fn signer(&self, host: &NodeKey, once: Option<&[u8; 16]>) -> Box<dyn Crypto>;
}

/// Order keys derived from one secret: the tagged hash of secret, host and, for an
/// order that stands alone, its salt.
pub struct DerivedOrderKeys {
    secret: [u8; 32],
    make: fn(&[u8; 32]) -> Option<Box<dyn Crypto>>,
}

impl DerivedOrderKeys {
    /// Makes the keys of the real scheme.
    pub fn new(secret: [u8; 32]) -> Self {
        Self::with(secret, |secret| {
            Secp::from_secret(secret).map(|signer| Box::new(signer) as Box<dyn Crypto>)
        })
    }

    /// Makes keys of another scheme: `make` turns a derived secret into a signer.
    pub fn with(secret: [u8; 32], make: fn(&[u8; 32]) -> Option<Box<dyn Crypto>>) -> Self {
        DerivedOrderKeys { secret, make }
    }
}

impl OrderKeys for DerivedOrderKeys {
    fn signer(&self, host: &NodeKey, once: Option<&[u8; 16]>) -> Box<dyn Crypto> {
        let order = once.map_or(&[][..], |salt| &salt[..]);
        let tag = "freehold/order-key-of-host/1";
        let mut secret = tagged_hash(tag, &[&self.secret, &host.0, order]).0;
        loop {
            // A hash is no usable secret once in 2^128.
            match (self.make)(&secret) {
                Some(signer) => return signer,
                None => secret = tagged_hash(tag, &[&secret]).0,
            }
        }
    }
}

/// The real scheme: BIP340 over secp256k1, BOLT 11 through `lightning-invoice`.
pub struct Secp {
    keypair: Keypair,
    key: NodeKey,
}

impl Secp {
    /// Makes a signer from a 32-byte secret; `None` if it is zero or not below the group order.
    pub fn from_secret(secret: &[u8; 32]) -> Option<Self> {
        let secp = Secp256k1::new();
        let keypair = Keypair::from_seckey_slice(&secp, secret).ok()?;
        let key = NodeKey(keypair.x_only_public_key().0.serialize());
        Some(Secp { keypair, key })
    }
}

impl Crypto for Secp {
    fn key(&self) -> NodeKey {
        self.key
    }

    fn sign(&self, message: &[u8; 32]) -> Signature {
        // Deterministic (no auxiliary randomness), so that a replayed run signs the same bytes.
        let signature = secp256k1::SECP256K1
            .sign_schnorr_no_aux_rand(&Message::from_digest(*message), &self.keypair);
        Signature(signature.serialize())
    }

    fn verify(&self, key: &NodeKey, message: &[u8; 32], signature: &Signature) -> bool {
        verify_bip340(key, message, signature)
    }

    fn read_invoice(&self, bolt11: &str) -> Result<InvoiceFacts, InvoiceError> {
        read_bolt11(bolt11)
    }
}

/// Returns whether `signature` is a BIP340 signature by `key` over `message`.
pub fn verify_bip340(key: &NodeKey, message: &[u8; 32], signature: &Signature) -> bool {
    let Ok(key) = XOnlyPublicKey::from_slice(&key.0) else {
        return false;
    };
    let Ok(signature) = secp256k1::schnorr::Signature::from_slice(&signature.0) else {
        return false;
    };
    secp256k1::SECP256K1
        .verify_schnorr(&signature, &Message::from_digest(*message), &key)
        .is_ok()
}

/// Reads a BOLT 11 invoice and checks its signature.
///
/// # Errors
/// When it does not parse, is signed wrongly or has no usable amount or expiry.
pub fn read_bolt11(bolt11: &str) -> Result<InvoiceFacts, InvoiceError> {
    use lightning_invoice::{Bolt11Invoice, Bolt11InvoiceDescriptionRef};
    if bolt11.len() > crate::limits::MAX_BOLT11_BYTES {
        return Err(InvoiceError {
            reason: format!("longer than {} bytes", crate::limits::MAX_BOLT11_BYTES),
        });
    }
    let invoice: Bolt11Invoice = bolt11.parse().map_err(|error| InvoiceError {
        reason: format!("{error}"),
    })?;
    let description_hash = match invoice.description() {
        Bolt11InvoiceDescriptionRef::Hash(hash) => {
            let bytes: &[u8] = hash.0.as_ref();
            <[u8; 32]>::try_from(bytes).ok()
        }
        Bolt11InvoiceDescriptionRef::Direct(_) => None,
    };
    let hash: &[u8] = invoice.payment_hash().as_ref();
    let hash = <[u8; 32]>::try_from(hash).map_err(|_| InvoiceError {
        reason: "payment hash is not 32 bytes".to_owned(),
    })?;
    let expires = invoice
        .expires_at()
        .and_then(|time| u64::try_from(time.as_millis()).ok())
        .ok_or_else(|| InvoiceError {
            reason: "expiry is out of range".to_owned(),
        })?;
    let payee = invoice
        .payee_pub_key()
        .map_or_else(|| invoice.recover_payee_pub_key(), |key| *key);
    Ok(InvoiceFacts {
        payee: LightningId(payee.serialize()),
        hash: PaymentHash(hash),
        msat: invoice.amount_milli_satoshis().map(Msat),
        description_hash,
        expires: WallTime(expires),
    })
}

/// Hashes `parts` under a domain tag: BLAKE3 in key-derivation mode, each part
/// preceded by its length, so that no two different lists hash alike.
pub fn tagged_hash(tag: &'static str, parts: &[&[u8]]) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key(tag);
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    Digest(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_verifies_only_for_its_key_and_message() {
        let alice = Secp::from_secret(&[1; 32]).unwrap();
        let bob = Secp::from_secret(&[2; 32]).unwrap();
        let signature = alice.sign(&[9; 32]);
        assert!(bob.verify(&alice.key(), &[9; 32], &signature));
        assert!(!bob.verify(&bob.key(), &[9; 32], &signature));
        assert!(!bob.verify(&alice.key(), &[8; 32], &signature));
    }

    #[test]
    fn a_host_sees_one_order_key_no_two_hosts_the_same_and_an_order_alone_has_its_own() {
        let keys = DerivedOrderKeys::new([7; 32]);
        let (one, two) = (NodeKey([1; 32]), NodeKey([2; 32]));
        assert_eq!(keys.signer(&one, None).key(), keys.signer(&one, None).key());
        assert_ne!(keys.signer(&one, None).key(), keys.signer(&two, None).key());
        let (first, second) = ([1; 16], [2; 16]);
        let alone = keys.signer(&one, Some(&first)).key();
        assert_ne!(alone, keys.signer(&one, None).key());
        assert_ne!(alone, keys.signer(&one, Some(&second)).key());
        let other = DerivedOrderKeys::new([8; 32]);
        assert_ne!(
            other.signer(&one, None).key(),
            keys.signer(&one, None).key()
        );
    }

    #[test]
    fn parts_cannot_be_shifted_across_their_border() {
        assert_ne!(
            tagged_hash("t", &[b"ab", b"c"]),
            tagged_hash("t", &[b"a", b"bc"])
        );
    }

    #[test]
    fn nonsense_is_not_an_invoice() {
        assert!(read_bolt11("lnbcrt1nonsense").is_err());
        assert!(read_bolt11(&"l".repeat(100_000)).is_err());
    }

    #[test]
    fn the_example_invoice_of_bolt_11_reads_back() {
        // BOLT 11, "Please make a donation of any amount".
        let text = "lnbc1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdpl2pkx2ctnv5sxxmmwwd5kgetjypeh2ursdae8g6twvus8g6rfwvs8qun0dfjkxaq9qrsgq357wnc5r2ueh7ck6q93dj32dlqnls087fxdwk8qakdyafkq3yap9us6v52vjjsrvywa6rt52cm9r9zqt8r2t7mlcwspyetp5h2tztugp9lfyql";
        let facts = read_bolt11(text).unwrap();
        assert_eq!(facts.msat, None);
        assert_eq!(
            facts.hash.to_string(),
            "0001020304050607080900010203040506070809000102030405060708090102"
        );
    }
}
