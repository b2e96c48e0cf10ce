//! Reading of good and hostile GGUF files, on small synthetic ones.

use super::*;
use crate::synthetic::{Shape, qwen3};
use proptest::prelude::*;

fn sample() -> Vec<u8> {
    qwen3(&Shape::tiny(), TensorType::Q8_0, 7)
}

#[test]
fn a_written_model_reads_back_with_its_metadata_and_tensors() {
    let file = Gguf::from_bytes(sample()).unwrap();
    assert_eq!(file.version(), 3);
    assert_eq!(file.str("general.architecture").unwrap(), "qwen3");
    assert_eq!(file.uint("qwen3.block_count").unwrap(), 2);
    let q = file.tensor("blk.0.attn_q.weight").unwrap();
    assert_eq!((q.row_len(), q.rows(), q.ty), (64, 128, TensorType::Q8_0));
    assert_eq!(file.bytes(q).len(), 64 * 128 / 32 * 34);
}

#[test]
fn every_truncation_is_an_error_that_says_so() {
    let bytes = sample();
    for len in (0..4096).chain((4096..bytes.len()).step_by(997)) {
        assert!(Gguf::from_bytes(&bytes[..len]).is_err(), "cut at {len}");
    }
}

#[test]
fn huge_counts_are_refused_before_anything_is_allocated() {
    for at in [8, 16] {
        for count in [u64::MAX, 1 << 62, 1 << 32] {
            let mut bytes = sample();
            bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
            let error = Gguf::from_bytes(bytes).unwrap_err();
            match at {
                8 => assert!(matches!(error, GgufError::Count { .. })),
                _ => assert!(matches!(error, GgufError::Metadata { .. })),
            }
        }
    }
}

#[test]
fn a_head_with_more_metadata_than_any_model_has_is_useless_whatever_follows() {
    // Magic, version, no tensors, then so many entries.
    let head = |entries: u64| {
        [
            b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0",
            &entries.to_le_bytes()[..],
        ]
        .concat()
    };
    let list = |strings: u64| {
        let (key, list_of_strings) = (b"\x01\0\0\0\0\0\0\0a", b"\x09\0\0\0\x08\0\0\0");
        [&head(1)[..], key, list_of_strings, &strings.to_le_bytes()].concat()
    };
    for (most, head) in [
        (read::MAX_ENTRIES, &head as &dyn Fn(u64) -> Vec<u8>),
        (read::MAX_STRINGS, &list),
    ] {
        assert!(Gguf::from_head(head(most)).unwrap_err().is_short());
        let error = Gguf::from_head(head(most + 1)).unwrap_err();
        assert!(matches!(error, GgufError::Metadata { .. }));
        assert!(!error.is_short());
    }
    // Of all lists together.
    let mut writer = write::Writer::new("none");
    let (half, more) = (
        read::MAX_STRINGS as usize / 2,
        read::MAX_STRINGS as usize / 2 + 1,
    );
    writer.key("one", write::Value::Texts(vec![String::new(); half]));
    writer.key("two", write::Value::Texts(vec![String::new(); more]));
    let error = Gguf::from_head(writer.finish()).unwrap_err();
    assert!(matches!(error, GgufError::Metadata { .. }));
}

#[test]
fn a_directory_of_too_many_tensors_is_refused_before_it_is_read() {
    let mut bytes = sample();
    bytes[8..16].copy_from_slice(&(read::MAX_TENSORS + 1).to_le_bytes());
    bytes.resize(32 * (read::MAX_TENSORS as usize + 2), 0);
    assert!(matches!(
        Gguf::from_bytes(bytes),
        Err(GgufError::Tensors { .. })
    ));
}

#[test]
fn foreign_files_are_refused_by_name() {
    assert!(matches!(
        Gguf::from_bytes(*b"PK\x03\x04"),
        Err(GgufError::BadMagic { .. })
    ));
    let mut bytes = sample();
    bytes[4..8].copy_from_slice(&3u32.to_be_bytes());
    assert!(matches!(
        Gguf::from_bytes(bytes.clone()),
        Err(GgufError::BigEndian)
    ));
    bytes[4..8].copy_from_slice(&1u32.to_le_bytes());
    assert!(matches!(
        Gguf::from_bytes(bytes),
        Err(GgufError::Version { version: 1 })
    ));
}

#[test]
fn a_mapped_file_equals_one_in_memory_and_an_empty_one_is_truncated() {
    let folder = std::env::temp_dir().join(format!("freehold-gguf-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("model.gguf");
    std::fs::write(&path, sample()).unwrap();
    assert_eq!(Gguf::open(&path).unwrap().file(), sample());
    std::fs::write(&path, b"").unwrap();
    assert!(matches!(
        Gguf::open(&path),
        Err(GgufError::Truncated { .. })
    ));
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(matches!(Gguf::open(&path), Err(GgufError::Io { .. })));
}

#[test]
fn what_was_released_reads_as_before() {
    let folder = Folder::new("released");
    let path = folder.write(&[sample()]);
    let (file, kept) = (
        Gguf::open(&path).unwrap(),
        Gguf::from_bytes(sample()).unwrap(),
    );
    for tensor in file.tensors() {
        let bytes = file.bytes(tensor);
        for part in [
            bytes,
            &bytes[bytes.len() / 3..bytes.len() / 2],
            &bytes[..0],
            &[],
        ] {
            file.release(part);
            kept.release(part);
            assert!(file.bytes(tensor) == kept.bytes(tensor), "{}", tensor.name);
        }
    }
    let foreign = vec![1; 5000];
    file.release(&foreign);
    assert_eq!(foreign, vec![1; 5000]);
    assert_eq!(file.digest(), <[u8; 32]>::from(blake3::hash(&sample())));
    assert!(file.parts().eq(kept.parts()));
}

/// A model in `count` parts: the first holds the metadata and, as splitters may leave
/// it, no tensor; the others share the tensors.
fn parts(count: usize) -> Vec<Vec<u8>> {
    let total = 6;
    (0..count)
        .map(|no| {
            let mut w = write::Writer::new("test");
            for (key, value) in [("no", no), ("count", count), ("tensors.count", total)] {
                w.key(&format!("split.{key}"), write::Value::U32(value as u32));
            }
            if no == 0 {
                w.key("test.answer", write::Value::U32(42));
            }
            for i in (0..total).filter(|i| no > 0 && i % (count - 1) == no - 1) {
                let weights = [i as f32; 8];
                w.tensor(&format!("t{i}"), &[8], &weights, write::Encoding::F32);
            }
            w.finish()
        })
        .collect()
}

/// A folder of its own that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("freehold-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Write parts under the names they have by convention; the first one's path.
    fn write(&self, parts: &[Vec<u8>]) -> PathBuf {
        for (i, part) in parts.iter().enumerate() {
            std::fs::write(self.part(i, parts.len()), part).unwrap();
        }
        self.part(0, parts.len())
    }

    fn part(&self, i: usize, count: usize) -> PathBuf {
        self.0.join(format!("m-{:05}-of-{count:05}.gguf", i + 1))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_first_part_opens_a_split_model_whole() {
    let folder = Folder::new("split");
    let parts = parts(4);
    let file = Gguf::open(&folder.write(&parts)).unwrap();
    assert_eq!(file.uint("test.answer").unwrap(), 42);
    assert_eq!(file.tensors().len(), 6);
    for i in 0..6u8 {
        let tensor = file.tensor(&format!("t{i}")).unwrap();
        assert_eq!(file.bytes(tensor), f32::from(i).to_le_bytes().repeat(8));
    }
    let digests: Vec<u8> = parts
        .iter()
        .flat_map(|p| *blake3::hash(p).as_bytes())
        .collect();
    assert_eq!(file.digest(), *blake3::hash(&digests).as_bytes());
    let whole = Gguf::from_bytes(sample()).unwrap();
    assert_eq!(whole.digest(), *blake3::hash(&sample()).as_bytes());
    assert_eq!((file.parts().len(), whole.parts().len()), (4, 1));
}

#[test]
fn a_head_is_read_without_tensors_and_a_shorter_one_asks_for_more() {
    let whole = Gguf::from_bytes(sample()).unwrap();
    let (digest, head) = whole.digest_and_head();
    assert_eq!(digest, whole.digest());
    assert_eq!(
        (head.length, head.parts),
        (sample().len() as u64, Vec::new())
    );
    for length in 0..head.bytes.len() {
        let beginning = head.bytes[..length].to_vec();
        match Gguf::from_head(beginning) {
            Ok(read) => {
                assert!(length >= whole.metadata_end);
                assert_eq!(read.metadata(), whole.metadata());
                assert!(read.tensors().is_empty());
            }
            Err(error) => {
                assert!(length < whole.metadata_end && error.is_short(), "{error}");
            }
        }
    }
    assert!(!Gguf::from_head(*b"GGML....").unwrap_err().is_short());
    let folder = Folder::new("head");
    let parts = parts(3);
    let (_, head) = Gguf::open(&folder.write(&parts)).unwrap().digest_and_head();
    let digests: Vec<[u8; 32]> = parts.iter().map(|p| blake3::hash(p).into()).collect();
    assert_eq!(head.parts, digests);
}

#[test]
fn what_is_wrong_with_a_split_model_is_said_by_name() {
    let folder = Folder::new("parts");
    let good = parts(3);
    let first = folder.write(&good);
    let error = |path: &Path| Gguf::open(path).unwrap_err();
    let text = error(&folder.part(1, 3)).to_string();
    assert!(
        text.contains("part 2 of 3") && text.contains("-00001-of-00003.gguf"),
        "{text}"
    );
    assert!(matches!(
        Gguf::from_bytes(good[0].clone()),
        Err(GgufError::PartInMemory { count: 3 })
    ));
    let renamed = folder.0.join("renamed.gguf");
    std::fs::write(&renamed, &good[0]).unwrap();
    assert!(matches!(error(&renamed), GgufError::PartName { .. }));
    folder.write(&[good[0].clone(), good[2].clone(), good[2].clone()]);
    assert!(matches!(
        error(&first),
        GgufError::WrongPart { part: 2, .. }
    ));
    let other = parts(4);
    folder.write(&[good[0].clone(), other[1].clone(), good[2].clone()]);
    assert!(matches!(
        error(&first),
        GgufError::WrongPart { part: 2, .. }
    ));
    // A part of another model that calls itself the same number.
    let mut twin = good[2].clone();
    let at = twin.windows(8).position(|w| w == b"split.no").unwrap() + 12;
    twin[at] = 1;
    folder.write(&[good[0].clone(), twin, good[2].clone()]);
    assert!(matches!(error(&first), GgufError::DuplicateTensor { .. }));
    let mut fewer = good[0].clone();
    let key = b"split.tensors.count";
    let at = fewer.windows(key.len()).position(|w| w == key).unwrap() + key.len() + 4;
    fewer[at] = 7;
    folder.write(&[fewer, good[1].clone(), good[2].clone()]);
    let wrong = GgufError::PartTensors {
        wanted: 7,
        found: 6,
    };
    assert_eq!(error(&first).to_string(), wrong.to_string());
    let mut many = good[0].clone();
    let at = many.windows(11).position(|w| w == b"split.count").unwrap() + 15;
    many[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    folder.write(&[many, good[1].clone(), good[2].clone()]);
    assert!(matches!(error(&first), GgufError::Parts { .. }));
    folder.write(&good);
    std::fs::remove_file(folder.part(2, 3)).unwrap();
    assert!(matches!(error(&first), GgufError::Io { .. }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn a_mutated_part_never_panics_the_reader(
        no in 0usize..3, changes in prop::collection::vec((0usize..400, any::<u8>()), 1..5),
    ) {
        let mut parts = parts(3);
        for (at, value) in changes {
            let len = parts[no].len();
            parts[no][at % len] = value;
        }
        let mut sources = parts.into_iter().map(|p| Source::Memory(p.into()));
        let first = sources.next().unwrap();
        let read = Gguf::read(first, |_| Ok(sources.map(|s| (PathBuf::new(), s)).collect()));
        if let Ok(file) = read {
            for tensor in file.tensors() {
                prop_assert_eq!(file.bytes(tensor).len(), tensor.len);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn a_mutated_file_never_panics_the_reader_or_the_tokenizer(
        changes in prop::collection::vec((0usize..12_000, any::<u8>()), 1..8),
        wide in prop::option::of((0usize..12_000, prop::sample::select(vec![
            0u64, 1, u64::MAX, 1 << 31, 1 << 32, 1 << 63, (1 << 63) - 1,
        ]))),
    ) {
        let mut bytes = sample();
        for (at, value) in changes {
            bytes[at] = value;
        }
        if let Some((at, value)) = wide {
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        if let Ok(file) = Gguf::from_bytes(bytes) {
            for tensor in file.tensors() {
                prop_assert_eq!(file.bytes(tensor).len(), tensor.len);
            }
            if let Ok(tokenizer) = crate::tokenizer::Tokenizer::from_gguf(&file) {
                let _ = tokenizer.encode("hello <|im_end|> the end", true);
            }
        }
    }
}
