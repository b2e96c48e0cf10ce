//! Every decoder that reads what strangers send, against damaged copies of real messages.
//!
//! Not a coverage-guided fuzzer: mutation from the golden vectors, with a seed that is
//! printed first. Each run of the tests does a fixed, small amount; for longer:
//! `FREEHOLD_FUZZ_SECONDS=3600 cargo test --release --workspace --test fuzz -- --nocapture`,
//! and `FREEHOLD_FUZZ_SEED=N` to see one again.

use kernels::Tokenizer;
use kernels::gguf::Gguf;
use protocol::codec;
use protocol::crypto::{Secp, read_bolt11};
use protocol::limits::MAX_AUDIT_FRAME_BYTES;
use protocol::message::discovery::Pulse;
use protocol::wire::blob::BlobFrame;
use protocol::wire::bundle::{AuditFrame, Bundle, Verdict};
use protocol::wire::envelope::{Envelope, Network, Signed};
use protocol::wire::mandate::{Mandate, Revocation};
use protocol::wire::manifest::Manifest;
use protocol::wire::order::{Countersigned, Frame, Invoice, Order, Paid, Receipt, Terms};
use protocol::wire::quote::{HostQuote, QuoteFrame, QuoteRequest, RouterOffer};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::{Duration, Instant};

/// Rounds of a normal run: a second or two.
const ROUNDS: u64 = 10_000;
/// Bytes of the model file that are damaged: its header, where counts and offsets are.
const GGUF_HEADER: usize = 64 << 10;

const WIRE: &str = include_str!("../../protocol/tests/golden/wire.hex");
const MANIFEST: &str = include_str!("../../protocol/tests/golden/manifest.json");

/// Decodes, and demands that a value which decodes survives its own encoding.
macro_rules! survives {
    ($bytes:expr, $($kind:ty),+ $(,)?) => {$(
        if let Ok(value) = codec::decode::<$kind>($bytes, MAX_AUDIT_FRAME_BYTES) {
            let again = codec::decode::<$kind>(&codec::encode(&value), MAX_AUDIT_FRAME_BYTES);
            assert_eq!(again.as_ref(), Ok(&value), stringify!($kind));
        }
    )+};
}

fn wire(bytes: &[u8]) {
    survives!(
        bytes,
        Signed,
        Envelope,
        Order,
        Terms,
        Invoice,
        Paid,
        Receipt,
        Countersigned,
        Manifest,
        Verdict,
        Bundle,
        AuditFrame,
        QuoteRequest,
        HostQuote,
        RouterOffer,
        QuoteFrame,
        BlobFrame,
        Mandate,
        Revocation,
        Pulse,
    );
    if let Ok(frame) = Frame::decode(bytes) {
        assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
    }
}

fn damage(rng: &mut ChaCha8Rng, bytes: &mut Vec<u8>, within: usize) {
    for _ in 0..rng.gen_range(1..8) {
        let within = within.min(bytes.len());
        if within == 0 {
            return;
        }
        let at = rng.gen_range(0..within);
        match rng.gen_range(0..5) {
            0 => bytes[at] = rng.r#gen(),
            1 => bytes[at] ^= 1 << rng.gen_range(0..8),
            2 => bytes[at] = [0, 0x7f, 0x80, 0xfb, 0xfc, 0xfd, 0xff][rng.gen_range(0..7)],
            3 => bytes.insert(at, rng.r#gen()),
            _ => {
                bytes.remove(at);
            }
        }
    }
    if rng.gen_ratio(1, 8) {
        bytes.truncate(rng.gen_range(0..=bytes.len()));
    }
}

fn messages() -> Vec<Vec<u8>> {
    let lines = WIRE.lines().filter_map(|line| line.split_once(' '));
    lines
        .map(|(name, text)| hex::decode(text).unwrap_or_else(|_| panic!("{name} is not hex")))
        .collect()
}

/// Runs `round` a fixed number of times, or for as long as the environment asks.
fn rounds(name: &str, divide: u64, mut round: impl FnMut(&mut ChaCha8Rng)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seconds: Option<u64> = number("FREEHOLD_FUZZ_SECONDS");
    let drawn = if seconds.is_some() { rand::random() } else { 1 };
    let seed = number("FREEHOLD_FUZZ_SEED").unwrap_or(drawn);
    println!("{name}: FREEHOLD_FUZZ_SEED={seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let began = Instant::now();
    let mut done = 0u64;
    loop {
        let over = match seconds {
            Some(seconds) => began.elapsed() >= Duration::from_secs(seconds),
            None => done >= (ROUNDS / divide).max(1),
        };
        if over {
            break;
        }
        round(&mut rng);
        done += 1;
    }
    println!("{name}: {done} rounds");
}

#[test]
fn no_damaged_message_panics_a_decoder_or_changes_in_its_own_encoding() {
    let messages = messages();
    assert!(messages.len() > 40, "the golden vectors are all there");
    let crypto = Secp::from_secret(&[1; 32]).expect("a secret below the group order");
    rounds("messages", 1, |rng| {
        let mut bytes = messages[rng.gen_range(0..messages.len())].clone();
        let whole = bytes.len();
        damage(rng, &mut bytes, whole);
        wire(&bytes);
        if let Ok(signed) = codec::decode::<Signed>(&bytes, MAX_AUDIT_FRAME_BYTES) {
            // Either refused, or damaged outside of what is signed: never a panic.
            let _ = signed.open_public::<Order>(&crypto, Network::Regtest);
        }
    });
}

#[test]
fn no_damaged_listing_or_invoice_panics_its_reader() {
    rounds("texts", 1, |rng| {
        let mut bytes = MANIFEST.as_bytes().to_vec();
        let whole = bytes.len();
        damage(rng, &mut bytes, whole);
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(manifest) = serde_json::from_str::<Manifest>(&text) {
            let _ = manifest.check(&manifest.node, manifest.created);
        }
        let length = rng.gen_range(0..200);
        let data: String = (0..length)
            .map(|_| char::from(b"qpzry9x8gf2tvdw0s3jn54khce6mua7l1"[rng.gen_range(0..33)]))
            .collect();
        let _ = read_bolt11(&format!("lnbcrt10u1{data}"));
    });
}

#[test]
fn no_damaged_model_file_panics_the_reader() {
    let pocket = kernels::pocket::pocket();
    rounds("model files", 50, |rng| {
        let mut bytes = pocket.to_vec();
        damage(rng, &mut bytes, GGUF_HEADER);
        if let Ok(file) = Gguf::from_bytes(bytes) {
            let _ = Tokenizer::from_gguf(&file);
        }
    });
}
