//! The injected scheme: cheap signatures for large runs, the real ones on request.
//!
//! Not security: anybody could forge the cheap signatures, and nobody in the
//! simulated world does. Invoices are text that only this world understands, in
//! either case: there is no Lightning network to parse for.

use protocol::crypto::{Crypto, InvoiceError, InvoiceFacts, Secp, tagged_hash};
use protocol::ids::{LightningId, NodeKey, Signature};

/// What every simulated invoice begins with.
const PREFIX: &str = "lnsim1";

/// A signer of the simulated world.
pub struct SimCrypto {
    key: NodeKey,
    real: Option<Secp>,
}

impl SimCrypto {
    /// Makes the signer of a secret; `real` signs and verifies BIP340.
    pub fn new(secret: &[u8; 32], real: bool) -> Self {
        let real = real.then(|| Secp::from_secret(secret)).flatten();
        let key = match &real {
            Some(secp) => secp.key(),
            None => NodeKey(tagged_hash("sim/key/1", &[secret]).0),
        };
        SimCrypto { key, real }
    }
}

fn cheap(key: &NodeKey, message: &[u8; 32]) -> Signature {
    let half = tagged_hash("sim/signature/1", &[&key.0, message]).0;
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(&half);
    bytes[32..].copy_from_slice(message);
    Signature(bytes)
}

impl Crypto for SimCrypto {
    fn key(&self) -> NodeKey {
        self.key
    }

    fn sign(&self, message: &[u8; 32]) -> Signature {
        match &self.real {
            Some(secp) => secp.sign(message),
            None => cheap(&self.key, message),
        }
    }

    fn verify(&self, key: &NodeKey, message: &[u8; 32], signature: &Signature) -> bool {
        match &self.real {
            Some(secp) => secp.verify(key, message, signature),
            None => *signature == cheap(key, message),
        }
    }

    fn read_invoice(&self, bolt11: &str) -> Result<InvoiceFacts, InvoiceError> {
        read_invoice(bolt11).ok_or_else(|| InvoiceError {
            reason: "not an invoice of the simulated world".to_owned(),
        })
    }

    fn verify_lightning(&self, key: &LightningId, message: &str, signature: &str) -> bool {
        *proof(key, message) == *signature
    }
}

/// The Lightning node of a wallet.
pub fn lightning_id(key: &NodeKey) -> LightningId {
    let mut bytes = [2; 33];
    bytes[1..].copy_from_slice(&key.0);
    LightningId(bytes)
}

/// What a simulated Lightning node signs.
pub fn lightning_proof(key: &LightningId, message: &str) -> String {
    proof(key, message).to_string()
}

fn proof(key: &LightningId, message: &str) -> impl std::ops::Deref<Target = str> {
    let digest = tagged_hash("sim/lightning/1", &[&key.0, message.as_bytes()]);
    blake3::Hash::from_bytes(digest.0).to_hex()
}

/// Writes an invoice.
pub fn write_invoice(facts: &InvoiceFacts) -> String {
    format!(
        "{PREFIX}{}",
        serde_json::to_string(facts).unwrap_or_default()
    )
}

/// Reads an invoice.
pub fn read_invoice(text: &str) -> Option<InvoiceFacts> {
    serde_json::from_str(text.strip_prefix(PREFIX)?).ok()
}
