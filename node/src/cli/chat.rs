//! `freehold chat`: a conversation, each answer bought.

use super::Globals;
use super::buying::{self, BuyArgs};
use crate::session::Session;
use protocol::money::Msat;
use protocol::work::{ChatMessage, Work};
use std::io::{BufRead, Write};
use std::process::ExitCode;

/// Arguments of `freehold chat`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  freehold chat --model pocket --max-cost 5
  freehold chat --yes --system \"Answer in one sentence.\"

Each line is sent with everything said before, and each answer is bought: the cap
holds per answer. /new forgets the conversation, /quit (or Ctrl-D) ends it.
Ctrl-C stops an answer. The host reads the conversation.")]
pub struct Args {
    /// Instructions before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    buy: BuyArgs,
}

/// Runs it.
///
/// # Errors
/// Where no node can be talked to.
pub async fn run(args: Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        !globals.json,
        "chat is for people: use `freehold ask --json` in scripts"
    );
    let session = Session::open(&globals.folder()?, false).await?;
    let result = talk(&session, args, globals).await;
    session.close().await;
    result.map(|()| ExitCode::SUCCESS)
}

async fn talk(session: &Session, args: Args, globals: &Globals) -> anyhow::Result<()> {
    session
        .hosts(super::hosts::filter(&args.buy.model, args.buy.host))
        .await?;
    let message = |role: &str, content: String| ChatMessage {
        role: role.to_owned(),
        content,
    };
    let opening: Vec<ChatMessage> = args
        .system
        .iter()
        .map(|text| message("system", text.clone()))
        .collect();
    let mut said = opening.clone();
    let (mut buy, mut spent) = (args.buy.clone(), Msat::ZERO);
    while let Some(line) = tokio::task::block_in_place(prompt)? {
        match line.trim() {
            "" => continue,
            "/quit" => break,
            "/new" => {
                said.clone_from(&opening);
                eprintln!("forgotten");
                continue;
            }
            text => said.push(message("user", text.to_owned())),
        }
        let order = buy.order(Work::Chat {
            messages: said.clone(),
        })?;
        match buying::buy(&session.client, &order, &buy, globals).await {
            Ok(outcome) if outcome.receipt.is_some() || !outcome.answer.is_empty() => {
                // Agreed once: the next answers have the same cap, shown again each time.
                buy.yes = true;
                spent = spent
                    .saturating_add(outcome.paid())
                    .saturating_add(outcome.fees());
                said.push(message("assistant", outcome.answer));
            }
            Ok(_) => {
                said.pop();
            }
            Err(error) => {
                said.pop();
                eprintln!("error: {error:#}");
            }
        }
    }
    eprintln!("this conversation cost {spent}");
    Ok(())
}

/// One line from the terminal; `None` at its end.
fn prompt() -> std::io::Result<Option<String>> {
    eprint!("> ");
    std::io::stderr().flush()?;
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line)?;
    Ok((read > 0).then_some(line))
}
