//! `freehold logits`: the model's own numbers, for comparison with other engines.
//!
//! Before any sampling. Not generation: nothing is drawn.

use super::{Globals, file, show};
use anyhow::Context;
use kernels::{Model, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// How many of the largest are shown to people.
const TOP: usize = 10;

/// Arguments of `freehold logits`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  freehold logits pocket --tokens 1,2,3              the ten largest after token 3
  freehold logits model.gguf --tokens 1,2,3 --json   all of them, as one line of JSON
  freehold logits model.gguf --tokens 1,2,3 --all --json    one line for each token
  freehold logits model.gguf --tokens \"$(freehold tokenize model.gguf Hello)\"

A line is {\"token\": id, \"logits\": [...]}: what the model says after that token,
every f32 with as many digits as it takes to read it back exactly. No BOS token
is added. The file's vocabulary is not needed; where it cannot be used, tokens are
shown without their text.")]
pub struct Args {
    #[arg(help = file::FILE)]
    file: PathBuf,
    /// The ids to read, such as 1,2,3
    #[arg(long, value_name = "IDS", allow_hyphen_values = true)]
    tokens: String,
    /// After every token, not only after the last
    #[arg(long)]
    all: bool,
    /// Threads to compute on [default: all]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    threads: usize,
}

/// Runs it.
///
/// # Errors
/// Where the file or a token cannot be used.
pub fn run(args: Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    let ids = file::tokens(&args.tokens)?;
    let options = OpenOptions {
        threads: args.threads,
        any_vocabulary: true,
        ..OpenOptions::default()
    };
    let model = file::model(&args.file, &options)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut written = Ok(());
    model.each_logits(&ids, args.all, |row, logits| {
        let token = ids[row];
        if written.is_ok() {
            written = match globals.json {
                true => line(&mut out, token, logits),
                false => top(&mut out, &model, token, logits),
            };
        }
    })?;
    written
        .and_then(|()| out.flush())
        .context("the output cannot be written")?;
    Ok(ExitCode::SUCCESS)
}

fn line(out: &mut impl Write, token: u32, logits: &[f32]) -> std::io::Result<()> {
    write!(out, "{{\"token\": {token}, \"logits\": ")?;
    serde_json::to_writer(&mut *out, logits)?;
    writeln!(out, "}}")
}

fn top(out: &mut impl Write, model: &Model, token: u32, logits: &[f32]) -> std::io::Result<()> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    let rows: Vec<Vec<String>> = order
        .into_iter()
        .take(TOP)
        .map(|id| {
            let text = String::from_utf8_lossy(model.tokenizer().bytes(id as u32));
            vec![
                id.to_string(),
                logits[id].to_string(),
                format!("{:?}", show::clean(&text, 40)),
            ]
        })
        .collect();
    writeln!(out, "after token {token}:")?;
    writeln!(out, "{}", show::table(&["token", "logit", "text"], &rows))
}
