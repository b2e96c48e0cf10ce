//! A signer for tests: real signatures, and an invoice is its facts as JSON.

use super::{Crypto, DerivedOrderKeys, InvoiceError, InvoiceFacts, Secp};
use crate::ids::{NodeKey, Signature};

/// Signs and verifies with BIP340; reads JSON in place of BOLT 11.
pub struct TestSigner(pub Secp);

/// The order keys that come of `seed`, as [`TestSigner`]s.
pub fn order_keys(seed: [u8; 32]) -> DerivedOrderKeys {
    DerivedOrderKeys::with(seed, |secret| {
        Secp::from_secret(secret).map(|key| Box::new(TestSigner(key)) as Box<dyn Crypto>)
    })
}

impl Crypto for TestSigner {
    fn key(&self) -> NodeKey {
        self.0.key()
    }
    fn sign(&self, message: &[u8; 32]) -> Signature {
        self.0.sign(message)
    }
    fn verify(&self, key: &NodeKey, message: &[u8; 32], signature: &Signature) -> bool {
        self.0.verify(key, message, signature)
    }
    fn read_invoice(&self, bolt11: &str) -> Result<InvoiceFacts, InvoiceError> {
        serde_json::from_str(bolt11).map_err(|error| InvoiceError {
            reason: error.to_string(),
        })
    }
}
