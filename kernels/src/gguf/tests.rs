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
            assert!(matches!(
                Gguf::from_bytes(bytes),
                Err(GgufError::Count { .. })
            ));
        }
    }
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
