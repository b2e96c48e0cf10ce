//! A model against its slow reference, and files that must be refused.

mod architectures;

use super::*;
use crate::gguf::TensorType;
use crate::synthetic::{Shape, qwen3};

fn load(bytes: Vec<u8>) -> Result<Model, LoadError> {
    Model::from_bytes(
        bytes,
        &OpenOptions {
            threads: 1,
            ..OpenOptions::default()
        },
    )
}

/// Replace every occurrence of `from` (of equal length) in a file.
fn patch(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let at: Vec<usize> = (0..bytes.len() - from.len())
        .filter(|i| bytes[*i..].starts_with(from))
        .collect();
    assert!(!at.is_empty());
    at.into_iter()
        .for_each(|i| bytes[i..i + to.len()].copy_from_slice(to));
}

#[test]
fn a_model_says_what_it_is() {
    let bytes = qwen3(&Shape::tiny(), TensorType::Q8_0, 1);
    let digest: [u8; 32] = blake3::hash(&bytes).into();
    let model = load(bytes).unwrap();
    let info = model.info();
    assert_eq!(
        (info.architecture.as_str(), info.quantisation.as_str()),
        ("qwen3", "Q8_0")
    );
    assert_eq!(
        (info.context, info.vocab, model.digest()),
        (512, 320, digest)
    );
    assert_eq!(info.numerics.as_deref(), Some(NUMERICS));
}

#[test]
fn a_chat_becomes_tokens_through_the_models_template() {
    let model = load(qwen3(&Shape::tiny(), TensorType::Q8_0, 1)).unwrap();
    let chat = [ChatMessage {
        role: "user".into(),
        content: "the".into(),
    }];
    let text = model.render_chat(&chat, "2026-11-20").unwrap();
    assert_eq!(
        text,
        "<|im_start|>user\nthe<|im_end|>\n<|im_start|>assistant\n"
    );
    let tokens = model.encode_chat(&chat, "2026-11-20").unwrap();
    assert_eq!(model.tokenizer().decode(&tokens), text.as_bytes());
    assert_eq!(model.tokenizer().bytes(tokens[0]), b"<|im_start|>");
    assert!(matches!(
        model.render_chat(&chat, "today"),
        Err(TemplateError::Date { .. })
    ));
}

#[test]
fn what_cannot_be_run_is_refused_by_name() {
    let sample = || qwen3(&Shape::tiny(), TensorType::Q8_0, 1);
    let mut other = sample();
    patch(
        &mut other,
        b"\x05\0\0\0\0\0\0\0qwen3",
        b"\x05\0\0\0\0\0\0\0qwen9",
    );
    assert!(matches!(load(other), Err(LoadError::Architecture { .. })));
    let mut missing = sample();
    patch(&mut missing, b"blk.1.ffn_up", b"blk.1.ffn_xx");
    let error = load(missing).unwrap_err().to_string();
    assert_eq!(error, "tensor \"blk.1.ffn_up.weight\" is missing");
    let mut heads = sample();
    patch(
        &mut heads,
        b"head_count_kv\x04\0\0\0\x02\0\0\0",
        b"head_count_kv\x04\0\0\0\x03\0\0\0",
    );
    assert!(matches!(load(heads), Err(LoadError::Hyperparameter { .. })));
    let mut layers = sample();
    patch(
        &mut layers,
        b"block_count\x04\0\0\0\x02\0\0\0",
        b"block_count\x04\0\0\0\xff\xff\xff\xff",
    );
    assert!(matches!(
        load(layers),
        Err(LoadError::Hyperparameter { .. })
    ));
    let mut width = sample();
    patch(
        &mut width,
        b"embedding_length\x04\0\0\0\x40",
        b"embedding_length\x04\0\0\0\x20",
    );
    assert!(matches!(load(width), Err(LoadError::Shape { .. })));
}

#[test]
fn a_weight_that_is_not_finite_is_refused() {
    for (ty, bad) in [
        (TensorType::F16, &[0, 0x7c][..]),
        (TensorType::F32, &[0, 0, 0xc0, 0x7f]),
    ] {
        let mut bytes = qwen3(&Shape::tiny(), ty, 1);
        let end = bytes.len() - 64 * 4 - 64;
        bytes[end..end + bad.len()].copy_from_slice(bad);
        assert!(
            matches!(load(bytes), Err(LoadError::NotFinite { .. })),
            "{ty}"
        );
    }
}

#[test]
fn a_model_gives_the_same_bits_before_and_after_it_is_packed() {
    let untied = Shape {
        tied: false,
        vocab: 300,
        ..Shape::tiny()
    };
    let tokens: Vec<u32> = (0..40).map(|i| (i * 57 + 11) % 256).collect();
    for shape in [Shape::tiny(), untied] {
        for ty in [TensorType::Q8_0, TensorType::F16] {
            let bytes = qwen3(&shape, ty, 5);
            let at_once = load(bytes.clone()).unwrap();
            let expected = at_once.logits(&tokens, true).unwrap();
            let later = || {
                let file = Gguf::from_bytes(bytes.clone()).unwrap();
                let options = OpenOptions {
                    threads: 2,
                    ..OpenOptions::default()
                };
                loader::load_how(file, &options, &Placement::default(), true).unwrap()
            };
            let model = later();
            assert_eq!(model.0.packing.is_some(), ty == TensorType::Q8_0);
            assert_eq!(model.digest(), at_once.digest());
            // Whatever is packed by now.
            assert_eq!(model.logits(&tokens, true).unwrap(), expected);
            model.settle();
            assert_eq!(model.logits(&tokens, true).unwrap(), expected);
            // One that goes while it is packed takes nothing with it.
            for _ in 0..20 {
                let one = later();
                assert_eq!(one.logits(&tokens[..1], true).unwrap(), expected[..1]);
            }
        }
    }
}

/// Logits of every position against the f64 reference, as a normalised error.
fn error_against_reference(bytes: Vec<u8>, tokens: &[u32]) -> f64 {
    use crate::ops::reference;
    let truth = oracle::logits(&Gguf::from_bytes(bytes.clone()).unwrap(), tokens);
    let model = load(bytes).unwrap();
    let found = model.logits(tokens, true).unwrap();
    let found = found.iter().flatten().map(|l| f64::from(*l));
    reference::nmse(truth.iter().copied(), found)
}

#[test]
fn logits_agree_with_the_slow_reference() {
    let tokens: Vec<u32> = (0..150).map(|i| (i * 57 + 11) % 256).collect();
    let untied = Shape {
        tied: false,
        heads: 6,
        kv_heads: 3,
        vocab: 300,
        ..Shape::tiny()
    };
    for shape in [Shape::tiny(), untied] {
        // Keys and values are kept in f16: 1e-6. Eight-bit activations: 1e-3.
        for (ty, bound) in [
            (TensorType::F32, 1e-6),
            (TensorType::F16, 1e-6),
            (TensorType::Q8_0, 1e-3),
        ] {
            let error = error_against_reference(qwen3(&shape, ty, 3), &tokens);
            assert!(error < bound, "{ty}: {error:e}");
        }
    }
}

#[test]
fn the_pocket_models_logits_agree_with_the_slow_reference() {
    let model = load(crate::pocket::pocket().to_vec()).unwrap();
    let tokens = model
        .tokenizer()
        .encode("A host is a node that runs an open model.", false);
    let error = error_against_reference(crate::pocket::pocket().to_vec(), &tokens);
    assert!(error < 1e-3, "{error:e}");
}

#[test]
fn models_and_sequences_may_move_between_threads() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<Model>();
    shared::<crate::CancelFlag>();
    sent::<crate::Generation>();
}

#[test]
fn logits_need_no_vocabulary_where_none_is_asked_for() {
    let whole = qwen3(&Shape::tiny(), TensorType::Q8_0, 3);
    let mut bytes = whole.clone();
    patch(&mut bytes, b"qwen2", b"other");
    assert!(matches!(load(bytes.clone()), Err(LoadError::Tokenizer(_))));
    let options = OpenOptions {
        threads: 1,
        any_vocabulary: true,
        ..OpenOptions::default()
    };
    let model = Model::from_bytes(bytes, &options).unwrap();
    let expected = load(whole).unwrap().logits(&[1, 2, 3], true).unwrap();
    assert_eq!(model.logits(&[1, 2, 3], true).unwrap(), expected);
    assert_eq!(model.tokenizer().len(), 320);
    assert!(model.tokenizer().encode("text", true).is_empty());
}

/// A file of a name of its own with these bytes.
#[cfg(unix)]
fn on_disk(name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let name = format!("freehold-{}-{name}.gguf", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[cfg(unix)]
fn map(path: &Path, later: bool) -> Model {
    let options = OpenOptions {
        threads: 2,
        ..OpenOptions::default()
    };
    let file = Gguf::open(path).unwrap();
    loader::load_how(file, &options, &Placement::default(), later).unwrap()
}

#[cfg(unix)]
#[test]
fn a_file_that_is_overwritten_or_truncated_after_loading_changes_nothing() {
    // Types whose rows the output gives, and one whose embedding is kept apart.
    for ty in [TensorType::Q8_0, TensorType::F16, TensorType::F32] {
        let bytes = qwen3(&Shape::tiny(), ty, 3);
        let path = on_disk(&format!("after-{ty}"), &bytes);
        let expected = load(bytes.clone())
            .unwrap()
            .logits(&[1, 2, 3], false)
            .unwrap();
        for later in [false, true] {
            std::fs::write(&path, &bytes).unwrap();
            let model = map(&path, later && ty == TensorType::Q8_0);
            model.settle();
            assert!(model.0.backing.file().is_none(), "nothing is mapped");
            let digest: [u8; 32] = blake3::hash(&bytes).into();
            assert_eq!(model.digest(), digest);
            let head = model.head().unwrap();
            assert_eq!(
                (head.length, &head.bytes[..4]),
                (bytes.len() as u64, &b"GGUF"[..])
            );
            std::fs::File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(100)
                .unwrap();
            let found = model.logits(&[1, 2, 3], false).unwrap();
            assert_eq!(found, expected, "{ty}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}

/// As where memory is too short to pack: everything still comes from the file.
#[cfg(unix)]
fn unpacked(path: &Path, bytes: &[u8]) -> (Model, Arc<Gguf>) {
    std::fs::write(path, bytes).unwrap();
    let mut model = map(path, false);
    let file = Arc::new(Gguf::open(path).unwrap());
    let backing = backing::Backing::new(file.clone(), None);
    let inner = Arc::get_mut(&mut model.0).unwrap();
    inner.backing = Arc::new(backing);
    assert!(model.logits(&[1, 2, 3], false).is_ok());
    (model, file)
}

/// Says of a file that it was written to. The clock of the file system may not have moved
/// since it was.
#[cfg(unix)]
fn touch(file: &std::fs::File) {
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    file.set_modified(later).unwrap();
}

#[cfg(unix)]
#[test]
fn an_engine_whose_file_has_changed_says_so_and_ends() {
    use crate::runtime::{Engine, EngineError, EngineOptions, Request, Sampling};
    let bytes = qwen3(&Shape::tiny(), TensorType::Q8_0, 3);
    let path = on_disk("engine", &bytes);
    let (model, _file) = unpacked(&path, &bytes);
    let engine = Engine::new(&model, EngineOptions::default()).unwrap();
    let request = Request {
        prompt: vec![1, 2, 3],
        sampling: Sampling::default(),
        seed: 0,
        max_output: 4,
        stop: Vec::new(),
        owner: 0,
        scope: [0; 32],
        allowance: u64::MAX,
    };
    let ask = || engine.submit(request.clone());
    assert!(ask().unwrap().all(|step| step.is_ok()));
    assert_eq!(engine.broken(), None);
    touch(&std::fs::File::options().write(true).open(&path).unwrap());
    let gone = EngineError::FileChanged;
    // Before anybody asked for a step.
    assert_eq!(engine.broken(), Some(gone.clone()));
    let stream = ask().unwrap();
    assert_eq!(stream.last(), Some(Err(gone.clone())));
    // The thread may still be on its way out when the answer's end is read.
    while ask().is_ok() {
        std::thread::yield_now();
    }
    assert_eq!(ask().err(), Some(gone));
    std::fs::remove_file(&path).unwrap();
}

#[cfg(unix)]
#[test]
fn a_file_that_changes_while_it_is_read_fails_batches_and_kills_nobody() {
    use crate::runtime::EngineError;
    use std::io::{Seek, SeekFrom, Write};
    let bytes = qwen3(&Shape::tiny(), TensorType::Q8_0, 3);
    let path = on_disk("while", &bytes);
    let mapped = || unpacked(&path, &bytes);
    let open = || std::fs::File::options().write(true).open(&path).unwrap();
    let gone = Some(EngineError::FileChanged);
    // Shorter: the bytes that are gone read as zeros, and nobody takes them for weights.
    let (model, file) = mapped();
    open().set_len(100).unwrap();
    let last = file.file().len() - 1;
    assert_eq!(file.file()[last], 0);
    assert_eq!(model.logits(&[1, 2, 3], false).err(), gone);
    // Of the same length, and other bytes.
    let (model, _file) = mapped();
    let mut writer = open();
    writer.seek(SeekFrom::End(-40)).unwrap();
    writer.write_all(&[1; 40]).unwrap();
    touch(&writer);
    assert_eq!(model.logits(&[1, 2, 3], false).err(), gone);
    // Another file under its name, or none: what is mapped stays what it was.
    let (model, _file) = mapped();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"something else").unwrap();
    assert!(model.logits(&[1, 2, 3], false).is_ok());
    std::fs::remove_file(&path).unwrap();
    assert!(model.logits(&[1, 2, 3], false).is_ok());
}
