//! `freehold lab`: a private chain, a relay and funded nodes on this machine.

use super::Globals;
use std::process::ExitCode;

/// Arguments of `freehold lab`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  freehold lab up --nodes 3\n  freehold lab down")]
pub struct Args {}

/// Runs it.
///
/// # Errors
/// Where the lab does not start.
pub async fn run(_args: Args, _globals: &Globals) -> anyhow::Result<ExitCode> {
    anyhow::bail!("the lab is not part of this build yet")
}
