//! The directory reader: header, metadata, tensor entries, extents.
//!
//! Every count is compared with the bytes left before anything is allocated, so
//! memory stays within a small multiple of the file.

use super::head::Metadata;
use super::split::Split;
use super::{Array, GgufError, Tensor, TensorType, Value};
use std::collections::{BTreeMap, HashSet};

/// Where tensor data starts when the file does not say (gguf.md).
const DEFAULT_ALIGNMENT: u64 = 32;
/// ggml knows at most four dimensions.
const MAX_DIMS: u32 = 4;
/// Most metadata entries of a file: a thousand times those of any known. One of 13 bytes
/// takes some 150 in memory.
pub(super) const MAX_ENTRIES: u64 = 1 << 16;
/// Most strings in all lists of a file's metadata: twice those of the largest known
/// vocabulary (Gemma 4: 262,144 tokens and 514,906 merges). One of eight bytes takes at
/// least 24 in memory, and one of nine some 56.
pub(super) const MAX_STRINGS: u64 = 3 << 19;
/// Smallest metadata entry: key length 8, type 4, value 1.
const MIN_ENTRY: u64 = 13;
/// Most tensors of a model, all parts together: ten times the largest known. An entry
/// of 32 bytes takes some 400 in memory.
pub(super) const MAX_TENSORS: u64 = 200_000;
/// Smallest tensor entry: name length 8, dims count 4, one dim 8, type 4, offset 8.
const MIN_TENSOR: u64 = 32;

pub(super) struct Directory {
    pub version: u32,
    /// Where the tensor entries begin.
    pub metadata_end: usize,
    pub split: Split,
    pub metadata: BTreeMap<String, Value>,
    pub tensors: Vec<Tensor>,
}

/// Read everything before the tensor data and check all extents.
pub(super) fn directory(file: &[u8]) -> Result<Directory, GgufError> {
    let mut r = Reader::new(file);
    let (version, tensor_count, entry_count) = r.header()?;
    r.fits("the tensor count", tensor_count, MIN_TENSOR)?;
    check_tensors(tensor_count)?;
    let metadata = r.metadata(entry_count)?;
    let metadata_end = r.at;
    let tensors = r.tensors(tensor_count, alignment(&metadata)?)?;
    Ok(Directory {
        version,
        metadata_end,
        split: split(&metadata),
        metadata,
        tensors,
    })
}

/// Read the metadata of the beginning of a file.
pub(super) fn metadata(beginning: &[u8]) -> Result<Metadata, GgufError> {
    let mut r = Reader::new(beginning);
    let (version, _, entry_count) = r.header()?;
    let metadata = r.metadata(entry_count)?;
    Ok((version, metadata, r.at))
}

/// Refuse more tensors than any model has.
pub(super) fn check_tensors(count: u64) -> Result<(), GgufError> {
    match count <= MAX_TENSORS {
        true => Ok(()),
        false => Err(GgufError::Tensors {
            count,
            max: MAX_TENSORS,
        }),
    }
}

/// Refuse more metadata than any model has, before any of it is read.
fn check_metadata(what: &'static str, count: u64, max: u64) -> Result<(), GgufError> {
    match count <= max {
        true => Ok(()),
        false => Err(GgufError::Metadata { what, count, max }),
    }
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, GgufError> {
    let Some(value) = metadata.get("general.alignment") else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    let alignment = value.as_u64().unwrap_or(0);
    if alignment.is_power_of_two() && (8..=65536).contains(&alignment) {
        Ok(alignment)
    } else {
        Err(GgufError::Alignment { alignment })
    }
}

/// What the file says about parts; a file that says nothing is whole.
fn split(metadata: &BTreeMap<String, Value>) -> Split {
    let read = |key: &str| metadata.get(key).and_then(Value::as_u64);
    Split {
        no: read("split.no").unwrap_or(0),
        count: read("split.count").unwrap_or(0).max(1),
        tensors: read("split.tensors.count"),
    }
}

struct Reader<'a> {
    file: &'a [u8],
    at: usize,
    /// In the lists up to here.
    strings: u64,
}

impl<'a> Reader<'a> {
    fn new(file: &'a [u8]) -> Self {
        Self {
            file,
            at: 0,
            strings: 0,
        }
    }

    /// Version, number of tensors, number of metadata entries.
    fn header(&mut self) -> Result<(u32, u64, u64), GgufError> {
        let magic: [u8; 4] = self.array("the magic")?;
        if &magic != b"GGUF" {
            return Err(GgufError::BadMagic { found: magic });
        }
        let version = self.u32("the version")?;
        match version {
            2 | 3 => {}
            v if matches!(v.swap_bytes(), 1..=3) => return Err(GgufError::BigEndian),
            version => return Err(GgufError::Version { version }),
        }
        let tensors = self.u64("the tensor count")?;
        let entries = self.u64("the metadata count")?;
        check_metadata("entries", entries, MAX_ENTRIES)?;
        self.fits("the metadata count", entries, MIN_ENTRY)?;
        Ok((version, tensors, entries))
    }

    fn metadata(&mut self, entries: u64) -> Result<BTreeMap<String, Value>, GgufError> {
        let mut metadata = BTreeMap::new();
        for _ in 0..entries {
            let key = self.string("a metadata key")?;
            let ty = self.u32("a value type")?;
            let value = self.value(&key, ty)?;
            if metadata.contains_key(&key) {
                return Err(GgufError::DuplicateKey { key });
            }
            metadata.insert(key, value);
        }
        Ok(metadata)
    }

    fn left(&self) -> usize {
        self.file.len() - self.at
    }

    fn take(&mut self, what: &'static str, n: usize) -> Result<&'a [u8], GgufError> {
        if n > self.left() {
            return Err(GgufError::Truncated { what, at: self.at });
        }
        let bytes = &self.file[self.at..self.at + n];
        self.at += n;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(what, N)?);
        Ok(out)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Refuse a count whose elements of at least `size` bytes cannot be in the file.
    fn fits(&self, what: &'static str, count: u64, size: u64) -> Result<usize, GgufError> {
        let bytes = self.left();
        match count.checked_mul(size) {
            Some(n) if n <= bytes as u64 => Ok(count as usize),
            _ => Err(GgufError::Count { what, count, bytes }),
        }
    }

    fn string(&mut self, what: &'static str) -> Result<String, GgufError> {
        let len = self.u64(what)?;
        let len = self.fits(what, len, 1)?;
        let at = self.at;
        let bytes = self.take(what, len)?;
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| GgufError::Utf8 { what, at })
    }

    fn value(&mut self, key: &str, ty: u32) -> Result<Value, GgufError> {
        const W: &str = "a metadata value";
        Ok(match ty {
            0 => Value::U8(self.array::<1>(W)?[0]),
            1 => Value::I8(i8::from_le_bytes(self.array(W)?)),
            2 => Value::U16(u16::from_le_bytes(self.array(W)?)),
            3 => Value::I16(i16::from_le_bytes(self.array(W)?)),
            4 => Value::U32(self.u32(W)?),
            5 => Value::I32(i32::from_le_bytes(self.array(W)?)),
            6 => Value::F32(f32::from_le_bytes(self.array(W)?)),
            7 => Value::Bool(self.array::<1>(W)?[0] != 0),
            8 => Value::String(self.string(W)?),
            9 => Value::Array(self.values(key)?),
            10 => Value::U64(self.u64(W)?),
            11 => Value::I64(i64::from_le_bytes(self.array(W)?)),
            12 => Value::F64(f64::from_le_bytes(self.array(W)?)),
            id => {
                return Err(GgufError::ValueType {
                    key: key.to_owned(),
                    id,
                });
            }
        })
    }

    fn values(&mut self, key: &str) -> Result<Array, GgufError> {
        let ty = self.u32("an array's type")?;
        let n = self.u64("an array's length")?;
        Ok(match ty {
            0 => Array::U8(self.numbers(n, u8::from_le_bytes)?),
            1 => Array::I8(self.numbers(n, i8::from_le_bytes)?),
            2 => Array::U16(self.numbers(n, u16::from_le_bytes)?),
            3 => Array::I16(self.numbers(n, i16::from_le_bytes)?),
            4 => Array::U32(self.numbers(n, u32::from_le_bytes)?),
            5 => Array::I32(self.numbers(n, i32::from_le_bytes)?),
            6 => Array::F32(self.numbers(n, f32::from_le_bytes)?),
            7 => Array::Bool(self.numbers(n, |b: [u8; 1]| b[0] != 0)?),
            8 => {
                self.strings = self.strings.saturating_add(n);
                check_metadata("strings in lists", self.strings, MAX_STRINGS)?;
                // Each string has at least its eight bytes of length.
                let n = self.fits("an array's length", n, 8)?;
                let mut out = Vec::with_capacity(n);
                for _ in 0..n {
                    out.push(self.string("a string of an array")?);
                }
                Array::String(out)
            }
            9 => {
                return Err(GgufError::NestedArray {
                    key: key.to_owned(),
                });
            }
            10 => Array::U64(self.numbers(n, u64::from_le_bytes)?),
            11 => Array::I64(self.numbers(n, i64::from_le_bytes)?),
            12 => Array::F64(self.numbers(n, f64::from_le_bytes)?),
            id => {
                return Err(GgufError::ValueType {
                    key: key.to_owned(),
                    id,
                });
            }
        })
    }

    fn numbers<const N: usize, T>(
        &mut self,
        n: u64,
        from: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, GgufError> {
        let n = self.fits("an array's length", n, N as u64)?;
        let bytes = self.take("an array", n * N)?;
        Ok(bytes.as_chunks::<N>().0.iter().map(|b| from(*b)).collect())
    }

    fn tensors(&mut self, count: u64, alignment: u64) -> Result<Vec<Tensor>, GgufError> {
        let count = self.fits("the tensor count", count, MIN_TENSOR)?;
        let mut names = HashSet::with_capacity(count);
        let mut found = Vec::with_capacity(count);
        for _ in 0..count {
            let (tensor, offset) = self.tensor()?;
            if !names.insert(tensor.name.clone()) {
                return Err(GgufError::DuplicateTensor { name: tensor.name });
            }
            found.push((tensor, offset));
        }
        // The data begins at the next multiple of the alignment, in a file that ends
        // before it only when there are no tensors.
        let base = (self.at as u64).next_multiple_of(alignment);
        let mut tensors = Vec::with_capacity(count);
        for (tensor, offset) in found {
            tensors.push(place(self.file.len(), base, alignment, tensor, offset)?);
        }
        refuse_overlap(&tensors)?;
        Ok(tensors)
    }

    fn tensor(&mut self) -> Result<(Tensor, u64), GgufError> {
        let name = self.string("a tensor's name")?;
        let n = self.u32("a tensor's dimension count")?;
        if n == 0 || n > MAX_DIMS {
            return Err(GgufError::Dims {
                name,
                dims: vec![0; n.min(MAX_DIMS + 1) as usize],
            });
        }
        let mut dims = Vec::with_capacity(n as usize);
        for _ in 0..n {
            dims.push(self.u64("a tensor's dimensions")?);
        }
        let id = self.u32("a tensor's type")?;
        let offset = self.u64("a tensor's offset")?;
        let Some(ty) = TensorType::from_id(id) else {
            return Err(GgufError::TensorType { name, id });
        };
        Ok((
            Tensor {
                name,
                dims,
                ty,
                part: 0,
                start: 0,
                len: 0,
            },
            offset,
        ))
    }
}

/// Compute a tensor's length and check that it lies in the file.
fn place(
    file: usize,
    base: u64,
    alignment: u64,
    mut tensor: Tensor,
    offset: u64,
) -> Result<Tensor, GgufError> {
    let (block, bytes) = (tensor.ty.block_len(), tensor.ty.block_bytes());
    let elements = tensor.dims.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
    let len = match elements {
        Some(n) if n > 0 && tensor.dims[0].is_multiple_of(block) => (n / block).checked_mul(bytes),
        _ => None,
    };
    let Some(len) = len else {
        return Err(GgufError::Dims {
            name: tensor.name,
            dims: tensor.dims,
        });
    };
    let start = base.checked_add(offset);
    let end = start.and_then(|s| s.checked_add(len));
    match (start, end) {
        (Some(start), Some(end)) if end <= file as u64 && offset.is_multiple_of(alignment) => {
            tensor.start = start as usize;
            tensor.len = len as usize;
            Ok(tensor)
        }
        _ => Err(GgufError::Extent {
            name: tensor.name,
            offset,
            len,
        }),
    }
}

fn refuse_overlap(tensors: &[Tensor]) -> Result<(), GgufError> {
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    order.sort_by_key(|t| t.start);
    for pair in order.windows(2) {
        if pair[0].start + pair[0].len > pair[1].start {
            return Err(GgufError::Overlap {
                first: pair[0].name.clone(),
                second: pair[1].name.clone(),
            });
        }
    }
    Ok(())
}
