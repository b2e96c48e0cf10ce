//! Models in several files: `NAME-00001-of-0000N.gguf` and so on.
//!
//! The first part's metadata describes the model; each part holds the tensors that
//! its own directory lists, and says which part of how many it is. The names of the
//! other parts follow from the first's: nothing in a file names a path.

use super::read::{self, Directory};
use super::{GgufError, Source};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Most parts: far above any model published (the largest have about two hundred),
/// and a bound on what one hostile file makes us open.
pub(super) const MAX_PARTS: u64 = 1024;

/// What a file says about the split it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// Part number from zero.
    pub no: u64,
    /// Number of parts; 1 where the file is whole.
    pub count: u64,
    /// Tensors of all parts, where the file says.
    pub tensors: Option<u64>,
}

/// Map the parts behind the first one, in order.
pub(super) fn others(path: &Path, split: Split) -> Result<Vec<(PathBuf, Source)>, GgufError> {
    (1..split.count)
        .map(|no| {
            let path = part(path, no, split.count)?;
            let source = Source::map(&path)?;
            Ok((path, source))
        })
        .collect()
}

/// The path of part `no`, given the first one's.
fn part(first: &Path, no: u64, count: u64) -> Result<PathBuf, GgufError> {
    let ending = |no: u64| format!("-{:05}-of-{count:05}.gguf", no + 1);
    let name = first.file_name().and_then(|n| n.to_str());
    let stem = name.and_then(|n| n.strip_suffix(&ending(0)));
    let stem = stem.ok_or_else(|| GgufError::PartName {
        path: first.display().to_string(),
        ending: ending(0),
    })?;
    Ok(first.with_file_name(format!("{stem}{}", ending(no))))
}

/// Check that a model may begin with this directory, and how many parts it has.
pub(super) fn check_first(directory: &Directory) -> Result<Split, GgufError> {
    let split = directory.split;
    if split.count > MAX_PARTS {
        return Err(GgufError::Parts {
            count: split.count,
            max: MAX_PARTS,
        });
    }
    match split.no {
        0 => Ok(split),
        no => Err(GgufError::NotFirstPart {
            part: no.saturating_add(1),
            count: split.count,
        }),
    }
}

/// Read a further part's directory into the first's.
pub(super) fn join(
    whole: &mut Directory,
    no: u64,
    path: &Path,
    source: &Source,
) -> Result<(), GgufError> {
    let directory = read::directory(source.bytes())?;
    let found = directory.split;
    if found.no != no || found.count != whole.split.count {
        return Err(GgufError::WrongPart {
            path: path.display().to_string(),
            part: no + 1,
            count: whole.split.count,
        });
    }
    read::check_tensors((whole.tensors.len() + directory.tensors.len()) as u64)?;
    for mut tensor in directory.tensors {
        tensor.part = no as usize;
        whole.tensors.push(tensor);
    }
    Ok(())
}

/// Check what can be known only when all parts have been read.
pub(super) fn check_whole(whole: &Directory) -> Result<(), GgufError> {
    let mut names = HashSet::with_capacity(whole.tensors.len());
    for tensor in &whole.tensors {
        if !names.insert(tensor.name.as_str()) {
            return Err(GgufError::DuplicateTensor {
                name: tensor.name.clone(),
            });
        }
    }
    let found = whole.tensors.len() as u64;
    match whole.split.tensors {
        Some(wanted) if wanted != found => Err(GgufError::PartTensors { wanted, found }),
        _ => Ok(()),
    }
}
