//! Where a file's bytes live: a read-only mapping, or memory.

use super::GgufError;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// The bytes of a model file.
#[derive(Debug)]
pub enum Source {
    /// A read-only mapping of a file.
    Map(memmap2::Mmap),
    /// Bytes in memory.
    Memory(Arc<[u8]>),
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
        // SAFETY: lifetime: the mapping owns itself and outlives the file handle.
        // Bounds and alignment: memmap2 maps exactly the file's length and is read
        // as bytes only. The one promise that the system cannot keep for us is that
        // nobody truncates or rewrites the file while it is mapped; model files are
        // written once and renamed into place, and the documentation says so.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
        Ok(Self::Map(map))
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Map(map) => map,
            Self::Memory(bytes) => bytes,
        }
    }

    /// Whether `part` is a part of these bytes; if so, let the system take back the
    /// pages of a mapping that hold it (and parts of its neighbours). Who reads them
    /// again gets them from the file, or from the system's copy of it.
    pub fn release(&self, part: &[u8]) -> bool {
        let offset = self.offset(part);
        #[cfg(unix)]
        if let (Self::Map(map), Some(offset)) = (self, offset) {
            // SAFETY: lifetime and bounds: the range lies in this mapping. Its pages are
            // private, read-only and never written, so the same bytes come back at the
            // next read, on the promise that `map` makes about the file.
            let advised = unsafe {
                let advice = memmap2::UncheckedAdvice::DontNeed;
                map.unchecked_advise_range(advice, offset, part.len())
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
