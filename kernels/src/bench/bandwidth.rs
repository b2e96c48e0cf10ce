//! How fast this machine reads memory: the ceiling of decoding.
//!
//! A plain sum over more bytes than a cache holds, on as many threads as the model
//! computes on. Called by the node's `bench`.

use std::time::Instant;

/// Bytes read by each pass: well beyond the caches that one machine has for itself.
const BYTES: usize = 512 << 20;
/// Passes; the fastest counts, because others on the machine only slow it down.
const PASSES: usize = 4;

/// Bytes that `threads` threads together read in a second. Takes half a gigabyte of
/// memory for about a second.
pub fn bandwidth(threads: usize) -> f64 {
    let threads = threads.max(1);
    // Written, so that every page is real and not the system's one page of zeros.
    let words: Vec<u64> = (0..BYTES as u64 / 8).collect();
    let share = words.len().div_ceil(threads);
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        let start = Instant::now();
        let total = std::thread::scope(|scope| {
            let parts: Vec<_> = words
                .chunks(share)
                .map(|part| scope.spawn(move || sum(part)))
                .collect();
            parts
                .into_iter()
                .filter_map(|part| part.join().ok())
                .fold(0, u64::wrapping_add)
        });
        // Without a use of the sum the reads could be left out.
        std::hint::black_box(total);
        best = best.min(start.elapsed().as_secs_f64());
    }
    BYTES as f64 / best
}

/// Eight sums side by side, so that the additions do not wait for each other.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0u64; 8];
    for eight in words.as_chunks::<8>().0 {
        for (sum, word) in sums.iter_mut().zip(eight) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}
