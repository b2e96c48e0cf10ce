//! The digest of a file's bytes, on several threads.
//!
//! BLAKE3 is a tree: subtrees of equal length are hashed wherever there is a free
//! thread and then merged two by two. The result is that of `blake3::hash`. (BLAKE3
//! specification, section 2.1 and 5.3.)

use crate::pool::Pool;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len};
use blake3::hazmat::{merge_subtrees_non_root, merge_subtrees_root};

/// Bytes of a subtree, a power of two: enough to amortise the claim and short against
/// the file.
const PIECE: usize = 2 << 20;

/// BLAKE3 of `bytes`; `done` is told of each part that has been read.
pub(super) fn digest(pool: &Pool, bytes: &[u8], done: impl Fn(&[u8]) + Sync) -> [u8; 32] {
    if bytes.len() <= PIECE {
        return blake3::hash(bytes).into();
    }
    let mut leaves = vec![ChainingValue::default(); bytes.len().div_ceil(PIECE)];
    pool.pieces(&mut leaves, 1, |i, leaf| {
        let piece = &bytes[i * PIECE..bytes.len().min((i + 1) * PIECE)];
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset((i * PIECE) as u64).update(piece);
        leaf[0] = hasher.finalize_non_root();
        done(piece);
    });
    let (left, right) = halves(bytes.len(), &leaves);
    merge_subtrees_root(&left, &right, Mode::Hash).into()
}

/// The two children of a tree over `len` bytes of more than one leaf.
fn halves(len: usize, leaves: &[ChainingValue]) -> (ChainingValue, ChainingValue) {
    let left = left_subtree_len(len as u64) as usize;
    let (a, b) = leaves.split_at(left / PIECE);
    (value(left, a), value(len - left, b))
}

fn value(len: usize, leaves: &[ChainingValue]) -> ChainingValue {
    match leaves {
        [leaf] => *leaf,
        leaves => {
            let (left, right) = halves(len, leaves);
            merge_subtrees_non_root(&left, &right, Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    #[test]
    fn the_digest_on_several_threads_is_that_of_the_plain_hash() {
        let all: Vec<u8> = (0..7 * PIECE + 12_345)
            .map(|i| (i * 31 + i / 977) as u8)
            .collect();
        let pool = Pool::new(3);
        let lengths = [0, 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE - 1, 4 * PIECE];
        for len in lengths.into_iter().chain([5 * PIECE + 1, all.len()]) {
            let seen = AtomicUsize::new(0);
            let found = digest(&pool, &all[..len], |piece| {
                seen.fetch_add(piece.len(), Relaxed);
            });
            assert!(
                found == <[u8; 32]>::from(blake3::hash(&all[..len])),
                "{len}"
            );
            assert!(len <= PIECE || seen.into_inner() == len);
        }
    }
}
