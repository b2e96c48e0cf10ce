//! `freehold chat`: a conversation, each answer bought.

use super::buying::{self, BuyArgs};
use super::{Globals, lines};
use crate::service::Needs;
use crate::session::Session;
use protocol::money::Msat;
use protocol::work::{ChatMessage, Work};
use std::io::Write;
use std::process::ExitCode;

/// Arguments of `freehold chat`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  freehold chat --model pocket --max-cost 5
  freehold chat --yes --system \"Answer in one sentence.\"

Each line is sent with everything said before, and each answer is bought: the cap
holds per answer. /new forgets the conversation, /quit (or Ctrl-D) ends it.
Ctrl-C stops an answer, and ends the chat between answers. The host reads the conversation.
A model of this machine that --model names answers here, for nothing (--buy buys all the
same), and so does one where nobody sells what is asked for.")]
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
    let session = Session::open(&globals.folder()?, false, Needs::Purchase).await?;
    let result = talk(&session, args, globals).await;
    session.close().await;
    result.map(|()| ExitCode::SUCCESS)
}

async fn talk(session: &Session, args: Args, globals: &Globals) -> anyhow::Result<()> {
    let deciding = buying::is_local(session, &args.buy);
    let local = session.unless_stopped(deciding).await?;
    if local {
        eprintln!("a model of this machine answers, for nothing; --buy buys instead");
    }
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
    while let Some(line) = prompt(session).await? {
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
        let answered = match local {
            true => buying::run_here(session, &order, globals).await,
            false => buying::buy(session, &order, &buy, globals).await,
        };
        match answered {
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

/// One line from the terminal; `None` at its end, or at Ctrl-C.
async fn prompt(session: &Session) -> std::io::Result<Option<String>> {
    eprint!("> ");
    std::io::stderr().flush()?;
    let mut stops = session.stops().await;
    tokio::select! {
        line = lines::next() => line,
        () = stops.next() => {
            eprintln!();
            Ok(None)
        }
    }
}
