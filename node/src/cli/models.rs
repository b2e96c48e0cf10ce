//! `freehold models`: the models on this machine.

use super::{Globals, print_json, show};
use crate::control::ModelRow;
use crate::models::{self, LocalModel, Source};
use protocol::money::Meter;
use std::process::ExitCode;

/// Arguments of `freehold models`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  freehold models            what [[models]] in freehold.toml names, measured
  freehold models --json

A model's digest is the BLAKE3 of its file: buyers name it, and replays check it. One
that another server runs (`runner` in [[models]]) cannot be replayed; without its file
its digest stands for its name.
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
            eprintln!("opening {}", entry.place());
        }
        let (config, folder) = (config.clone(), folder.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let model = models::open_entry(&entry, &config, &folder, None)?;
            anyhow::Ok((model.row(model.measure()), away(&model)))
        });
        let (row, away) = opened.await??;
        if let Some(why) = away {
            eprintln!("its server is away: {why}");
        }
        rows.push(row);
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

/// Why a runner's server cannot be used, where it cannot.
fn away(model: &LocalModel) -> Option<String> {
    match &model.source {
        Source::Engine(_) => None,
        Source::Runner(runner) => runner.away(),
    }
}

fn print(row: &ModelRow) {
    let sat = |meter| protocol::money::Msat(row.prices.of(meter));
    println!("{}", show::clean(&row.name, 60));
    println!("  digest   {}", row.digest);
    let weights = match row.parameters {
        0 => "unknown".to_owned(),
        n => n.to_string(),
    };
    println!(
        "  weights  {weights} ({}, {})",
        row.architecture, row.quantisation
    );
    println!("  context  {} tokens", row.context);
    match &row.runner {
        Some(url) => println!("  runs at  {}", show::clean(url, 120)),
        None => println!(
            "  speed    {} tokens/s",
            row.decode_milli_tokens_per_s / 1_000
        ),
    }
    println!(
        "  replay   {}",
        match (&row.numerics, &row.runner) {
            (Some(numerics), _) => numerics,
            (None, Some(_)) => "runner, not replayable",
            (None, None) => "not possible",
        }
    );
    println!(
        "  price    {} in, {} out, per million tokens",
        sat(Meter::InputToken),
        sat(Meter::OutputToken)
    );
}
