//! `freehold demo`: the whole path on this machine, with worthless coins.

use super::Globals;
use std::process::ExitCode;

/// Arguments of `freehold demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  freehold demo\n  freehold demo --json")]
pub struct Args {}

/// Runs it.
///
/// # Errors
/// Where a part of it does not start.
pub async fn run(_args: Args, _globals: &Globals) -> anyhow::Result<ExitCode> {
    anyhow::bail!("the demo is not part of this build yet")
}
