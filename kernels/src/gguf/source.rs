//! Where a file's bytes live: a read-only mapping, or memory.

use super::GgufError;
#[cfg(unix)]
use super::guard::Guard;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// The bytes of a model file.
#[derive(Debug)]
pub enum Source {
    /// A read-only mapping of a file.
    Map(Mapping),
    /// Bytes in memory.
    Memory(Arc<[u8]>),
}

/// A mapped file that says when it is no longer what was mapped.
#[derive(Debug)]
pub struct Mapping {
    /// Dropped before the mapping that it watches.
    #[cfg(unix)]
    guard: Guard,
    map: memmap2::Mmap,
    /// Open for as long as it is mapped: who renames or removes the path changes
    /// nothing here.
    file: File,
    stamp: Stamp,
}

/// What changes when somebody writes to a file.
type Stamp = (u64, Option<SystemTime>);

fn stamp(file: &File) -> std::io::Result<Stamp> {
    let metadata = file.metadata()?;
    Ok((metadata.len(), metadata.modified().ok()))
}

impl Mapping {
    fn new(file: File) -> std::io::Result<Self> {
        let stamp = stamp(&file)?;
        // SAFETY: lifetime: the mapping owns itself. Bounds and alignment: memmap2 maps
        // exactly the file's length and is read as bytes only. Nobody can keep others from
        // writing to the file: where it shrinks, `guard` puts zeros in its place, and
        // whoever reads asks `is_changed` before it believes what it read.
        let map = unsafe { memmap2::Mmap::map(&file) }?;
        Ok(Self {
            #[cfg(unix)]
            guard: Guard::new(&map)
                .ok_or_else(|| std::io::Error::other("too many model files are mapped"))?,
            map,
            file,
            stamp,
        })
    }

    /// Whether somebody wrote to the file since it was mapped. What was read before this
    /// is asked is only good if the answer is no.
    fn is_changed(&self) -> bool {
        #[cfg(unix)]
        if self.guard.is_lost() {
            return true;
        }
        stamp(&self.file).map_or(true, |now| now != self.stamp)
    }
}

impl Source {
    /// Map a file read-only.
    pub fn map(path: &Path) -> Result<Self, GgufError> {
        let io = |source| GgufError::Io {
            path: path.display().to_string(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.len() == 0 {
            return Ok(Self::Memory(Arc::from([])));
        }
        Mapping::new(file).map(Self::Map).map_err(io)
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Map(mapping) => &mapping.map,
            Self::Memory(bytes) => bytes,
        }
    }

    /// Whether a mapped file is no longer what was mapped.
    pub fn is_changed(&self) -> bool {
        match self {
            Self::Map(mapping) => mapping.is_changed(),
            Self::Memory(_) => false,
        }
    }

    /// Whether `part` is a part of these bytes; if so, let the system take back the
    /// pages of a mapping that hold it (and parts of its neighbours). Who reads them
    /// again gets them from the file, or from the system's copy of it.
    pub fn release(&self, part: &[u8]) -> bool {
        let offset = self.offset(part);
        #[cfg(unix)]
        if let (Self::Map(mapping), Some(offset)) = (self, offset) {
            // SAFETY: lifetime and bounds: the range lies in this mapping. Its pages are
            // private, read-only and never written, so the same bytes come back at the
            // next read, or the file has changed, which `is_changed` says.
            let advised = unsafe {
                let advice = memmap2::UncheckedAdvice::DontNeed;
                mapping
                    .map
                    .unchecked_advise_range(advice, offset, part.len())
            };
            // Refused, the pages stay: no harm.
            let _ = advised;
        }
        offset.is_some()
    }

    /// Where `part` begins, if it is a part of these bytes.
    pub(super) fn offset(&self, part: &[u8]) -> Option<usize> {
        let bytes = self.bytes().as_ptr_range();
        let inside = bytes.start <= part.as_ptr() && part.as_ptr_range().end <= bytes.end;
        inside.then(|| part.as_ptr().addr() - bytes.start.addr())
    }
}
