//! `freehold tokenize`: text to token ids and back, by a file's own vocabulary.
//!
//! Adds nothing to the text and takes nothing away. Needs only the vocabulary, so
//! it also reads files without weights.

use super::{Globals, file};
use anyhow::Context;
use kernels::Tokenizer;
use serde_json::json;
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Longest text read from stdin: far beyond any context, and bounded.
const MAX_TEXT: u64 = 64 << 20;

/// Arguments of `freehold tokenize`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  freehold tokenize pocket \"What is a sat?\"            ids on one line
  freehold tokenize model.gguf --json - < notes.txt    ids as a JSON array
  freehold tokenize model.gguf --special --bos \"<|im_start|>user\"
  freehold tokenize model.gguf --decode 9707,11,1879   the text of ids
  freehold tokenize model.gguf - < a.txt | freehold tokenize model.gguf --decode - | cmp - a.txt

Adds no BOS token, and takes the text of special tokens for plain text, unless
told otherwise. Standard input is taken byte for byte, with its line ends.
--decode writes exactly the bytes of the tokens.")]
pub struct Args {
    #[arg(help = file::FILE)]
    file: PathBuf,
    /// The text (with --decode: ids such as 1,2,3); `-` reads it from stdin
    #[arg(allow_hyphen_values = true)]
    text: String,
    /// Turn the text of special tokens, such as <|im_end|>, into these tokens
    #[arg(long, conflicts_with = "decode")]
    special: bool,
    /// Put the model's BOS token in front
    #[arg(long, conflicts_with = "decode")]
    bos: bool,
    /// From ids to text
    #[arg(long)]
    decode: bool,
}

/// Runs it.
///
/// # Errors
/// Where the file, the text or an id cannot be used.
pub fn run(args: Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    let tokenizer = Tokenizer::from_gguf(&file::gguf(&args.file)?)
        .with_context(|| format!("the vocabulary of {} cannot be used", args.file.display()))?;
    let text = match args.text.as_str() {
        "-" => stdin()?,
        text => text.as_bytes().to_vec(),
    };
    if args.decode {
        decode(&tokenizer, &text, globals)
    } else {
        encode(&tokenizer, &args, text, globals)
    }?;
    Ok(ExitCode::SUCCESS)
}

fn stdin() -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    std::io::stdin().take(MAX_TEXT + 1).read_to_end(&mut text)?;
    anyhow::ensure!(
        text.len() as u64 <= MAX_TEXT,
        "the text is longer than {MAX_TEXT} bytes: cut it into parts"
    );
    Ok(text)
}

fn encode(
    tokenizer: &Tokenizer,
    args: &Args,
    text: Vec<u8>,
    globals: &Globals,
) -> anyhow::Result<()> {
    let text = String::from_utf8(text).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("the text is not UTF-8 at byte {at}: convert it first (iconv -t UTF-8)")
    })?;
    let mut ids = Vec::new();
    if args.bos {
        let none = "this vocabulary has no BOS token: leave --bos out";
        ids.push(tokenizer.bos().context(none)?);
    }
    ids.extend(tokenizer.encode(&text, args.special));
    if globals.json {
        println!("{}", serde_json::to_string(&ids)?);
    } else {
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        println!("{}", ids.join(" "));
    }
    Ok(())
}

fn decode(tokenizer: &Tokenizer, text: &[u8], globals: &Globals) -> anyhow::Result<()> {
    let ids = file::tokens(&String::from_utf8_lossy(text))?;
    if let Some(id) = ids.iter().find(|id| **id as usize >= tokenizer.len()) {
        anyhow::bail!(
            "token {id} does not exist: the vocabulary has tokens 0 to {}",
            tokenizer.len() - 1
        );
    }
    let bytes = tokenizer.decode(&ids);
    let mut out = std::io::stdout().lock();
    if globals.json {
        let (text, hex) = (String::from_utf8_lossy(&bytes), hex::encode(&bytes));
        writeln!(out, "{}", json!({"text": text, "bytes": hex}))?;
    } else {
        out.write_all(&bytes)?;
        // A terminal's prompt goes on a line of its own; a file gets the bytes alone.
        if out.is_terminal() {
            writeln!(out)?;
        }
    }
    out.flush()?;
    Ok(())
}
