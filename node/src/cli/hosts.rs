//! `freehold hosts`: who sells what, for how much, and why they rank as they do.

use super::{Globals, print_json, show};
use crate::server::names::Names;
use crate::server::order::offer;
use crate::service::Needs;
use crate::session::Session;
use protocol::ids::NodeKey;
use protocol::message::discovery::HostRow;
use protocol::wire::manifest::{ModelOffer, Role};
use std::process::ExitCode;

/// Arguments of `freehold hosts`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  freehold hosts                     a table
  freehold hosts --why               with the terms of each score
  freehold hosts --why --json        everything, for scripts
  freehold hosts --model pocket      one model

A listing is a claim until it was checked. Scores come from what this node saw
itself: its own orders and its own checks.")]
pub struct Args {
    /// Show the terms of each score
    #[arg(long)]
    why: bool,
    /// Only this model, by name or digest
    #[arg(long, value_name = "NAME|DIGEST")]
    model: Option<String>,
}

/// A filter by model and host.
pub fn filter(model: &Option<String>, host: Option<NodeKey>) -> impl Fn(&HostRow) -> bool + use<> {
    let model = model.clone();
    move |row: &HostRow| {
        let sells = row.manifest.roles.contains(&Role::Host);
        let named = model.as_deref().is_none_or(|wanted| {
            offer(row).is_some_and(|offer| offer.name == wanted) || row.model.to_string() == wanted
        });
        sells && named && host.is_none_or(|host| host == row.manifest.node)
    }
}

/// Runs it.
///
/// # Errors
/// Where no node can be talked to.
pub async fn run(args: Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    let folder = globals.folder()?;
    let session = Session::open(&folder, globals.json, Needs::Market).await?;
    let fits = filter(&args.model, None);
    let found = session.unless_stopped(session.hosts(&fits)).await;
    session.close().await;
    let mut hosts = found?;
    if args.model.is_some() {
        hosts.retain(&fits);
    }
    hosts.sort_by_key(|row| std::cmp::Reverse(row.score.total_ppm));
    if globals.json {
        print_json(&hosts)?;
    } else if hosts.is_empty() {
        println!("no host is listed: check `relays` in freehold.toml, or ask again later");
    } else {
        let names = Names::open(folder.names_path());
        print(&hosts, args.why.then_some(&names));
    }
    Ok(ExitCode::SUCCESS)
}

fn print(hosts: &[HostRow], why: Option<&Names>) {
    let header = [
        "host",
        "roles",
        "model",
        "digest",
        "sat/M in / out",
        "context",
        "replay",
        "load",
        "score",
    ];
    let rows: Vec<Vec<String>> = hosts.iter().map(cells).collect();
    let Some(names) = why else {
        println!("{}", show::table(&header, &rows));
        println!("\nThe host reads the prompt. `freehold hosts --why` explains the scores.");
        return;
    };
    for (row, cells) in hosts.iter().zip(rows) {
        println!("{}", show::table(&header, &[cells]));
        println!("  key {}", row.manifest.node);
        if let Some(offer) = offer(row) {
            println!("  answers: {}", show::clean(offer.replay_note(), 60));
            if let Some(known) = names.of(&offer.name).filter(|known| *known != row.model) {
                println!(
                    "  another model than the one that was bought here under this name: {known}"
                );
            }
        }
        println!(
            "  seen {} on {}",
            crate::calendar::stamp(row.seen),
            row.relays.join(", ")
        );
        for term in &row.score.terms {
            println!(
                "  {:<12} {:>8} × weight {:>8}  {}",
                show::clean(&term.name, 12),
                show::percent(term.value_ppm),
                show::percent(term.weight_ppm),
                show::clean(&term.why, 120)
            );
        }
        if let Some((until, reason)) = &row.score.cooldown {
            println!(
                "  not used until {}: {}",
                crate::calendar::stamp(*until),
                show::clean(reason, 120)
            );
        }
        println!();
    }
}

fn cells(row: &HostRow) -> Vec<String> {
    let offer = offer(row);
    let load = row
        .pulse
        .as_ref()
        .map(|pulse| format!("{}+{}/{}", pulse.running, pulse.queued, pulse.slots));
    vec![
        row.manifest.node.short(),
        show::roles(&row.manifest.roles),
        offer.map_or_else(|| "-".to_owned(), |offer| show::clean(&offer.name, 28)),
        row.model.short(),
        offer.map_or_else(|| "-".to_owned(), show::prices),
        offer.map_or_else(|| "-".to_owned(), |offer| offer.context.to_string()),
        offer.map_or("-", replay).to_owned(),
        load.unwrap_or_else(|| "?".to_owned()),
        show::percent(row.score.total_ppm),
    ]
}

/// One word for the table; `--why` has them all.
fn replay(offer: &ModelOffer) -> &'static str {
    match &offer.numerics {
        Some(_) => "exact",
        None if offer.is_runner() => "no (runner)",
        None => "no",
    }
}
