//! Slices of a model's files, each with the proof that it belongs to the model's digest.
//!
//! BLAKE3 is a tree. A file is cut into groups of [`GROUP_BYTES`]; the hash of a group and
//! those of its siblings on the way up give the root, which is the file's digest. So a buyer
//! reads the vocabulary of a model that it does not have from anybody, and believes nobody.
//! Not the transfer, its bounds or its caches: those are the port's.

use crate::codec::{self, CodecError};
use crate::ids::{Digest, ModelDigest};
use crate::limits::{MAX_BLOB_FRAME_BYTES, MAX_MODEL_PARTS};
use crate::refusal::Refusal;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use serde::{Deserialize, Serialize};

/// Name of the protocol.
pub const BLOB_PROTOCOL: &str = "/freehold/blob/1";
/// Bytes of a group, the smallest piece that can be proved. A power of two. Hosts hash files
/// in such pieces anyway.
pub const GROUP_BYTES: u64 = 256 << 10;
/// Longest file. Bytes; a thousand times the largest known.
const MAX_FILE_BYTES: u64 = 1 << 50;

/// Which slice is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceRequest {
    /// The model.
    pub model: ModelDigest,
    /// Which of its files, counted from 0.
    pub part: u32,
    /// Which group of the file, counted from 0.
    pub group: u64,
}

/// One group of a file, and what proves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// Of a split model, the digests of all its files; of a single file, none.
    pub parts: Vec<Digest>,
    /// Bytes of the file. It decides the shape of the tree, but only the last group proves it.
    pub length: u64,
    /// The group.
    pub bytes: Vec<u8>,
    /// The chaining values beside the way from the group to the root, nearest first.
    pub path: Vec<Digest>,
}

/// Frames of a blob stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlobFrame {
    /// Anybody → host.
    Get(SliceRequest),
    /// Host → who asked.
    Slice(Box<Slice>),
    /// Host → who asked. No offence of either side.
    Refusal(Refusal),
}

impl BlobFrame {
    /// Encodes for the stream.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Decodes what a peer sent.
    ///
    /// # Errors
    /// When it is no frame, or longer than one may be.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(bytes, MAX_BLOB_FRAME_BYTES)
    }
}

/// Why a slice is not what was asked for. Nobody else can tell who altered it, so it convicts
/// nobody; whoever sent it is not asked again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SliceError {
    /// The digests of the files are not those of the model.
    #[error("the files' digests are not those of this model")]
    Parts,
    /// There is no such file or group.
    #[error("no file {part} with a group {group} in {length} bytes")]
    Absent {
        /// The file asked for.
        part: u32,
        /// The group asked for.
        group: u64,
        /// Bytes of the file, by the host's word.
        length: u64,
    },
    /// The group has another length than it must have, or its proof another depth.
    #[error("a slice of {bytes} bytes and {path} hashes, where {expected} and {depth} are due")]
    Shape {
        /// Bytes found.
        bytes: u64,
        /// Bytes due.
        expected: u64,
        /// Hashes found.
        path: usize,
        /// Hashes due.
        depth: usize,
    },
    /// The bytes are not the model's.
    #[error("the bytes are not those of this model")]
    Bytes,
}

/// How the tree turns on the way from the root to a group, and where the group lies.
struct Way {
    /// At each node: whether the group is on its left, and where the other child lies.
    turns: Vec<(bool, u64, u64)>,
    start: u64,
    length: u64,
}

/// `None` where there is no such group.
fn way(length: u64, group: u64, group_bytes: u64) -> Option<Way> {
    let target = group.checked_mul(group_bytes)?;
    let inside = target < length || (target, length) == (0, 0);
    if !inside || length > MAX_FILE_BYTES {
        return None;
    }
    let (mut turns, mut start, mut left_over) = (Vec::new(), 0, length);
    while left_over > group_bytes {
        let left = left_subtree_len(left_over);
        let (middle, right) = (start + left, left_over - left);
        if target < middle {
            turns.push((true, middle, right));
            left_over = left;
        } else {
            turns.push((false, start, left));
            (start, left_over) = (middle, right);
        }
    }
    Some(Way {
        turns,
        start,
        length: left_over,
    })
}

/// The digest of the file that a group and its path belong to.
fn root(way: &Way, bytes: &[u8], path: &[Digest]) -> [u8; 32] {
    if way.turns.is_empty() {
        return blake3::hash(bytes).into();
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(way.start).update(bytes);
    let mut value: ChainingValue = hasher.finalize_non_root();
    for (level, ((is_left, _, _), beside)) in way.turns.iter().rev().zip(path).enumerate() {
        let (left, right) = match is_left {
            true => (value, beside.0),
            false => (beside.0, value),
        };
        value = match level + 1 == way.turns.len() {
            true => merge_subtrees_root(&left, &right, Mode::Hash).into(),
            false => merge_subtrees_non_root(&left, &right, Mode::Hash),
        };
    }
    value
}

impl Slice {
    /// Checks that this is what was asked for.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(&self, request: &SliceRequest) -> Result<(), SliceError> {
        self.verify_in(request, GROUP_BYTES)
    }

    fn verify_in(&self, request: &SliceRequest, group_bytes: u64) -> Result<(), SliceError> {
        let (part, group, length) = (request.part, request.group, self.length);
        let absent = SliceError::Absent {
            part,
            group,
            length,
        };
        let expected = match self.parts.as_slice() {
            [] => (part == 0).then_some(request.model.0),
            parts => {
                if parts.len() > MAX_MODEL_PARTS || of_parts(parts) != request.model {
                    return Err(SliceError::Parts);
                }
                parts.get(part as usize).map(|digest| digest.0)
            }
        };
        let way = way(length, group, group_bytes);
        let (Some(expected), Some(way)) = (expected, way) else {
            return Err(absent);
        };
        if self.bytes.len() as u64 != way.length || self.path.len() != way.turns.len() {
            return Err(SliceError::Shape {
                bytes: self.bytes.len() as u64,
                expected: way.length,
                path: self.path.len(),
                depth: way.turns.len(),
            });
        }
        match root(&way, &self.bytes, &self.path) == expected {
            true => Ok(()),
            false => Err(SliceError::Bytes),
        }
    }
}

/// The digest of a split model.
pub fn of_parts(parts: &[Digest]) -> ModelDigest {
    let mut all = blake3::Hasher::new();
    for part in parts {
        all.update(&part.0);
    }
    ModelDigest(all.finalize().into())
}

/// Where a group lies in a file: its first byte and its length. `None` where there is none.
pub fn extent(length: u64, group: u64) -> Option<(u64, u64)> {
    way(length, group, GROUP_BYTES).map(|way| (way.start, way.length))
}

/// The proof of a group, from the chaining values of all groups of its file (none, where the
/// file is one group or less). `None` where there is no such group.
pub fn path(length: u64, leaves: &[[u8; 32]], group: u64) -> Option<Vec<Digest>> {
    path_in(length, leaves, group, GROUP_BYTES)
}

fn path_in(length: u64, leaves: &[[u8; 32]], group: u64, group_bytes: u64) -> Option<Vec<Digest>> {
    let way = way(length, group, group_bytes)?;
    let beside = |(_, start, length): &(bool, u64, u64)| {
        let first = usize::try_from(start / group_bytes).ok()?;
        let count = usize::try_from(length.div_ceil(group_bytes)).ok()?;
        let under = leaves.get(first..first.checked_add(count)?)?;
        Some(Digest(subtree(*length, under, group_bytes)?))
    };
    way.turns.iter().rev().map(beside).collect()
}

fn subtree(length: u64, leaves: &[[u8; 32]], group_bytes: u64) -> Option<ChainingValue> {
    match leaves {
        [] => None,
        [leaf] => Some(*leaf),
        leaves => {
            let left = left_subtree_len(length);
            let middle = usize::try_from(left / group_bytes).ok()?;
            let (before, after) = leaves.split_at_checked(middle)?;
            let before = subtree(left, before, group_bytes)?;
            let after = subtree(length - left, after, group_bytes)?;
            Some(merge_subtrees_non_root(&before, &after, Mode::Hash))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::Index;

    /// The smallest group that BLAKE3 allows, so that small files have deep trees.
    const SMALL: u64 = 1_024;

    fn file(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 31 + i / 977) as u8).collect()
    }

    fn leaves(file: &[u8], group_bytes: u64) -> Vec<[u8; 32]> {
        if file.len() as u64 <= group_bytes {
            return Vec::new();
        }
        let groups = file.chunks(group_bytes as usize).zip(0u64..);
        groups
            .map(|(bytes, group)| {
                let mut hasher = blake3::Hasher::new();
                hasher.set_input_offset(group * group_bytes).update(bytes);
                hasher.finalize_non_root()
            })
            .collect()
    }

    fn slice_in(file: &[u8], group: u64, group_bytes: u64) -> Slice {
        let length = file.len() as u64;
        let at = way(length, group, group_bytes).expect("a group of the file");
        Slice {
            parts: Vec::new(),
            length,
            bytes: file[at.start as usize..(at.start + at.length) as usize].to_vec(),
            path: path_in(length, &leaves(file, group_bytes), group, group_bytes)
                .expect("a group of the file"),
        }
    }

    fn model(file: &[u8]) -> ModelDigest {
        ModelDigest(blake3::hash(file).into())
    }

    fn request(file: &[u8], group: u64) -> SliceRequest {
        SliceRequest {
            model: model(file),
            part: 0,
            group,
        }
    }

    #[test]
    fn every_group_of_files_of_real_groups_verifies() {
        let whole = file(5 * GROUP_BYTES as usize + 7);
        let lengths = [0, 1, GROUP_BYTES as usize, GROUP_BYTES as usize + 1];
        for length in lengths.into_iter().chain([whole.len()]) {
            let file = &whole[..length];
            for group in 0..(length as u64).div_ceil(GROUP_BYTES).max(1) {
                let slice = slice_in(file, group, GROUP_BYTES);
                assert_eq!(slice.verify(&request(file, group)), Ok(()));
                let frame = BlobFrame::Slice(Box::new(slice.clone()));
                assert_eq!(BlobFrame::decode(&frame.encode()), Ok(frame));
                let (start, bytes) = extent(length as u64, group).expect("a group of the file");
                let start = start as usize;
                assert_eq!(slice.bytes, &file[start..start + bytes as usize]);
            }
        }
    }

    #[test]
    fn files_of_a_split_model_verify_under_its_digest_alone() {
        let files = [file(3_000), file(70_000), file(1)];
        let parts: Vec<Digest> = files.iter().map(|file| Digest(model(file).0)).collect();
        let whole = of_parts(&parts);
        for (part, file) in files.iter().enumerate() {
            let part = part as u32;
            let slice = Slice {
                parts: parts.clone(),
                ..slice_in(file, 0, GROUP_BYTES)
            };
            let asked = SliceRequest {
                model: whole,
                part,
                group: 0,
            };
            assert_eq!(slice.verify(&asked), Ok(()));
            let other = SliceRequest { part: 3, ..asked };
            assert!(matches!(
                slice.verify(&other),
                Err(SliceError::Absent { .. })
            ));
            let other = SliceRequest {
                part: (part + 1) % 3,
                ..asked
            };
            assert!(slice.verify(&other).is_err());
            let mut fewer = slice.clone();
            fewer.parts.pop();
            assert_eq!(fewer.verify(&asked), Err(SliceError::Parts));
        }
    }

    #[test]
    fn lengths_that_no_file_has_are_refused_at_once() {
        let asked = request(&[], 0);
        for (length, group) in [
            (u64::MAX, 0),
            (MAX_FILE_BYTES + 1, 0),
            (10, u64::MAX),
            (10, 1),
        ] {
            let slice = Slice {
                parts: Vec::new(),
                length,
                bytes: Vec::new(),
                path: Vec::new(),
            };
            let asked = SliceRequest { group, ..asked };
            assert!(matches!(
                slice.verify(&asked),
                Err(SliceError::Absent { .. })
            ));
            assert_eq!(path(length, &[], group), None);
        }
    }

    proptest! {
        #[test]
        fn every_slice_verifies_and_no_altered_one_does(
            length in 1usize..40_000, at in any::<Index>(), with in any::<Index>(), flip in 1u8..=255,
        ) {
            let file = file(length);
            let groups = (length as u64).div_ceil(SMALL);
            let group = at.index(groups as usize) as u64;
            let slice = slice_in(&file, group, SMALL);
            let asked = request(&file, group);
            let verify = |slice: &Slice, asked: &SliceRequest| slice.verify_in(asked, SMALL);
            prop_assert_eq!(verify(&slice, &asked), Ok(()));

            let mut altered = slice.clone();
            altered.bytes[with.index(slice.bytes.len())] ^= flip;
            prop_assert_eq!(verify(&altered, &asked), Err(SliceError::Bytes));
            let mut altered = slice.clone();
            altered.bytes.pop();
            prop_assert!(verify(&altered, &asked).is_err());
            altered.bytes.extend([0, 0]);
            prop_assert!(verify(&altered, &asked).is_err());

            if !slice.path.is_empty() {
                let mut altered = slice.clone();
                altered.path[with.index(slice.path.len())].0[with.index(32)] ^= flip;
                prop_assert_eq!(verify(&altered, &asked), Err(SliceError::Bytes));
                altered.path.pop();
                prop_assert!(verify(&altered, &asked).is_err());
            }
            let mut altered = slice.clone();
            altered.path.push(Digest([0; 32]));
            prop_assert!(verify(&altered, &asked).is_err());

            let other = SliceRequest { group: with.index(groups as usize) as u64, ..asked };
            prop_assert_eq!(verify(&slice, &other).is_ok(), other.group == group);
            let mut other = asked;
            other.model.0[with.index(32)] ^= flip;
            prop_assert_eq!(verify(&slice, &other), Err(SliceError::Bytes));
        }

        #[test]
        fn the_last_group_proves_the_length(length in 1usize..40_000, other in 1u64..50_000) {
            let file = file(length);
            let last = (length as u64).div_ceil(SMALL) - 1;
            let mut slice = slice_in(&file, last, SMALL);
            slice.length = other;
            let verified = slice.verify_in(&request(&file, last), SMALL);
            prop_assert_eq!(verified.is_ok(), other == length as u64);
        }
    }
}
