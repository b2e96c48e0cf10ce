//! GGUF v2/v3: the file format in which people already have their models.
//!
//! [`Gguf`] maps (or borrows) a file, checks every count, length and offset
//! against the bytes that are really there, and then hands out metadata and
//! tensor bytes. It knows layouts, not numerics: what a tensor *means* is
//! decided by `model`. Called by `model`, `tokenizer` and the node's `inspect`.
//!
//! A hostile file gets a [`GgufError`] and never a panic, an overflow or an
//! allocation much larger than the file. Format: ggml `docs/gguf.md`.

mod digest;
mod error;
#[cfg(unix)]
mod guard;
mod head;
mod read;
mod source;
mod split;
mod types;
mod value;
pub mod write;

pub(crate) use digest::Digester;
pub use error::GgufError;
pub(crate) use head::Hashes;
pub use head::{GROUP_BYTES, Head};
pub use source::{Mapping, Source};
pub use types::TensorType;
pub use value::{Array, Value};

use crate::cpu::default_threads;
use crate::pool::Pool;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One tensor's directory entry; its bytes come from [`Gguf::bytes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Dimensions; `dims[0]` is the contiguous one (row length, K).
    pub dims: Vec<u64>,
    /// Storage type.
    pub ty: TensorType,
    /// The part of a split model that holds it, from zero.
    pub part: usize,
    /// First byte, counted from the start of its file.
    pub start: usize,
    /// Length in bytes.
    pub len: usize,
}

impl Tensor {
    /// Number of elements (checked when the file was read).
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Row length (K): the contiguous dimension.
    pub fn row_len(&self) -> usize {
        self.dims[0] as usize
    }

    /// Number of rows: the product of all dimensions but the first.
    pub fn rows(&self) -> usize {
        self.dims[1..].iter().product::<u64>() as usize
    }
}

/// A checked GGUF file, or all files of a split model.
#[derive(Debug)]
pub struct Gguf {
    parts: Vec<Source>,
    version: u32,
    metadata: BTreeMap<String, Value>,
    /// Where the first part's tensor entries begin.
    metadata_end: usize,
    tensors: Vec<Tensor>,
    by_name: HashMap<String, usize>,
}

impl Gguf {
    /// Map a file and read its directory; of a split model, the first part, and with
    /// it all others, which must lie beside it.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        Self::read(Source::map(path)?, |split| split::others(path, split))
    }

    /// Read a file that is already in memory.
    pub fn from_bytes(bytes: impl Into<Arc<[u8]>>) -> Result<Self, GgufError> {
        Self::read(Source::Memory(bytes.into()), |split| {
            Err(GgufError::PartInMemory { count: split.count })
        })
    }

    fn read(
        first: Source,
        others: impl FnOnce(split::Split) -> Result<Vec<(PathBuf, Source)>, GgufError>,
    ) -> Result<Self, GgufError> {
        let mut directory = read::directory(first.bytes())?;
        let split = split::check_first(&directory)?;
        let mut parts = vec![first];
        if split.count > 1 {
            for (no, (path, source)) in others(split)?.into_iter().enumerate() {
                split::join(&mut directory, no as u64 + 1, &path, &source)?;
                parts.push(source);
            }
            split::check_whole(&directory)?;
        }
        let by_name = directory
            .tensors
            .iter()
            .enumerate()
            .map(|(i, t)| (t.name.clone(), i))
            .collect();
        Ok(Self {
            parts,
            version: directory.version,
            metadata: directory.metadata,
            metadata_end: directory.metadata_end,
            tensors: directory.tensors,
            by_name,
        })
    }

    /// Format version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// All metadata, ordered by key.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor of that name, if the file has it.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.by_name.get(name).map(|i| &self.tensors[*i])
    }

    /// The bytes of one of this model's tensors.
    pub fn bytes(&self, tensor: &Tensor) -> &[u8] {
        &self.parts[tensor.part].bytes()[tensor.start..tensor.start + tensor.len]
    }

    /// The whole file; of a split model, the first part.
    pub fn file(&self) -> &[u8] {
        self.parts[0].bytes()
    }

    /// The bytes of every part, in order; of a model that is not split, of its file.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.parts.iter().map(Source::bytes)
    }

    /// Take `part`, a slice of one of this model's tensors, out of this process's memory
    /// where it is mapped: it has been read, and is read again from the file if ever.
    pub fn release(&self, part: &[u8]) {
        self.parts.iter().any(|source| source.release(part));
    }

    /// Whether a mapped file is no longer what was mapped: what was read from it meanwhile
    /// must not be used.
    pub fn is_changed(&self) -> bool {
        self.parts.iter().any(Source::is_changed)
    }

    /// Whether the bytes are those of mapped files.
    pub(crate) fn is_mapped(&self) -> bool {
        self.parts.iter().any(|s| matches!(s, Source::Map(_)))
    }

    /// The model's digest: BLAKE3 of the file; of a split model, BLAKE3 over the
    /// parts' digests in order. Reads every byte, on all threads that the system gives.
    pub fn digest(&self) -> [u8; 32] {
        self.hashes().digest
    }

    fn hashes(&self) -> Hashes {
        self.digester().finish(&Pool::new(default_threads()))
    }

    /// [`Self::digest`], beside what else reads the file.
    pub(crate) fn digester(&self) -> Digester<'_> {
        Digester::new(&self.parts)
    }

    /// A string value.
    pub fn str(&self, key: &str) -> Result<&str, GgufError> {
        match self.required(key)? {
            Value::String(s) => Ok(s),
            other => Err(wrong(key, "a string", other)),
        }
    }

    /// An unsigned integer of any width (signed ones when not negative).
    pub fn uint(&self, key: &str) -> Result<u64, GgufError> {
        let value = self.required(key)?;
        value
            .as_u64()
            .ok_or_else(|| wrong(key, "an unsigned integer", value))
    }

    /// A float (f32 or f64, the latter rounded).
    pub fn float(&self, key: &str) -> Result<f32, GgufError> {
        match self.required(key)? {
            Value::F32(x) => Ok(*x),
            Value::F64(x) => Ok(*x as f32),
            other => Err(wrong(key, "a float", other)),
        }
    }

    /// A boolean.
    pub fn bool(&self, key: &str) -> Result<bool, GgufError> {
        match self.required(key)? {
            Value::Bool(x) => Ok(*x),
            other => Err(wrong(key, "a boolean", other)),
        }
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<&[String], GgufError> {
        match self.required(key)? {
            Value::Array(Array::String(x)) => Ok(x),
            other => Err(wrong(key, "an array of strings", other)),
        }
    }

    /// The value of a key that may be absent.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    fn required(&self, key: &str) -> Result<&Value, GgufError> {
        self.metadata.get(key).ok_or_else(|| GgufError::MissingKey {
            key: key.to_owned(),
        })
    }
}

/// Some bytes of a tensor, of a file that stays open for them.
pub(crate) struct Span {
    file: Arc<Gguf>,
    part: usize,
    range: Range<usize>,
}

impl Span {
    /// The bytes `range` of a tensor of this file.
    pub fn new(file: &Arc<Gguf>, tensor: &Tensor, range: Range<usize>) -> Self {
        assert!(range.end <= tensor.len, "a range within the tensor");
        Self {
            file: file.clone(),
            part: tensor.part,
            range: tensor.start + range.start..tensor.start + range.end,
        }
    }

    /// These bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.file.parts[self.part].bytes()[self.range.clone()]
    }

    /// See [`Gguf::release`].
    pub fn release(&self, part: &[u8]) {
        self.file.release(part);
    }
}

fn wrong(key: &str, wanted: &'static str, found: &Value) -> GgufError {
    GgufError::WrongType {
        key: key.to_owned(),
        wanted,
        found: found.type_name(),
    }
}

#[cfg(test)]
mod tests;
