//! Messages signed by a Lightning node, as lnd, Core Lightning and LDK sign them.
//!
//! Not a BOLT: the scheme is lnd's `signmessage`. zbase32 of a recoverable ECDSA
//! signature over the double SHA-256 of a fixed prefix and the message. Only
//! verification lives here; the wallet signs.

use crate::ids::LightningId;
use secp256k1::Message;
use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use sha2::{Digest as _, Sha256};

const PREFIX: &[u8] = b"Lightning Signed Message:";
/// The human-oriented base-32 alphabet.
const ZBASE32: &[u8; 32] = b"ybndrfg8ejkmcpqxot1uwisza345h769";
/// One header byte and a compact signature.
const SIGNATURE_BYTES: usize = 65;
/// The header of recovery id 0 for a compressed key.
const HEADER: u8 = 31;

/// Returns whether `signature` (zbase32) over `message` was made by the Lightning node `key`.
pub fn verify_lightning_message(key: &LightningId, message: &str, signature: &str) -> bool {
    recover(message.as_bytes(), signature).is_some_and(|found| found == *key)
}

fn recover(message: &[u8], signature: &str) -> Option<LightningId> {
    let bytes = decode_zbase32(signature)?;
    let (header, compact) = bytes.split_first()?;
    let id = RecoveryId::from_i32(i32::from(header.checked_sub(HEADER)?)).ok()?;
    let signature = RecoverableSignature::from_compact(compact, id).ok()?;
    let hash = Sha256::digest(Sha256::digest([PREFIX, message].concat()));
    let message = Message::from_digest(hash.into());
    let key = secp256k1::SECP256K1
        .recover_ecdsa(&message, &signature)
        .ok()?;
    Some(LightningId(key.serialize()))
}

/// Decodes exactly one signature; 104 characters are 65 bytes without padding.
fn decode_zbase32(text: &str) -> Option<[u8; SIGNATURE_BYTES]> {
    if text.len() != SIGNATURE_BYTES * 8 / 5 {
        return None;
    }
    let mut out = [0u8; SIGNATURE_BYTES];
    let (mut buffer, mut bits, mut next) = (0u32, 0u32, 0usize);
    for symbol in text.bytes() {
        let value = ZBASE32
            .iter()
            .position(|letter| *letter == symbol.to_ascii_lowercase())?;
        buffer = (buffer << 5 | u32::try_from(value).ok()?) & 0xfff;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            *out.get_mut(next)? = (buffer >> bits & 0xff) as u8;
            next += 1;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// From Core Lightning's tests (tests/test_misc.py, test_signmessage).
    const VECTORS: [(&str, &str, &str); 3] = [
        (
            "is this compatible?",
            "rbgfioj114mh48d8egqx8o9qxqw4fmhe8jbeeabdioxnjk8z3t1ma1hu1fiswpakgucwwzwo6ofycffbsqusqdimugbh41n1g698hr9t",
            "02b80cabdf82638aac86948e4c06e82064f547768dcef977677b9ea931ea75bab5",
        ),
        (
            "hi",
            "rnrphcjswusbacjnmmmrynh9pqip7sy5cx695h6mfu64iac6qmcmsd8xnsyczwmpqp9shqkth3h4jmkgyqu5z47jfn1q7gpxtaqpx4xg",
            "02de60d194e1ca5947b59fe8e2efd6aadeabfb67f2e89e13ae1a799c1e08e4a43b",
        ),
        (
            "hi",
            "ry8bbsopmduhxy3dr5d9ekfeabdpimfx95kagdem7914wtca79jwamtbw4rxh69hg7n6x9ty8cqk33knbxaqftgxsfsaeprxkn1k48p3",
            "022b8ece90ee891cbcdac0c1cc6af46b73c47212d8defbce80265ac81a6b794931",
        ),
    ];

    #[test]
    fn signatures_of_other_lightning_nodes_verify() {
        for (message, signature, key) in VECTORS {
            let key = key.parse().unwrap();
            assert!(verify_lightning_message(&key, message, signature));
            assert!(!verify_lightning_message(&key, "hello", signature));
        }
        let other = VECTORS[1].2.parse().unwrap();
        assert!(!verify_lightning_message(
            &other,
            VECTORS[0].0,
            VECTORS[0].1
        ));
    }

    proptest! {
        #[test]
        fn no_text_panics_or_verifies(text in "[a-z0-9]{0,110}", bytes in any::<String>()) {
            let key = LightningId([2; 33]);
            prop_assert!(!verify_lightning_message(&key, "hi", &text));
            prop_assert!(!verify_lightning_message(&key, &bytes, &bytes));
        }
    }
}
