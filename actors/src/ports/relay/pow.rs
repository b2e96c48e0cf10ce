//! Proof of work on events (NIP-13): mining off the async threads, and counting.
//!
//! Not a defence against a determined attacker: 20 bits are about a million hashes,
//! a second or so of one core. Used by `listing`.

use nostr::event::{Tag, UnsignedEvent};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Nonces tried between two looks at the cancel flag: well under a millisecond to 10 ms,
/// depending on the content's length.
const NONCES_PER_LOOK: u64 = 1_024;

/// Returns the leading zero bits of an event id, the measure of NIP-13.
pub fn leading_zero_bits(id: &[u8; 32]) -> u16 {
    let mut bits = 0;
    for byte in id {
        bits += byte.leading_zeros() as u16;
        if *byte != 0 {
            break;
        }
    }
    bits
}

/// Adds a `nonce` tag committing to `bits` such that the event's id has at least as many
/// leading zero bits. Runs on `threads` blocking threads; dropping the future ends them.
/// Returns `None` only if the runtime shuts down meanwhile.
pub async fn mine(unsigned: UnsignedEvent, bits: u8, threads: usize) -> Option<UnsignedEvent> {
    let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
    let flag = stop.0.clone();
    let threads = threads.max(1);
    tokio::task::spawn_blocking(move || {
        let found = std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..threads as u64)
                .map(|lane| {
                    let (unsigned, flag) = (&unsigned, &flag);
                    scope.spawn(move || search(unsigned, bits, lane, threads as u64, flag))
                })
                .collect();
            lanes
                .into_iter()
                .find_map(|lane| lane.join().ok().flatten())
        })?;
        Some(with_nonce(unsigned, found, bits))
    })
    .await
    .ok()
    .flatten()
}

struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn with_nonce(mut unsigned: UnsignedEvent, nonce: u64, bits: u8) -> UnsignedEvent {
    unsigned
        .tags
        .push(Tag::custom("nonce", [nonce.to_string(), bits.to_string()]));
    unsigned.id = None;
    unsigned
}

/// Tries the nonces `lane, lane + step, …`. The hash of everything before the nonce is
/// computed once; what follows it (target and content) is hashed for every nonce.
fn search(event: &UnsignedEvent, bits: u8, lane: u64, step: u64, stop: &AtomicBool) -> Option<u64> {
    let (head, tail) = split(event, bits)?;
    let prefix = Sha256::new_with_prefix(head);
    let mut nonce = lane;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..NONCES_PER_LOOK {
            let mut hash = prefix.clone();
            hash.update(nonce.to_string());
            hash.update(&tail);
            if leading_zero_bits(&hash.finalize().into()) >= u16::from(bits) {
                stop.store(true, Ordering::Relaxed);
                return Some(nonce);
            }
            nonce = nonce.checked_add(step)?;
        }
    }
    None
}

/// Splits the serialisation of NIP-01 around the nonce, which stands in the last tag.
fn split(event: &UnsignedEvent, bits: u8) -> Option<(String, String)> {
    let mut tags = serde_json::to_string(&event.tags).ok()?;
    tags.truncate(tags.len().checked_sub(1)?);
    let comma = if event.tags.is_empty() { "" } else { "," };
    let content = serde_json::to_string(&event.content).ok()?;
    let head = format!(
        "[0,\"{}\",{},{},{tags}{comma}[\"nonce\",\"",
        event.pubkey.to_hex(),
        event.created_at.as_secs(),
        event.kind.as_u16(),
    );
    Some((head, format!("\",\"{bits}\"]],{content}]")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nostr::event::Kind;
    use nostr::key::PublicKey;

    fn unsigned(tags: Vec<Tag>, content: &str) -> UnsignedEvent {
        let key = PublicKey::from_slice(&[0x79; 32]).unwrap();
        UnsignedEvent::new(
            key,
            1_700_000_000.into(),
            Kind::Custom(38_717),
            tags,
            content,
        )
    }

    #[tokio::test]
    async fn a_mined_event_has_the_bits_it_commits_to_whatever_its_tags_and_content() {
        let content = "quotes \" backslash \\ newline \n tab \t bell \u{7} é 🦀 \u{2028}";
        for tags in [vec![], vec![Tag::identifier("re\"gtest")]] {
            let mined = mine(unsigned(tags, content), 12, 2).await.unwrap();
            assert!(leading_zero_bits(mined.compute_id().as_bytes()) >= 12);
            let nonce = mined.tags.iter().last().unwrap().as_slice();
            assert_eq!((nonce[0].as_str(), nonce[2].as_str()), ("nonce", "12"));
        }
    }

    #[tokio::test]
    async fn dropping_the_future_ends_the_search() {
        // The runtime waits for its blocking threads: were the search to go on, 255 bits
        // would keep this test from ever ending.
        let endless = mine(unsigned(vec![], ""), 255, 2);
        let bound = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(bound, endless).await.is_err());
    }

    #[test]
    fn leading_zero_bits_are_counted_to_the_end() {
        let mut id = [0u8; 32];
        assert_eq!(leading_zero_bits(&id), 256);
        id[2] = 0b0001_0000;
        assert_eq!(leading_zero_bits(&id), 19);
    }
}
