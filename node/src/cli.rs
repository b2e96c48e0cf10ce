//! The command line: what there is, and where it goes.
//!
//! Each command is one file; help texts teach by example. Errors end in one line on stderr
//! with the fix, and with `--json` in one object `{"error": {"message", "fix"}}` on stdout as
//! well. Exit codes: 0 done, 1 an error or a no, 2 wrong usage, 130 interrupted (Ctrl-C or
//! SIGTERM).

use crate::control::ControlError;
use crate::folder::Folder;
use crate::session::Interrupted;
use crate::signals;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

pub mod ask;
pub mod bench;
pub mod buying;
pub mod chat;
pub mod demo;
pub mod embed;
mod file;
pub mod hosts;
pub mod init;
pub mod inspect;
pub mod lab;
pub mod ledger;
mod lines;
pub mod logits;
pub mod models;
pub mod profile;
pub mod replay;
mod show;
pub mod tokenize;
pub mod up;
pub mod wallet;

/// Buy and sell language-model inference, paid token by token over Lightning.
#[derive(Debug, Parser)]
#[command(name = "freehold", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub struct Globals {
    /// The node's data folder [default: ~/.freehold]
    #[arg(long, global = true, env = "FREEHOLD_DIR", value_name = "FOLDER")]
    pub dir: Option<PathBuf>,
    /// Print one JSON value on stdout, for scripts; progress stays on stderr
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more (-v: what happens, -vv: everything); RUST_LOG is finer
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

impl Globals {
    /// The data folder.
    ///
    /// # Errors
    /// Where none is named and no home folder is known.
    pub fn folder(&self) -> anyhow::Result<Folder> {
        match &self.dir {
            Some(dir) => Ok(Folder::new(dir)),
            None => Ok(Folder::new(Folder::default_dir()?)),
        }
    }
}

/// Exit code after Ctrl-C, as shells have it: 128 and the number of SIGINT.
const INTERRUPTED: u8 = 130;

const EXAMPLES: &str = "\
A first look, with everything on this machine and worthless coins:
  freehold demo

A node of your own:
  freehold init                        make keys and settings
  freehold profile                     what suits this machine
  freehold wallet address              where to send coins
  freehold hosts                       who sells what
  freehold ask \"What is a sat?\"        buy an answer
  freehold up                          stay up: sell, check, serve the gateway

The host of an answer reads the prompt. Do not send what must stay secret.

Exit codes: 0 done, 1 an error or a no, 2 wrong usage, 130 interrupted.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a node: a folder with keys and settings
    Init(init::Args),
    /// Look at this machine and say which roles suit it
    Profile(profile::Args),
    /// Run the node until it is told to stop
    Up(up::Args),
    /// List hosts, their models, prices and scores
    Hosts(hosts::Args),
    /// Buy one answer
    Ask(ask::Args),
    /// Talk, and buy each answer
    Chat(chat::Args),
    /// Money: balance, channels, invoices, payments
    Wallet(wallet::Args),
    /// The books: what was earned, spent, and is unresolved
    Ledger(ledger::Args),
    /// List the models on this machine
    Models(models::Args),
    /// Compute a bought answer again and compare every bit
    Replay(replay::Args),
    /// Show what a GGUF file holds
    Inspect(inspect::Args),
    /// Turn text into a model's token ids, and back
    Tokenize(tokenize::Args),
    /// Print a model's logits, for comparison with other engines
    Logits(logits::Args),
    /// Print the vector of a text, from an embedding model
    Embed(embed::Args),
    /// Measure how fast a model runs here
    Bench(bench::Args),
    /// A private chain, a relay and funded nodes on this machine
    Lab(lab::Args),
    /// Watch it all at work, on this machine, with worthless coins
    Demo(demo::Args),
}

/// What this program is called with to render chat templates for itself: no command of the
/// operator's.
const RENDER: &str = "__render";
/// Processes that render at once; each is bounded in memory and time.
const RENDERERS: usize = 4;

/// Makes every chat template of this process render in child processes with limits.
fn isolate_templates() -> std::io::Result<()> {
    // On Linux this is the program that runs, also where an update has replaced its file.
    let program = match std::path::Path::new("/proc/self/exe") {
        own if own.exists() => own.to_owned(),
        _ => std::env::current_exe()?,
    };
    let renderer = kernels::ChildRenderer::new(program, vec![RENDER.to_owned()], RENDERERS);
    kernels::set_renderer(Box::new(renderer));
    Ok(())
}

/// The whole life of such a child.
fn render() -> ExitCode {
    match kernels::serve_renders() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Runs the command line.
pub fn main() -> ExitCode {
    kernels::heap::keep_little();
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == RENDER)
    {
        return render();
    }
    let cli = Cli::parse();
    let json = cli.globals.json;
    logs(cli.globals.verbose);
    if let Err(error) = isolate_templates() {
        eprintln!("error: this program does not find itself: {error}");
        return ExitCode::FAILURE;
    }
    // Fails only where one was installed before; then that one serves.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        signals::survive_file_size_limit()?;
        run(cli).await
    });
    // A task that hangs must not keep the process; what mattered was awaited.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match result {
        Ok(code) => code,
        Err(error) => {
            if json {
                println!("{}", error_json(&error));
            }
            eprintln!("error: {error:#}");
            match error.is::<Interrupted>() {
                true => ExitCode::from(INTERRUPTED),
                false => ExitCode::FAILURE,
            }
        }
    }
}

/// An error for scripts.
fn error_json(error: &anyhow::Error) -> serde_json::Value {
    let refused = error.downcast_ref::<ControlError>();
    let (status, fix) = match refused {
        Some(ControlError::Refused { status, fix, .. }) => (Some(*status), fix.clone()),
        _ => (None, None),
    };
    serde_json::json!({
        "error": {"message": format!("{error:#}"), "fix": fix, "status": status},
    })
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let globals = &cli.globals;
    match cli.command {
        Command::Init(args) => init::run(args, globals),
        Command::Profile(args) => profile::run(args, globals).await,
        Command::Up(args) => up::run(args, globals).await,
        Command::Hosts(args) => hosts::run(args, globals).await,
        Command::Ask(args) => ask::run(args, globals).await,
        Command::Chat(args) => chat::run(args, globals).await,
        Command::Wallet(args) => wallet::run(args, globals).await,
        Command::Ledger(args) => ledger::run(args, globals).await,
        Command::Models(args) => models::run(args, globals).await,
        Command::Replay(args) => replay::run(args, globals).await,
        Command::Inspect(args) => blocking(inspect::run, args, globals).await,
        Command::Tokenize(args) => blocking(tokenize::run, args, globals).await,
        Command::Logits(args) => blocking(logits::run, args, globals).await,
        Command::Embed(args) => blocking(embed::run, args, globals).await,
        Command::Bench(args) => blocking(bench::run, args, globals).await,
        Command::Lab(args) => lab::run(args, globals).await,
        Command::Demo(args) => demo::run(args, globals).await,
    }
}

/// A command that only computes, on a thread that may.
async fn blocking<A: Send + 'static>(
    command: fn(A, &Globals) -> anyhow::Result<ExitCode>,
    args: A,
    globals: &Globals,
) -> anyhow::Result<ExitCode> {
    let globals = globals.clone();
    tokio::task::spawn_blocking(move || command(args, &globals)).await?
}

/// Logs go to stderr; stdout is for results.
fn logs(verbose: u8) {
    use tracing_subscriber::EnvFilter;
    let default = match verbose {
        0 => "error,freehold=warn,actors::shell=warn,actors::node=warn",
        1 => "warn,freehold=info,actors=info,lab=info",
        _ => "info,freehold=debug,actors=debug,protocol=debug,lab=debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}

/// Prints a value as JSON.
pub(crate) fn print_json<T: serde::Serialize>(value: &T) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_error_for_scripts_has_the_message_and_the_fix() {
        let refused = ControlError::Refused {
            status: 402,
            message: "too few coins".to_owned(),
            fix: Some("send some".to_owned()),
        };
        let error = error_json(&anyhow::Error::from(refused).context("no channel"));
        assert_eq!(error["error"]["message"], "no channel: too few coins");
        assert_eq!(error["error"]["fix"], "send some");
        assert_eq!(error["error"]["status"], 402);
    }

    #[test]
    fn every_command_shows_an_example_in_its_help() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains(&format!("freehold {name}")), "{name}");
        }
    }
}
