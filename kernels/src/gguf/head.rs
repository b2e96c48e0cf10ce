//! The head of a model: what its first file holds before the tensors, and the hashes that
//! prove it against the model's digest.
//!
//! Vocabulary, merges and template lie there. Who has not the weights reads them from a
//! head ([`Gguf::from_head`]). Proofs are made and checked elsewhere.

use super::source::Source;
use super::{Gguf, GgufError, Value, read};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Bytes of a group: files are hashed, and proved, in such pieces. A power of two.
pub const GROUP_BYTES: usize = 256 << 10;

/// The hashes of a model's files.
#[derive(Clone, Debug)]
pub(crate) struct Hashes {
    /// The model's digest.
    pub digest: [u8; 32],
    /// Of each file, in order.
    pub files: Vec<FileHashes>,
}

/// The hashes of one file.
#[derive(Clone, Debug)]
pub(crate) struct FileHashes {
    pub digest: [u8; 32],
    /// The chaining values of its groups; none of a file of one group or less.
    pub leaves: Vec<[u8; 32]>,
}

/// See the head of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Digests of all files of a split model, in order; none where there is one file.
    pub parts: Vec<[u8; 32]>,
    /// Bytes of the first file.
    pub length: u64,
    /// BLAKE3 chaining values of the first file's groups of [`GROUP_BYTES`]; none where it
    /// is one group or less.
    pub leaves: Vec<[u8; 32]>,
    /// The first file's groups from the beginning to the end of the metadata.
    pub bytes: Vec<u8>,
}

impl Gguf {
    /// The head of this file, whose hashes these are.
    pub(crate) fn head(&self, hashes: &Hashes) -> Head {
        let file = self.file();
        let end = self.metadata_end.next_multiple_of(GROUP_BYTES);
        let digests = hashes.files.iter().map(|file| file.digest);
        Head {
            parts: match hashes.files.len() {
                1 => Vec::new(),
                _ => digests.collect(),
            },
            length: file.len() as u64,
            leaves: hashes
                .files
                .first()
                .map_or_else(Vec::new, |file| file.leaves.clone()),
            bytes: file[..end.min(file.len())].to_vec(),
        }
    }

    /// Reads every byte, and gives the digest and the head.
    pub fn digest_and_head(&self) -> ([u8; 32], Head) {
        let hashes = self.hashes();
        (hashes.digest, self.head(&hashes))
    }

    /// Read the metadata alone, of the beginning of a file: no tensors, and a digest of
    /// nothing but this beginning. Where more of the file is needed, [`GgufError::is_short`].
    pub fn from_head(bytes: impl Into<Arc<[u8]>>) -> Result<Self, GgufError> {
        let source = Source::Memory(bytes.into());
        let (version, metadata, metadata_end) = read::metadata(source.bytes())?;
        Ok(Self {
            parts: vec![source],
            version,
            metadata,
            metadata_end,
            tensors: Vec::new(),
            by_name: HashMap::new(),
        })
    }
}

/// What [`read::metadata`] gives: version, metadata, and where it ends.
pub(super) type Metadata = (u32, BTreeMap<String, Value>, usize);

impl GgufError {
    /// Whether it may be that only the rest of the file is missing.
    pub fn is_short(&self) -> bool {
        matches!(self, Self::Truncated { .. } | Self::Count { .. })
    }
}
