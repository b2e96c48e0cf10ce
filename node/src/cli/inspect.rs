//! `freehold inspect`: what a GGUF file holds, and whether this engine runs it.
//!
//! Reads the directory; weights are read only for the digest, and where `--run` asks.

use super::{Globals, file, print_json, show};
use kernels::gguf::{Array, Gguf, Tensor, Value};
use kernels::{OpenOptions, Tokenizer};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

/// Elements of a metadata array that are shown.
const SHOWN: usize = 8;
/// Characters of a metadata string shown to people.
const WIDTH: usize = 72;

/// Arguments of `freehold inspect`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  freehold inspect pocket                       the model in this program
  freehold inspect qwen3-4b-q4_k_m.gguf         sizes, storage types, metadata
  freehold inspect model.gguf --tensors         every tensor, too
  freehold inspect model.gguf --run             load it, and say whether it computes
  freehold inspect model.gguf --json            everything, arrays shortened

The digest is the BLAKE3 of the file: the name by which its answers are bought.
Exit code 1 where the file is damaged or, with --run, cannot be computed.")]
pub struct Args {
    #[arg(help = file::FILE)]
    file: PathBuf,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Load the weights and compute one token
    #[arg(long)]
    run: bool,
}

/// Runs it.
///
/// # Errors
/// Where the file cannot be read, or with `--run` not be computed.
pub fn run(args: Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    let gguf = file::gguf(&args.file)?;
    let mut about = summary(&gguf);
    if args.run {
        let model = file::model(&args.file, &OpenOptions::default())?;
        if model.is_encoder() {
            model.embed(&[0])?;
        } else {
            model.each_logits(&[0], false, |_, _| {})?;
        }
        about["numerics"] = json!(model.info().numerics);
        about["runs"] = json!(true);
    }
    if globals.json {
        about["metadata"] = metadata(&gguf);
        about["tensors"] = gguf.tensors().iter().map(tensor).collect();
        print_json(&about)?;
    } else {
        print(&gguf, &about, args.tensors);
    }
    Ok(ExitCode::SUCCESS)
}

fn summary(gguf: &Gguf) -> Json {
    let architecture = gguf.str("general.architecture").unwrap_or("");
    let context = gguf.uint(&format!("{architecture}.context_length")).ok();
    let parameters: u64 = gguf.tensors().iter().map(Tensor::elements).sum();
    let (vocabulary, reason) = match Tokenizer::from_gguf(gguf) {
        Ok(tokenizer) => (Some(tokenizer.len()), None),
        Err(error) => (None, Some(error.to_string())),
    };
    json!({
        "name": gguf.str("general.name").ok(),
        "architecture": architecture,
        "version": gguf.version(),
        "bytes": gguf.file().len(),
        "digest": hex::encode(gguf.digest()),
        "parameters": parameters,
        "context": context,
        "vocabulary": vocabulary,
        "vocabulary_refused": reason,
        "storage": storage(gguf),
    })
}

/// Tensors, weights and bytes by storage type.
fn storage(gguf: &Gguf) -> Json {
    let mut by_type: BTreeMap<&str, (u64, u64, u64)> = BTreeMap::new();
    for tensor in gguf.tensors() {
        let sums = by_type.entry(tensor.ty.name()).or_default();
        *sums = (
            sums.0 + 1,
            sums.1 + tensor.elements(),
            sums.2 + tensor.len as u64,
        );
    }
    by_type
        .into_iter()
        .map(|(ty, (tensors, weights, bytes))| {
            json!({"type": ty, "tensors": tensors, "weights": weights, "bytes": bytes})
        })
        .collect()
}

fn tensor(tensor: &Tensor) -> Json {
    json!({
        "name": tensor.name,
        "type": tensor.ty.name(),
        "dims": tensor.dims,
        "start": tensor.start,
        "bytes": tensor.len,
    })
}

fn metadata(gguf: &Gguf) -> Json {
    let entries = gguf.metadata().iter();
    Json::Object(
        entries
            .map(|(key, value)| (key.clone(), plain(value)))
            .collect(),
    )
}

/// A value as JSON; arrays by length and first elements.
fn plain(value: &Value) -> Json {
    match value {
        Value::U8(x) => json!(x),
        Value::I8(x) => json!(x),
        Value::U16(x) => json!(x),
        Value::I16(x) => json!(x),
        Value::U32(x) => json!(x),
        Value::I32(x) => json!(x),
        Value::F32(x) => json!(x),
        Value::Bool(x) => json!(x),
        Value::String(x) => json!(x),
        Value::U64(x) => json!(x),
        Value::I64(x) => json!(x),
        Value::F64(x) => json!(x),
        Value::Array(array) => json!({"length": array.len(), "first": first(array)}),
    }
}

fn first(array: &Array) -> Json {
    fn some<T: serde::Serialize>(list: &[T]) -> Json {
        json!(list.iter().take(SHOWN).collect::<Vec<_>>())
    }
    match array {
        Array::U8(x) => some(x),
        Array::I8(x) => some(x),
        Array::U16(x) => some(x),
        Array::I16(x) => some(x),
        Array::U32(x) => some(x),
        Array::I32(x) => some(x),
        Array::F32(x) => some(x),
        Array::Bool(x) => some(x),
        Array::String(x) => some(x),
        Array::U64(x) => some(x),
        Array::I64(x) => some(x),
        Array::F64(x) => some(x),
    }
}

fn print(gguf: &Gguf, about: &Json, tensors: bool) {
    let text = |key: &str| match &about[key] {
        Json::String(text) => show::clean(text, WIDTH),
        Json::Null => "not said".to_owned(),
        other => other.to_string(),
    };
    for key in [
        "name",
        "architecture",
        "version",
        "bytes",
        "digest",
        "parameters",
        "context",
        "vocabulary",
    ] {
        println!("{key:<13} {}", text(key));
    }
    for key in ["vocabulary_refused", "numerics", "runs"] {
        if !about[key].is_null() {
            println!("{key:<13} {}", text(key));
        }
    }
    println!(
        "\n{}",
        rows(&about["storage"], &["type", "tensors", "weights", "bytes"])
    );
    println!();
    for (key, value) in gguf.metadata() {
        let value = match plain(value) {
            Json::String(text) => show::clean(&text, WIDTH),
            other => show::clean(&other.to_string(), WIDTH),
        };
        println!("{key} = {value}");
    }
    if tensors {
        let all: Json = gguf.tensors().iter().map(tensor).collect();
        println!("\n{}", rows(&all, &["name", "type", "dims", "bytes"]));
    }
}

/// A table of some fields of a JSON array of objects.
fn rows(list: &Json, fields: &[&str]) -> String {
    let cell = |row: &Json, field: &str| match &row[field] {
        Json::String(text) => show::clean(text, WIDTH),
        other => other.to_string(),
    };
    let rows: Vec<Vec<String>> = list
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| fields.iter().map(|field| cell(row, field)).collect())
        .collect();
    show::table(fields, &rows)
}
