//! `freehold models`: the models on this machine.

use super::{Globals, print_json, show};
use crate::control::ModelRow;
use crate::models;
use protocol::money::Meter;
use std::process::ExitCode;

/// Arguments of `freehold models`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  freehold models            what [[models]] in freehold.toml names, measured
  freehold models --json

A model's digest is the BLAKE3 of its file: buyers name it, and replays check it.
`freehold hosts` lists the models of others.")]
pub struct Args {}

/// Runs it.
///
/// # Errors
/// Where a model cannot be opened.
pub async fn run(_args: Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    let folder = globals.folder()?;
    let config = folder.config()?;
    let mut rows: Vec<ModelRow> = Vec::new();
    for entry in config.models.clone() {
        if !globals.json {
            eprintln!("opening {}", entry.path.display());
        }
        let (config, folder) = (config.clone(), folder.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let model = models::open_entry(&entry, &config, &folder, None)?;
            Ok::<_, models::ModelError>(model.row(model.measure()))
        });
        rows.push(opened.await??);
    }
    if globals.json {
        print_json(&rows)?;
    } else if rows.is_empty() {
        println!("no model: add [[models]] with path = \"pocket\" or a GGUF file to freehold.toml");
    } else {
        for row in &rows {
            print(row);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(row: &ModelRow) {
    let sat = |meter| protocol::money::Msat(row.prices.of(meter));
    println!("{}", show::clean(&row.name, 60));
    println!("  digest   {}", row.digest);
    println!(
        "  weights  {} ({}, {})",
        row.parameters, row.architecture, row.quantisation
    );
    println!("  context  {} tokens", row.context);
    println!(
        "  speed    {} tokens/s",
        row.decode_milli_tokens_per_s / 1_000
    );
    println!(
        "  replay   {}",
        row.numerics.as_deref().unwrap_or("not possible")
    );
    println!(
        "  price    {} in, {} out, per million tokens",
        sat(Meter::InputToken),
        sat(Meter::OutputToken)
    );
}
