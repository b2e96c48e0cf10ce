//! The commands that check the engine, as processes: `inspect`, `tokenize`,
//! `logits`, `bench`. Over the pocket model and a tiny random one, with wrong input.

use kernels::gguf::TensorType;
use kernels::synthetic::{Shape, qwen3};
use kernels::{ChildRenderer, Model, OpenOptions, RenderRequest, Renderer, Tokenizer};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn freehold(arguments: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_freehold"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(stdin)
        .expect("a short text fits into a pipe");
    drop(pipe);
    child.wait_with_output().expect("it ends")
}

/// What it prints where it succeeds.
fn good(arguments: &[&str], stdin: &[u8]) -> Vec<u8> {
    let output = freehold(arguments, stdin);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    output.stdout
}

/// What it says where it fails.
fn bad(arguments: &[&str], stdin: &[u8]) -> String {
    let output = freehold(arguments, stdin);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    assert!(output.stdout.is_empty(), "{arguments:?} printed a result");
    String::from_utf8(output.stderr).expect("errors are text")
}

fn ids(line: &[u8]) -> Vec<u32> {
    let text = std::str::from_utf8(line).expect("ids are text");
    assert_eq!(text.lines().count(), 1, "one line");
    text.split_whitespace()
        .map(|id| id.parse().expect("an id"))
        .collect()
}

/// A tiny random model in a file.
fn tiny(dir: &tempfile::TempDir) -> (PathBuf, Vec<u8>) {
    let bytes = qwen3(&Shape::tiny(), TensorType::Q8_0, 5);
    let path = dir.path().join("tiny.gguf");
    std::fs::write(&path, &bytes).expect("the folder takes a file");
    (path, bytes)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

#[test]
fn logits_are_the_engines_to_the_last_bit() {
    let dir = tempfile::tempdir().expect("a folder");
    let (path, bytes) = tiny(&dir);
    let model = Model::from_bytes(bytes, &OpenOptions::default()).expect("it loads");
    let expected = model.logits(&[5, 300, 7], true).expect("it computes");
    let read = |line: &str| -> (u64, Vec<f32>) {
        let value: Value = serde_json::from_str(line).expect("JSON");
        let row = value["logits"].as_array().expect("a row").iter();
        let row = row.map(|x| x.as_f64().expect("a number") as f32).collect();
        (value["token"].as_u64().expect("an id"), row)
    };
    let ask = ["logits", text(&path), "--tokens", "5,300,7", "--json"];
    let all = good(&[&ask[..], &["--all"]].concat(), b"");
    let rows: Vec<_> = String::from_utf8_lossy(&all).lines().map(read).collect();
    assert_eq!(
        rows.iter().map(|row| row.0).collect::<Vec<_>>(),
        [5, 300, 7]
    );
    assert!(rows.iter().zip(&expected).all(|(row, bits)| row.1 == *bits));
    let last = good(&ask, b"");
    let last: Vec<_> = String::from_utf8_lossy(&last).lines().map(read).collect();
    assert!(last.len() == 1 && last[0] == rows[2]);
}

#[test]
fn text_becomes_ids_and_the_same_bytes_again() {
    let pocket = kernels::gguf::Gguf::from_bytes(kernels::pocket::pocket()).expect("GGUF");
    let tokenizer = Tokenizer::from_gguf(&pocket).expect("a vocabulary");
    let sample = " What is a sat?\r\n\n\té 😀 <|im_end|>\n";
    let plain = ids(&good(&["tokenize", "pocket", "-"], sample.as_bytes()));
    assert_eq!(plain, tokenizer.encode(sample, false));
    let special = good(&["tokenize", "pocket", "--special", "-"], sample.as_bytes());
    assert_eq!(ids(&special), tokenizer.encode(sample, true));
    assert_ne!(ids(&special), plain);
    let json = good(&["--json", "tokenize", "pocket", sample], b"");
    let list: Vec<u32> = serde_json::from_slice(&json).expect("a JSON array");
    assert_eq!(list, plain);
    let line: Vec<String> = plain.iter().map(u32::to_string).collect();
    let again = good(&["tokenize", "pocket", "--decode", &line.join(",")], b"");
    assert_eq!(again, sample.as_bytes());
    let again = good(
        &["tokenize", "pocket", "--decode", "-"],
        line.join("\n").as_bytes(),
    );
    assert_eq!(again, sample.as_bytes());
}

#[test]
fn a_file_is_described_and_run() {
    let dir = tempfile::tempdir().expect("a folder");
    let (path, bytes) = tiny(&dir);
    let about = good(&["inspect", text(&path), "--run", "--json"], b"");
    let about: Value = serde_json::from_slice(&about).expect("JSON");
    assert_eq!(about["architecture"], "qwen3");
    assert_eq!(about["bytes"], bytes.len());
    assert_eq!(about["runs"], true);
    assert_eq!(about["metadata"]["qwen3.block_count"], 2);
    assert!(
        about["tensors"]
            .as_array()
            .is_some_and(|list| list.len() > 20)
    );
    let shown = good(&["inspect", "pocket", "--tensors"], b"");
    let shown = String::from_utf8(shown).expect("text");
    assert!(shown.contains("blk.0.attn_q.weight") && shown.contains("Q8_0"));
}

#[test]
fn logits_need_no_vocabulary() {
    let dir = tempfile::tempdir().expect("a folder");
    let (path, mut bytes) = tiny(&dir);
    let expected = good(&["logits", text(&path), "--tokens", "1,2,3", "--json"], b"");
    let at = bytes.windows(5).position(|w| w == b"qwen2");
    bytes[at.expect("a pre-tokeniser")..][..5].copy_from_slice(b"other");
    std::fs::write(&path, &bytes).expect("written");
    let found = good(&["logits", text(&path), "--tokens", "1,2,3", "--json"], b"");
    assert_eq!(found, expected);
    assert!(bad(&["tokenize", text(&path), "x"], b"").contains("\"other\""));
}

#[test]
fn the_program_renders_templates_for_itself_within_limits() {
    let program = env!("CARGO_BIN_EXE_freehold").into();
    let renderer = ChildRenderer::new(program, vec!["__render".to_owned()], 1);
    let render = |source: &str| {
        renderer.render(&RenderRequest {
            source: source.into(),
            bos: "<s>".into(),
            eos: "</s>".into(),
            messages: (&[][..]).into(),
            date: "2026-11-30".into(),
        })
    };
    let doubling = "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
    assert!(render(doubling).is_err_and(|error| error.is_limit()));
    assert_eq!(render("{{ bos_token }}!"), Ok("<s>!".to_owned()));
}

#[test]
fn speed_and_memory_are_measured() {
    let dir = tempfile::tempdir().expect("a folder");
    let (path, _) = tiny(&dir);
    let plan = [
        "--prompt",
        "20",
        "--generate",
        "3",
        "--depth",
        "70",
        "--streams",
        "2",
    ];
    let ask = [
        &["bench", text(&path), "--threads", "1", "--json"],
        &plan[..],
    ]
    .concat();
    let figures: Value = serde_json::from_slice(&good(&ask, b"")).expect("JSON");
    for key in [
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
        "bytes_per_token",
        "bandwidth_share",
        "load_s",
        "load_to_first_token_s",
        "load_to_packed_s",
    ] {
        assert!(figures[key].as_f64().is_some_and(|x| x > 0.0), "{key}");
    }
    assert_eq!(figures["threads"], 1);
    assert_eq!(figures["streams"], 2);
}

#[test]
fn wrong_input_is_refused_with_what_to_do_instead() {
    let dir = tempfile::tempdir().expect("a folder");
    let (path, mut bytes) = tiny(&dir);
    let cut = dir.path().join("cut.gguf");
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&cut, &bytes).expect("written");
    let other = dir.path().join("other.gguf");
    std::fs::write(&other, "not a model").expect("written");
    let (file, cut, other) = (text(&path), text(&cut), text(&other));
    let none = text(dir.path()).to_owned() + "/none.gguf";
    for command in ["inspect", "bench"] {
        assert!(bad(&[command, &none], b"").contains("name a GGUF file"));
        assert!(bad(&[command, other], b"").contains("not a GGUF file"));
        assert!(bad(&[command, cut], b"").contains("cut.gguf"));
        assert!(bad(&[command, text(dir.path())], b"").contains("is not a file"));
    }
    let unknown = bad(&["logits", file, "--tokens", "1,320"], b"");
    assert!(unknown.contains("token 320 does not exist"), "{unknown}");
    assert!(bad(&["logits", file, "--tokens", "1,2.5"], b"").contains("\"2.5\""));
    assert!(bad(&["logits", file, "--tokens", "-1"], b"").contains("\"-1\""));
    assert!(bad(&["logits", file, "--tokens", ""], b"").contains("no token ids"));
    assert!(bad(&["logits", cut, "--tokens", "1"], b"").contains("freehold inspect"));
    assert!(bad(&["tokenize", file, "-"], b"ok\xff").contains("UTF-8 at byte 2"));
    assert!(bad(&["tokenize", file, "--bos", "x"], b"").contains("no BOS token"));
    assert!(bad(&["tokenize", file, "--decode", "320"], b"").contains("does not exist"));
    let device = freehold(&["bench", file, "--device", "abacus"], b"");
    assert_eq!(device.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&device.stderr).contains("cuda:0"));
    assert!(bad(&["bench", file, "--depth", "9999"], b"").contains("context"));
}
