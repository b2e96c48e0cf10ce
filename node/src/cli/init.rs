//! `freehold init`: a folder with keys and settings.

use super::{Globals, print_json};
use crate::config::{POCKET, document};
use actors::keys::NodeKeys;
use anyhow::Context;
use clap::ValueEnum;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `freehold init`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  freehold init                          test coins (signet)
  freehold init --network mainnet        real money
  freehold init --seed-file words.txt    restore the keys of another node
  freehold init --model big.gguf         with this model in place of the pocket model
  freehold init --model none             with no model

Writes freehold.toml with every setting explained, and `seed`: twelve words that
restore identity and on-chain coins. Channels need their current state as well
(the folder wallet/): restoring an old copy of it can lose what is in them.")]
pub struct Args {
    /// Whose coins
    #[arg(long, value_enum, default_value = "signet")]
    network: Net,
    /// Take the words from this file instead of drawing new ones
    #[arg(long, value_name = "FILE")]
    seed_file: Option<PathBuf>,
    /// A GGUF file for [[models]], `pocket` for the small model in this program, or `none`
    #[arg(long, value_name = "FILE", default_value = POCKET)]
    model: String,
    /// Print the words; otherwise they are only in the file `seed`
    #[arg(long)]
    show_seed: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Net {
    Regtest,
    Signet,
    Mainnet,
}

/// The paths for `[[models]]`; a file is found from anywhere later.
fn models(model: &str) -> anyhow::Result<Vec<String>> {
    match model {
        "none" => Ok(Vec::new()),
        POCKET => Ok(vec![POCKET.to_owned()]),
        file => {
            let path = std::path::absolute(file)?;
            anyhow::ensure!(
                path.is_file(),
                "there is no file {}: name a GGUF file, `pocket` or `none`",
                path.display()
            );
            let text = path.to_str().with_context(|| {
                format!("{} cannot be written into freehold.toml", path.display())
            })?;
            Ok(vec![text.to_owned()])
        }
    }
}

/// Runs it.
///
/// # Errors
/// Where there is a node already, or files cannot be written.
pub fn run(args: Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    let folder = globals.folder()?;
    let words = match &args.seed_file {
        Some(file) => {
            let words =
                std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
            NodeKeys::from_words(&words)?;
            words.trim().to_owned()
        }
        None => NodeKeys::fresh_words(),
    };
    let network = match args.network {
        Net::Regtest => "regtest",
        Net::Signet => "signet",
        Net::Mainnet => "mainnet",
    };
    let models = models(&args.model)?;
    folder.create(&document::with_models(network, &models), &words)?;
    if globals.json {
        let shown = args.show_seed.then_some(&words);
        print_json(&serde_json::json!({"dir": folder.dir(), "network": network, "seed": shown}))?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("made a node in {}", folder.dir().display());
    println!("  settings  {}", folder.config_path().display());
    println!(
        "  seed      {} (twelve words: write them down, keep them secret)",
        folder.seed_path().display()
    );
    if args.show_seed {
        println!("\n  {words}\n");
    }
    match args.network {
        Net::Mainnet => {
            println!("This node uses real money. Caps are in [budget] of freehold.toml.")
        }
        Net::Signet => println!("This node uses signet coins, which are worth nothing."),
        Net::Regtest => {
            println!(
                "To buy and sell on regtest, put `relays` and a [chain] section into freehold.toml: `freehold lab up` prints both."
            );
        }
    }
    println!("Next: `freehold up` (its gateway answers with the models of this machine),");
    println!("`freehold profile`, `freehold wallet address`.");
    Ok(ExitCode::SUCCESS)
}
