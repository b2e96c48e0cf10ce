//! `freehold ask`: one answer.

use super::buying::{self, BuyArgs};
use super::{Globals, print_json};
use crate::service::Needs;
use crate::session::Session;
use anyhow::Context;
use protocol::work::{ChatMessage, Work};
use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Longest wait for a verdict that was asked for.
const VERDICT: Duration = Duration::from_secs(180);

/// Arguments of `freehold ask`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  freehold ask \"What is a sat?\"
  freehold ask --model pocket --max-cost 5 --max-tokens 64 \"Count to ten.\"
  cat notes.txt | freehold ask --yes --json -
  freehold ask --regex \"(yes|no)\" \"Is a sat less than a cent?\"
  freehold ask --audit --save-bundle answer.json \"What is a relay?\"

Before anything is spent it shows model, host, price, cap and the reason for the
choice, and asks. Ctrl-C once stops: what was delivered is paid. Twice cancels.
The host reads the prompt. A model of this machine that --model names answers here, for
nothing (--buy buys all the same), and so does one where nobody sells what is asked for.")]
pub struct Args {
    /// The question; `-` reads it from stdin
    prompt: String,
    /// Instructions before the question
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    buy: BuyArgs,
    /// Write the evidence (prompt included) to this file, for `freehold replay`
    #[arg(long, value_name = "FILE")]
    save_bundle: Option<PathBuf>,
}

/// Runs it.
///
/// # Errors
/// Where no node can be talked to.
pub async fn run(args: Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    let work = Work::Chat {
        messages: messages(&args)?,
    };
    let session = Session::open(&globals.folder()?, globals.json, Needs::Purchase).await?;
    let result = ask(&session, &args, work, globals).await;
    session.close().await;
    result
}

async fn ask(
    session: &Session,
    args: &Args,
    work: Work,
    globals: &Globals,
) -> anyhow::Result<ExitCode> {
    let order = args.buy.order(work)?;
    let deciding = buying::is_local(session, &args.buy);
    if session.unless_stopped(deciding).await? {
        anyhow::ensure!(
            args.save_bundle.is_none(),
            "this machine answers itself, and signs no evidence: pass --buy to buy the answer"
        );
        let outcome = buying::run_here(session, &order, globals).await?;
        if globals.json {
            print_json(&outcome)?;
        }
        return Ok(outcome.code(outcome.failure.is_none()));
    }
    let mut verdicts = match args.buy.audit {
        true => Some(session.client.verdicts().await?),
        false => None,
    };
    let mut outcome = buying::buy(session, &order, &args.buy, globals).await?;
    if let (Some(verdicts), Some(receipt)) = (&mut verdicts, &outcome.receipt) {
        eprintln!("waiting for the verdict");
        let waiting = async { Ok(buying::await_verdict(verdicts, receipt, VERDICT).await) };
        outcome.verdict = session.unless_stopped(waiting).await?;
        match &outcome.verdict {
            Some(row) => eprintln!("verdict {}", buying::verdict(row)),
            None => eprintln!(
                "verdict none within {} s: `freehold replay {}` checks it here",
                VERDICT.as_secs(),
                receipt.id
            ),
        }
    }
    if let (Some(file), Some(order)) = (&args.save_bundle, outcome.order) {
        let bundle = session.client.bundle(order).await?;
        std::fs::write(file, serde_json::to_vec(&bundle)?)
            .with_context(|| file.display().to_string())?;
        eprintln!("bundle  {} (contains the prompt)", file.display());
    }
    if globals.json {
        print_json(&outcome)?;
    }
    let convicted = outcome
        .verdict
        .as_ref()
        .and_then(|row| row.result.as_ref().ok())
        .is_some_and(|verdict| verdict.finding.convicts());
    Ok(outcome.code(outcome.receipt.is_some() && !convicted))
}

fn messages(args: &Args) -> anyhow::Result<Vec<ChatMessage>> {
    let prompt = if args.prompt == "-" {
        anyhow::ensure!(
            !std::io::stdin().is_terminal(),
            "`-` reads the question from a pipe or a file: freehold ask - < FILE"
        );
        let mut text = String::new();
        // One byte more than is allowed, so that the check below can tell.
        let most = protocol::limits::MAX_PROMPT_BYTES as u64 + 1;
        std::io::stdin()
            .lock()
            .take(most)
            .read_to_string(&mut text)?;
        text
    } else {
        args.prompt.clone()
    };
    anyhow::ensure!(
        !prompt.trim().is_empty(),
        "the question is empty: freehold ask \"What is a sat?\""
    );
    let message = |role: &str, content: &str| ChatMessage {
        role: role.to_owned(),
        content: content.to_owned(),
    };
    let system = args.system.iter().map(|text| message("system", text));
    Ok(system.chain([message("user", &prompt)]).collect())
}
