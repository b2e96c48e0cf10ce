//! Every vocabulary that llama.cpp ships with test vectors, line by line.
//!
//! Driven by `tests/thirdparty/tokenizers.sh`, which fetches the files and names
//! their folder in `FREEHOLD_VOCABULARIES`; without it there is nothing to compare
//! with, and the tests say so.

use kernels::gguf::Gguf;
use kernels::tokenizer::{Tokenizer, TokenizerError};
use kernels::{ChatMessage, Model, OpenOptions, render_template};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Vocabularies we claim: every one that has vectors.
const CLAIMED: [&str; 15] = [
    "bert-bge",
    "command-r",
    "deepseek-coder",
    "deepseek-llm",
    "falcon",
    "gemma-4",
    "gpt-2",
    "llama-bpe",
    "llama-spm",
    "mpt",
    "phi-3",
    "qwen2",
    "qwen35",
    "refact",
    "starcoder",
];
/// Between two texts in a file of inputs.
const SEPARATOR: &str = "\n__ggml_vocab_test__\n";

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("FREEHOLD_VOCABULARIES").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: run tests/thirdparty/tokenizers.sh");
    }
    folder
}

fn load(folder: &Path, name: &str) -> Result<Tokenizer, TokenizerError> {
    let file = Gguf::open(&folder.join(format!("ggml-vocab-{name}.gguf")))?;
    Tokenizer::from_gguf(&file)
}

fn vectors(folder: &Path, name: &str) -> Vec<(String, Vec<u32>)> {
    let read = |end: &str| {
        let path = folder.join(format!("ggml-vocab-{name}.gguf.{end}"));
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    let (inputs, outputs) = (read("inp"), read("out"));
    let mut texts: Vec<&str> = inputs.split(SEPARATOR).collect();
    // Most files have a separator behind the last text, too.
    if texts.last() == Some(&"") {
        texts.pop();
    }
    let lines: Vec<&str> = outputs.lines().collect();
    assert_eq!(texts.len(), lines.len(), "{name}");
    let ids = |line: &&str| {
        line.split_whitespace()
            .map(|id| id.parse().unwrap())
            .collect()
    };
    let lines = lines.iter().map(ids);
    texts.iter().map(|t| (*t).to_owned()).zip(lines).collect()
}

#[test]
fn every_claimed_vocabulary_gives_the_ids_of_its_vectors() {
    let Some(folder) = folder() else { return };
    let mut wrong = Vec::new();
    for name in CLAIMED {
        let tokenizer = match load(&folder, name) {
            Ok(tokenizer) => tokenizer,
            Err(e) => {
                wrong.push(format!("{name}: {e}"));
                continue;
            }
        };
        for (text, expected) in vectors(&folder, name) {
            let ids = tokenizer.encode(&text, false);
            if ids != expected {
                wrong.push(format!(
                    "{name}: {text:?}\n  ours   {ids:?}\n  theirs {expected:?}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn text_comes_back_from_every_vocabulary_but_wordpiece() {
    let Some(folder) = folder() else { return };
    for name in CLAIMED.iter().filter(|n| **n != "bert-bge") {
        let tokenizer = load(&folder, name).unwrap_or_else(|e| panic!("{name}: {e}"));
        for (text, _) in vectors(&folder, name) {
            let ids = tokenizer.encode(&text, false);
            let back = tokenizer.decode(&ids);
            assert_eq!(String::from_utf8_lossy(&back), text, "{name}");
            let mut stream = tokenizer.stream();
            let mut streamed: String = ids.iter().map(|t| stream.push(&tokenizer, *t)).collect();
            streamed += &stream.finish();
            assert_eq!(streamed, text, "{name}");
        }
    }
}

#[test]
fn vocabularies_of_another_kind_are_refused_by_name_and_unnamed_ones_load() {
    let Some(folder) = folder() else { return };
    let refusal = |name: &str| load(&folder, name).expect_err("no vectors").to_string();
    assert!(refusal("nomic-bert-moe").contains("\"t5\""));
    // Files that name no pre-tokeniser load by the default one, with a warning.
    for name in ["aquila", "gpt-neox"] {
        assert!(load(&folder, name).is_ok(), "{name}");
    }
}

/// Longest that 200 kB of one character may take: a thousandth of what looking for each of
/// their prefixes would.
const AT_ONCE: Duration = Duration::from_secs(10);

fn long_runs(name: &str, tokenizer: &Tokenizer) {
    for unit in [
        "a", " ", "\n", "'", "é", "\u{2581}", "1", "漢", "\u{301}", "a b", "!",
    ] {
        let text = unit.repeat(200_000 / unit.len());
        let begun = Instant::now();
        let ids = tokenizer.encode(&text, true);
        let took = begun.elapsed();
        assert!(took < AT_ONCE, "{name} {unit:?}: {took:?}");
        if name != "bert-bge" {
            assert!(
                tokenizer.decode(&ids).len() >= text.len() / 3,
                "{name} {unit:?}"
            );
        }
    }
}

#[test]
fn long_runs_of_one_character_are_encoded_at_once() {
    let model = Model::from_bytes(kernels::pocket::pocket(), &OpenOptions::default()).unwrap();
    long_runs("pocket", model.tokenizer());
    let Some(folder) = folder() else { return };
    for name in CLAIMED {
        let tokenizer = load(&folder, name).unwrap_or_else(|e| panic!("{name}: {e}"));
        long_runs(name, &tokenizer);
    }
}

#[test]
fn every_chat_template_renders_a_plain_conversation() {
    let Some(folder) = folder() else { return };
    let message = |role: &str, content: &str| ChatMessage {
        role: role.to_owned(),
        content: content.to_owned(),
    };
    let conversation = [
        message("user", "How far is the moon?"),
        message("assistant", "384,400 km on average."),
        message("user", "And the sun? <é>"),
    ];
    let files = std::fs::read_dir(folder.join("templates")).expect("a folder of templates");
    let (mut rendered, mut wrong) = (0, Vec::new());
    for path in files.map(|f| f.expect("readable").path()) {
        if path.extension().is_none_or(|e| e != "jinja") {
            continue;
        }
        let source = std::fs::read_to_string(&path).expect("UTF-8");
        match render_template(&source, "<s>", "</s>", &conversation, "2026-11-24") {
            Ok(text) if text.contains("And the sun? <é>") => rendered += 1,
            Ok(text) => wrong.push(format!("{}: {text:?}", path.display())),
            Err(e) => wrong.push(format!("{}: {e}", path.display())),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(rendered >= 70, "{rendered} templates");
}
