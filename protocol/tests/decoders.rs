//! Every decoder against bytes that nobody meant: random ones, and real ones with damage.
//!
//! Bounded, so that each run of the tests includes it; `tests/tests/fuzz.rs` does the
//! same for as long as one likes. A decoder may refuse; it may not panic, hang, or
//! give a value that does not survive its own encoding.

mod samples;

use proptest::prelude::*;
use proptest::sample::Index;
use protocol::crypto::{read_bolt11, verify_lightning_message};
use protocol::envelope::{Network, Signed};
use protocol::ids::{LightningId, Signature};
use protocol::manifest::Manifest;
use protocol::order::wire::{Order, Receipt};
use protocol::time::WallTime;

fn survives(decode: fn(&[u8]) -> Option<Vec<u8>>, bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Some(canonical) = decode(bytes) {
        prop_assert_eq!(decode(&canonical), Some(canonical));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_bytes_are_refused_or_decode_to_something_that_encodes(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        for sample in samples::wire() {
            survives(sample.decode, &bytes)?;
        }
    }

    #[test]
    fn damaged_messages_are_refused_or_decode_to_something_that_encodes(
        damage in prop::collection::vec((any::<Index>(), any::<u8>()), 1..6),
        cut in any::<Index>(),
        shorten in any::<bool>(),
    ) {
        for sample in samples::wire() {
            let mut bytes = sample.bytes.clone();
            for (at, byte) in &damage {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            if shorten {
                bytes.truncate(cut.index(bytes.len()));
            }
            survives(sample.decode, &bytes)?;
        }
    }

    #[test]
    fn a_damaged_envelope_never_opens(at in any::<Index>(), flip in 1u8..=255) {
        let buyer = samples::buyer();
        for (name, mut signed, _) in samples::signed() {
            let at = at.index(signed.bytes.len());
            signed.bytes[at] ^= flip;
            let order = signed.open_public::<Order>(&buyer, Network::Regtest);
            let receipt = signed.open_public::<Receipt>(&buyer, Network::Regtest);
            prop_assert!(order.is_err() && receipt.is_err(), "{name}");
        }
    }

    #[test]
    fn an_envelope_of_random_bytes_never_opens(
        bytes in prop::collection::vec(any::<u8>(), 0..400), signature in any::<[u8; 32]>(),
    ) {
        let mut both = [0; 64];
        both[..32].copy_from_slice(&signature);
        both[32..].copy_from_slice(&signature);
        let signed = Signed { bytes, signature: Signature(both) };
        let buyer = samples::buyer();
        prop_assert!(signed.open_public::<Order>(&buyer, Network::Regtest).is_err());
    }

    #[test]
    fn damaged_manifest_json_is_refused_or_checked(
        at in any::<Index>(), with in "[ -~]{0,8}", length in 0usize..8,
    ) {
        let text = serde_json::to_string(&samples::manifest()).expect("a manifest is JSON");
        let from = at.index(text.len());
        let to = (from + length).min(text.len());
        let damaged = format!("{}{with}{}", &text[..from], &text[to..]);
        if let Ok(manifest) = serde_json::from_str::<Manifest>(&damaged) {
            let _ = manifest.check(&manifest.node, WallTime(1_767_225_600_000));
        }
    }

    #[test]
    fn no_text_panics_the_readers_of_invoices_and_lightning_signatures(text in "\\PC{0,120}") {
        let _ = read_bolt11(&text);
        let _ = read_bolt11(&format!("lnbcrt{text}"));
        let key = LightningId([2; 33]);
        prop_assert!(!verify_lightning_message(&key, "freehold", &text));
    }
}
