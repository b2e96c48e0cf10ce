//! Everything that can be wrong with a GGUF file, by name.

/// Why a GGUF file was refused. The texts are shown to people as they are.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file cannot be opened or mapped.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Not GGUF at all.
    #[error("not a GGUF file (it starts with {found:02x?}, not \"GGUF\")")]
    BadMagic {
        /// The first bytes found.
        found: [u8; 4],
    },
    /// Version other than 2 and 3.
    #[error("GGUF version {version} is not supported (2 and 3 are; convert the file again)")]
    Version {
        /// The version found.
        version: u32,
    },
    /// A big-endian file.
    #[error("this GGUF file is big-endian; only little-endian files are supported")]
    BigEndian,
    /// The file ends inside a field.
    #[error("the file ends inside {what} at byte {at}: the download is probably incomplete")]
    Truncated {
        /// The field being read.
        what: &'static str,
        /// Where.
        at: usize,
    },
    /// A count that cannot fit into the file.
    #[error("{what} is {count}, more than the file's {bytes} bytes can hold")]
    Count {
        /// Which count.
        what: &'static str,
        /// Its value.
        count: u64,
        /// Bytes left in the file.
        bytes: usize,
    },
    /// A string that is not UTF-8.
    #[error("{what} at byte {at} is not UTF-8")]
    Utf8 {
        /// Which string.
        what: &'static str,
        /// Where.
        at: usize,
    },
    /// A metadata type id that does not exist.
    #[error("metadata key {key:?} has unknown type id {id}")]
    ValueType {
        /// The key.
        key: String,
        /// The id.
        id: u32,
    },
    /// An array inside an array.
    #[error("metadata key {key:?} holds nested arrays, which no known model uses")]
    NestedArray {
        /// The key.
        key: String,
    },
    /// A key that occurs twice.
    #[error("metadata key {key:?} occurs twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A tensor name that occurs twice.
    #[error("tensor {name:?} occurs twice")]
    DuplicateTensor {
        /// The name.
        name: String,
    },
    /// A needed key is missing.
    #[error("metadata key {key:?} is missing")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A key has another type than needed.
    #[error("metadata key {key:?} should be {wanted} but is {found}")]
    WrongType {
        /// The key.
        key: String,
        /// What is needed.
        wanted: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// A bad alignment.
    #[error("general.alignment is {alignment}; it must be a power of two from 8 to 65536")]
    Alignment {
        /// The value found.
        alignment: u64,
    },
    /// A tensor type id that does not exist.
    #[error("tensor {name:?} has unknown type id {id}")]
    TensorType {
        /// The tensor.
        name: String,
        /// The id.
        id: u32,
    },
    /// A tensor with impossible dimensions.
    #[error("tensor {name:?} has impossible dimensions {dims:?}")]
    Dims {
        /// The tensor.
        name: String,
        /// As found.
        dims: Vec<u64>,
    },
    /// A tensor whose bytes are not inside the file, or not aligned.
    #[error("tensor {name:?} at offset {offset} with {len} bytes does not fit into the file")]
    Extent {
        /// The tensor.
        name: String,
        /// Offset in the data section.
        offset: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// Two tensors share bytes.
    #[error("tensors {first:?} and {second:?} overlap")]
    Overlap {
        /// The lower one.
        first: String,
        /// The upper one.
        second: String,
    },
    /// A part of a split model that is not its first.
    #[error(
        "this is part {part} of {count} of a split model: open the first part, whose name ends in -00001-of-{count:05}.gguf"
    )]
    NotFirstPart {
        /// Part number from one.
        part: u64,
        /// Number of parts.
        count: u64,
    },
    /// More parts than any model has.
    #[error("the file says that it has {count} parts; at most {max} are allowed")]
    Parts {
        /// Number of parts.
        count: u64,
        /// The most.
        max: u64,
    },
    /// More tensors than any model has.
    #[error("the model has {count} tensors; at most {max} are allowed")]
    Tensors {
        /// Number of tensors.
        count: u64,
        /// The most.
        max: u64,
    },
    /// More metadata than any model has.
    #[error("the metadata has {count} {what}; at most {max} are allowed")]
    Metadata {
        /// Of what.
        what: &'static str,
        /// How many.
        count: u64,
        /// The most.
        max: u64,
    },
    /// The first part was renamed, so that the others cannot be found.
    #[error(
        "{path} is the first part of a split model: its name must end in {ending:?}, as it did"
    )]
    PartName {
        /// The file.
        path: String,
        /// How its name must end.
        ending: String,
    },
    /// A part that belongs elsewhere.
    #[error("{path} is not part {part} of {count} of this model: download all parts again")]
    WrongPart {
        /// The file.
        path: String,
        /// The part it should be, from one.
        part: u64,
        /// Number of parts.
        count: u64,
    },
    /// The parts hold more or fewer tensors than the model.
    #[error(
        "the parts hold {found} tensors together, the model has {wanted}: a part belongs to another model"
    )]
    PartTensors {
        /// By `split.tensors.count`.
        wanted: u64,
        /// In the parts.
        found: u64,
    },
    /// A split model in memory.
    #[error(
        "this is the first of {count} parts of a split model: open it as a file, beside the other parts"
    )]
    PartInMemory {
        /// Number of parts.
        count: u64,
    },
}
