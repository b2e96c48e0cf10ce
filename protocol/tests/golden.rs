//! Golden vectors: the canonical bytes of everything that nodes send, sign or hash.
//!
//! Not a test of behaviour. Any difference means that nodes of two versions no longer
//! understand each other, so a change here is a change of protocol. To write the
//! files anew after a deliberate one: `FREEHOLD_WRITE_GOLDEN=1 cargo test -p protocol
//! --test golden`, and say in DECISIONS.md why.

mod samples;

use protocol::codec;
use protocol::crypto::Crypto;
use protocol::ids::NodeKey;
use samples::Sample;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Compares `text` with the stored file, or stores it where that is asked for.
fn compare(name: &str, text: &str) {
    let path = folder().join(name);
    if std::env::var_os("FREEHOLD_WRITE_GOLDEN").is_some() {
        fs::write(&path, text).expect("the folder of golden vectors is writable");
    }
    let stored = fs::read_to_string(&path).unwrap_or_default();
    for (index, (now, then)) in text.lines().zip(stored.lines()).enumerate() {
        assert_eq!(now, then, "{name}, line {}", index + 1);
    }
    assert_eq!(
        text.lines().count(),
        stored.lines().count(),
        "{name} has other vectors than the code"
    );
}

#[test]
fn every_wire_type_encodes_to_the_bytes_on_file() {
    let mut text = String::new();
    for Sample { name, bytes, .. } in samples::wire() {
        writeln!(text, "{name} {}", hex::encode(bytes)).expect("a string takes text");
    }
    compare("wire.hex", &text);
}

#[test]
fn every_vector_decodes_and_encodes_to_itself() {
    for sample in samples::wire() {
        let again = (sample.decode)(&sample.bytes);
        assert_eq!(again.as_ref(), Some(&sample.bytes), "{}", sample.name);
    }
}

#[test]
fn every_shortened_or_lengthened_vector_is_refused() {
    for sample in samples::wire() {
        for length in 0..sample.bytes.len() {
            let cut = (sample.decode)(&sample.bytes[..length]);
            assert_eq!(cut, None, "{} cut to {length} bytes", sample.name);
        }
        let mut longer = sample.bytes.clone();
        longer.push(0);
        assert_eq!((sample.decode)(&longer), None, "{} and a byte", sample.name);
    }
}

#[test]
fn every_signed_vector_verifies_with_the_key_that_signed_it() {
    let buyer = samples::buyer();
    for (name, signed, from) in samples::signed() {
        let envelope: protocol::wire::envelope::Envelope =
            codec::decode(&signed.bytes, 1 << 20).expect("an envelope of ours decodes");
        assert_eq!(envelope.from, from, "{name}");
        let hash = protocol::crypto::tagged_hash("freehold/envelope/1", &[&signed.bytes]);
        assert!(buyer.verify(&from, &hash.0, &signed.signature), "{name}");
        let other = NodeKey([9; 32]);
        assert!(!buyer.verify(&other, &hash.0, &signed.signature), "{name}");
    }
}

#[test]
fn every_digest_and_hash_is_the_one_on_file() {
    let mut text = String::new();
    for (name, hash) in samples::hashes() {
        writeln!(text, "{name} {}", hex::encode(hash)).expect("a string takes text");
    }
    compare("hashes.hex", &text);
}

#[test]
fn a_manifest_in_a_listing_is_the_json_on_file() {
    let json = serde_json::to_string(&samples::manifest()).expect("a manifest is JSON");
    compare("manifest.json", &format!("{json}\n"));
    let back: protocol::wire::manifest::Manifest =
        serde_json::from_str(&json).expect("our JSON is a manifest");
    assert_eq!(back, samples::manifest());
}
