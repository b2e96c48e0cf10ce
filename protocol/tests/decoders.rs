//! Every decoder against bytes that nobody meant: random ones, and real ones with damage.
//!
//! Bounded, so that each run of the tests includes it; `tests/tests/fuzz.rs` does the
//! same for as long as one likes. A decoder may refuse; it may not panic, hang, or
//! give a value that does not survive its own encoding.

mod samples;

use proptest::prelude::*;
use proptest::sample::Index;
use protocol::codec::{self, Extension};
use protocol::crypto::{Crypto, read_bolt11, verify_lightning_message};
use protocol::ids::{LightningId, Signature};
use protocol::time::WallTime;
use protocol::wire::bundle::Verdict;
use protocol::wire::envelope::{Body, Envelope, Network, Signed};
use protocol::wire::mandate::{Mandate, Revocation};
use protocol::wire::manifest::Manifest;
use protocol::wire::order::{Countersigned, Frame, Invoice, Order, Paid, Receipt, Terms};
use protocol::wire::quote::{HostQuote, QuoteRequest, RouterOffer};

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

/// The body of a sample, with other extension records at its end than it has.
fn with_records<T: Body>(signed: &Signed, records: &[Extension], around: &[Extension]) -> Signed {
    let envelope: Envelope = codec::decode(&signed.bytes, 1 << 20).expect("our own");
    let own = codec::encode(&samples::extensions());
    let start = envelope.body.strip_suffix(own.as_slice());
    let start = start.expect("every sample body ends in its extensions");
    let body = [start, &codec::encode(&records.to_vec())].concat();
    let body: T = codec::decode(&body, 1 << 20).expect("a body with other records");
    let sealed = Signed::seal(
        &samples::buyer(),
        Network::Regtest,
        None,
        WallTime(1),
        [1; 16],
        &body,
    );
    let mut outer: Envelope = codec::decode(&sealed.bytes, 1 << 20).expect("just made");
    outer.extensions = around.to_vec();
    let bytes = codec::encode(&outer);
    let hash = protocol::crypto::tagged_hash("freehold/envelope/1", &[&bytes]);
    let signature = samples::buyer().sign(&hash.0);
    Signed { bytes, signature }
}

fn records_are_bounded<T: Body>(name: &str, signed: &Signed) {
    let record = |kind, bytes| Extension {
        kind,
        value: vec![0; bytes],
    };
    let opens = |records: &[Extension], around: &[Extension]| {
        let signed = with_records::<T>(signed, records, around);
        signed
            .open_public::<T>(&samples::buyer(), Network::Regtest)
            .is_ok()
    };
    assert!(opens(&[record(7, 1)], &[]), "{name}: odd");
    assert!(!opens(&[record(8, 1)], &[]), "{name}: even");
    assert!(
        !opens(&[], &[record(8, 1)]),
        "{name}: even, around the body"
    );
    // A sample's job has three bytes of its own.
    let most = protocol::limits::MAX_EXTENSION_BYTES - 3;
    assert!(
        opens(&[record(7, most - 96)], &[record(9, 96)]),
        "{name}: all that fits"
    );
    assert!(
        !opens(&[record(7, most)], &[record(9, 4)]),
        "{name}: too much in all"
    );
    assert!(
        opens(&vec![record(7, 0); 32], &[]),
        "{name}: as many as fit"
    );
    assert!(!opens(&vec![record(7, 0); 33], &[]), "{name}: too many");
}

#[test]
fn a_record_of_a_body_that_must_be_understood_or_is_too_large_is_refused() {
    for (name, signed, _) in samples::signed() {
        match name {
            "signed-order" => records_are_bounded::<Order>(name, &signed),
            "signed-terms" => records_are_bounded::<Terms>(name, &signed),
            "signed-invoice" => records_are_bounded::<Invoice>(name, &signed),
            "signed-paid" => records_are_bounded::<Paid>(name, &signed),
            "signed-receipt" => records_are_bounded::<Receipt>(name, &signed),
            "signed-countersigned" => records_are_bounded::<Countersigned>(name, &signed),
            "signed-verdict" => records_are_bounded::<Verdict>(name, &signed),
            "signed-quote-request" => records_are_bounded::<QuoteRequest>(name, &signed),
            "signed-host-quote" => records_are_bounded::<HostQuote>(name, &signed),
            "signed-router-offer" => records_are_bounded::<RouterOffer>(name, &signed),
            "signed-mandate" => records_are_bounded::<Mandate>(name, &signed),
            "signed-revocation" => records_are_bounded::<Revocation>(name, &signed),
            "signed-manifest" => records_are_bounded::<Manifest>(name, &signed),
            other => panic!("{other} is not looked at"),
        }
    }
}

#[test]
fn a_record_of_a_job_a_chunk_or_a_listing_is_held_to_the_same() {
    let bad = [
        vec![Extension {
            kind: 2,
            value: Vec::new(),
        }],
        vec![Extension {
            kind: 1,
            value: vec![0; 4_097],
        }],
        vec![
            Extension {
                kind: 1,
                value: Vec::new()
            };
            33
        ],
    ];
    for (at, extensions) in bad.into_iter().enumerate() {
        let mut order = samples::order(samples::chat());
        assert!(opens(&order), "as it is");
        order.job.extensions = extensions.clone();
        assert!(!opens(&order), "job {at}");
        let mut chunk = samples::chunk();
        assert!(Frame::decode(&Frame::Chunk(chunk.clone()).encode()).is_ok());
        chunk.extensions = extensions.clone();
        assert!(
            Frame::decode(&Frame::Chunk(chunk).encode()).is_err(),
            "chunk {at}"
        );
        let mut manifest = samples::manifest();
        let (node, now) = (manifest.node, manifest.created);
        assert_eq!(manifest.check(&node, now), Ok(()));
        manifest.extensions = extensions;
        assert!(manifest.check(&node, now).is_err(), "listing {at}");
    }
}

fn opens(order: &Order) -> bool {
    let buyer = samples::buyer();
    let signed = Signed::seal(&buyer, Network::Regtest, None, WallTime(1), [1; 16], order);
    signed
        .open_public::<Order>(&buyer, Network::Regtest)
        .is_ok()
}
