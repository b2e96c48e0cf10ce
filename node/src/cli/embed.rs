//! `freehold embed`: the vector of a text, from a model that makes vectors.
//!
//! The model's own marks are put around the text, as its author did in training.

use super::{Globals, file};
use kernels::{Model, OpenOptions};
use serde_json::json;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

/// Longest text read: far beyond any embedding model's context, and bounded.
const MAX_TEXT: u64 = 1 << 20;

/// Arguments of `freehold embed`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  freehold embed all-minilm.gguf \"What is a sat?\"          the vector on one line
  freehold embed all-minilm.gguf --json - < note.txt       with its tokens, as JSON
  freehold embed all-minilm.gguf --tokens 101,2054,102     of given token ids

Takes models that make vectors (architecture bert). The vector has length one, so
that the sum of products of two vectors is their similarity.")]
pub struct Args {
    #[arg(help = file::FILE)]
    file: PathBuf,
    /// The text; `-` reads it from stdin
    #[arg(allow_hyphen_values = true, required_unless_present = "tokens")]
    text: Option<String>,
    /// Take these token ids as they are, in place of a text
    #[arg(long, value_name = "IDS", conflicts_with = "text")]
    tokens: Option<String>,
}

/// Runs it.
///
/// # Errors
/// Where the model makes no vectors, or the text does not fit.
pub fn run(args: Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    let model = file::model(&args.file, &OpenOptions::default())?;
    let tokens = match (&args.tokens, args.text.as_deref()) {
        (Some(ids), _) => file::tokens(ids)?,
        (None, Some("-")) => {
            let mut text = String::new();
            std::io::stdin().take(MAX_TEXT).read_to_string(&mut text)?;
            marked(&model, &text)
        }
        (None, text) => marked(&model, text.unwrap_or_default()),
    };
    let vector = model.embed(&tokens)?;
    if globals.json {
        println!("{}", json!({"tokens": tokens, "embedding": vector}));
    } else {
        let numbers: Vec<String> = vector.iter().map(f32::to_string).collect();
        println!("{}", numbers.join(" "));
    }
    Ok(ExitCode::SUCCESS)
}

/// The tokens of a text between the model's first and last mark.
fn marked(model: &Model, text: &str) -> Vec<u32> {
    let tokenizer = model.tokenizer();
    let mut tokens: Vec<u32> = tokenizer.bos().into_iter().collect();
    tokens.extend(tokenizer.encode(text, false));
    tokens.extend(tokenizer.eos());
    tokens
}
