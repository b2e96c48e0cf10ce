//! `freehold lab`: a private chain, a relay and funded nodes on this machine.

use super::Globals;
use crate::lab::{self, LabArgs};
use std::process::ExitCode;

/// Arguments of `freehold lab`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  freehold lab up --nodes 3 --dir /tmp/lab\n  freehold lab down --dir /tmp/lab"
)]
pub struct Args {
    #[command(flatten)]
    lab: LabArgs,
}

/// Runs it.
///
/// # Errors
/// The first step that fails, with its fix.
pub async fn run(args: Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    lab::run(args.lab, globals.dir.clone(), globals.json).await
}
