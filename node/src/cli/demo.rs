//! `freehold demo`: the whole path on this machine, with worthless coins.

use super::Globals;
use crate::demo::{self, DemoArgs};
use std::process::ExitCode;

/// Arguments of `freehold demo`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  freehold demo\n  freehold demo --cheat weight\n  freehold demo --cheat text\n  freehold demo --keep\n  freehold demo --json"
)]
pub struct Args {
    #[command(flatten)]
    demo: DemoArgs,
}

/// Runs it.
///
/// # Errors
/// The first step that fails, with its fix.
pub async fn run(args: Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    let mut demo = args.demo;
    demo.json = globals.json;
    demo.stage.clone_from(&globals.dir);
    demo::run(demo).await
}
