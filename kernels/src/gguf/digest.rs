//! The digest of a model's bytes, on several threads, beside what else reads them.
//!
//! BLAKE3 is a tree: subtrees of equal length are hashed in any order, wherever there is
//! a free thread, and then merged two by two. The result is that of `blake3::hash`.
//! (BLAKE3 specification, section 2.1 and 5.3.) Whoever reads a part of the file for its
//! own sake says so beforehand ([`Digester::read`]), so that then no byte is brought
//! into memory twice. Called by `Gguf` and the loader.

use super::head::{FileHashes, GROUP_BYTES, Hashes};
use super::source::Source;
use crate::pool::Pool;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len};
use blake3::hazmat::{merge_subtrees_non_root, merge_subtrees_root};
use std::sync::OnceLock;

/// Bytes of a subtree, a power of two: enough to amortise the claim, and little to read
/// again where a part ends inside.
const PIECE: usize = GROUP_BYTES;

/// The digest of files: of one, BLAKE3 of its bytes; of several, BLAKE3 over theirs.
pub(crate) struct Digester<'a>(Vec<One<'a>>);

struct One<'a> {
    source: &'a Source,
    /// None of a file that is one piece or less.
    pieces: Vec<OnceLock<ChainingValue>>,
}

impl<'a> Digester<'a> {
    /// Nothing has been read.
    pub fn new(sources: &'a [Source]) -> Self {
        let one = |source: &'a Source| {
            let pieces = match source.bytes().len() {
                0..=PIECE => 0,
                len => len.div_ceil(PIECE),
            };
            let pieces = (0..pieces).map(|_| OnceLock::new()).collect();
            One { source, pieces }
        };
        Self(sources.iter().map(one).collect())
    }

    /// Hash what begins in `part`, a slice of a source, before it is read. Keeps nothing
    /// else in memory.
    pub fn read(&self, part: &[u8]) {
        self.0.iter().for_each(|one| one.read(part));
    }

    /// Hash what has not been read, and keep nothing of it in memory.
    pub fn finish(self, pool: &Pool) -> Hashes {
        let files: Vec<_> = self.0.iter().map(|one| one.finish(pool)).collect();
        let digest = match &files[..] {
            [one] => one.digest,
            several => {
                let mut all = blake3::Hasher::new();
                for one in several {
                    all.update(&one.digest);
                }
                all.finalize().into()
            }
        };
        Hashes { digest, files }
    }
}

impl One<'_> {
    fn read(&self, part: &[u8]) {
        let Some(from) = self.source.offset(part) else {
            return;
        };
        let (bytes, to) = (self.source.bytes(), from + part.len());
        let first = from.div_ceil(PIECE);
        let pieces = first..to.div_ceil(PIECE).min(self.pieces.len()).max(first);
        for i in pieces.clone() {
            self.hash(i);
        }
        if !pieces.is_empty() {
            let end = bytes.len().min(pieces.end * PIECE);
            self.source.release(&bytes[to..end]);
        }
    }

    fn finish(&self, pool: &Pool) -> FileHashes {
        let bytes = self.source.bytes();
        if self.pieces.is_empty() {
            return FileHashes {
                digest: blake3::hash(bytes).into(),
                leaves: Vec::new(),
            };
        }
        pool.run(self.pieces.len(), &|i| {
            if self.pieces[i].get().is_none() {
                self.hash(i);
                self.source.release(self.piece(i));
            }
        });
        let leaves: Vec<ChainingValue> = (0..self.pieces.len()).map(|i| self.hash(i)).collect();
        let (left, right) = halves(bytes.len(), &leaves);
        FileHashes {
            digest: merge_subtrees_root(&left, &right, Mode::Hash).into(),
            leaves,
        }
    }

    fn hash(&self, i: usize) -> ChainingValue {
        *self.pieces[i].get_or_init(|| {
            let mut hasher = blake3::Hasher::new();
            hasher.set_input_offset((i * PIECE) as u64);
            hasher.update(self.piece(i)).finalize_non_root()
        })
    }

    fn piece(&self, i: usize) -> &[u8] {
        let bytes = self.source.bytes();
        &bytes[i * PIECE..bytes.len().min((i + 1) * PIECE)]
    }
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

    #[test]
    fn the_digest_is_that_of_the_plain_hash_whatever_was_read_before() {
        let all: Vec<u8> = (0..7 * PIECE + 12_345)
            .map(|i| (i * 31 + i / 977) as u8)
            .collect();
        let pool = Pool::new(3);
        let lengths = [0, 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE - 1, 4 * PIECE];
        for len in lengths.into_iter().chain([5 * PIECE + 1, all.len()]) {
            let expected: [u8; 32] = blake3::hash(&all[..len]).into();
            let sources = [Source::Memory(all[..len].into())];
            let bytes = sources[0].bytes();
            let parts = [0..0, 0..len, len / 3..len / 2, len - len / 5..len];
            for part in parts {
                let digester = Digester::new(&sources);
                digester.read(&bytes[part.clone()]);
                digester.read(&all[..len / 2]);
                let begun = part.start.div_ceil(PIECE)..part.end.div_ceil(PIECE);
                for (i, piece) in digester.0[0].pieces.iter().enumerate() {
                    assert!(
                        piece.get().is_some() == begun.contains(&i),
                        "{len} {part:?}"
                    );
                }
                assert!(digester.finish(&pool).digest == expected, "{len} {part:?}");
            }
        }
    }
}
