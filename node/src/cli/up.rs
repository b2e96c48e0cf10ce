//! `freehold up`: the node, until it is told to stop.

use super::{Globals, show};
use crate::control::Client;
use crate::folder::Folder;
use crate::service::{self, Running, StartOptions};
use crate::signals::Stops;
use clap::ValueEnum;
use kernels::Cheat;
use protocol::manifest::Role;
use std::process::ExitCode;
use std::time::Duration;

/// Arguments of `freehold up`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  freehold up                       run with the roles of freehold.toml
  freehold --dir ./host up          run another node
  freehold up --json                one JSON line when it is ready, for scripts

Stop it with Ctrl-C or `kill PID`: running orders end, the listing is withdrawn.
Other commands talk to the running node by themselves.")]
pub struct Args {
    /// Damage the models on purpose, to see an audit convict (regtest alone)
    #[arg(long, value_enum, hide = true)]
    cheat: Option<CheatKind>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CheatKind {
    /// One weight has the wrong sign.
    Weight,
    /// Buyers are shown other words than the model chose.
    Text,
}

/// Runs it.
///
/// # Errors
/// Where the node does not start.
pub async fn run(args: Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    let folder = globals.folder()?;
    let json = globals.json;
    let mut stops = Stops::listen()?;
    let mut say = |what: &str, result: &str| eprintln!("  {what:<9} {result}");
    let options = StartOptions {
        ephemeral: false,
        cheat: match args.cheat {
            Some(CheatKind::Weight) => Some(Cheat::AlterWeight),
            _ => None,
        },
        other_words: matches!(args.cheat, Some(CheatKind::Text)),
    };
    let starting = service::start(&folder, options, &mut say);
    let running = tokio::select! {
        started = starting => started?,
        () = stops.next() => {
            eprintln!("stopped before it was up");
            return Ok(ExitCode::SUCCESS);
        }
    };
    ready(&running, &folder, json);
    let watching = tokio::spawn(watch(Client::new(&running.control), running.node.clone()));
    let code = serve(&running, &mut stops).await;
    watching.abort();
    eprintln!("stopping: running orders end, the listing is withdrawn (again Ctrl-C: at once)");
    tokio::select! {
        () = running.shutdown() => eprintln!("stopped"),
        () = stops.next() => {
            eprintln!("stopped at once; payments under way are found again at the next start");
        }
    }
    Ok(code)
}

fn ready(running: &Running, folder: &Folder, json: bool) {
    let (node, roles) = (&running.node, show::roles(running.node.roles()));
    eprintln!("  roles     {roles}");
    for address in node.addresses() {
        eprintln!("  listening {address}");
    }
    eprintln!("up. Ctrl-C stops it.");
    if json {
        let line = serde_json::json!({
            "ready": true, "pid": std::process::id(), "dir": folder.dir(), "gateway": running.control.url,
            "node": node.key(), "lightning": node.wallet().node_id(), "roles": node.roles(),
            "addresses": node.addresses(),
        });
        println!("{line}");
    }
}

/// Waits for a reason to stop.
async fn serve(running: &Running, stops: &mut Stops) -> ExitCode {
    let mut fatal = running.node.fatal();
    let died = async {
        match fatal.wait_for(Option::is_some).await {
            Ok(fatal) => fatal.clone(),
            Err(_) => None,
        }
    };
    tokio::select! {
        () = stops.next() => {}
        () = running.shutdown_asked() => eprintln!("asked to stop over the control API"),
        fatal = died => {
            if let Some(fatal) = fatal {
                eprintln!("error: {}\nfix: {}", fatal.what, fatal.fix);
            }
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Tells when the relays are there and when our own listing came back from one.
async fn watch(client: Client, node: actors::node::Node) {
    let serves = node.roles().iter().any(|role| *role != Role::Client);
    let (mut relays, mut listed, began) = (false, !serves, actors::clock::wall_now());
    if serves {
        eprintln!("  self-test is this node reachable and payable? it is listed only then");
    }
    // A host may wait hours for its first channel; the self-test is repeated until then.
    let mut look = tokio::time::interval(Duration::from_secs(1));
    while !(relays && listed) {
        look.tick().await;
        if !relays && let Ok(status) = client.status().await {
            let connected = status.relays.iter().filter(|relay| relay.connected).count();
            if connected > 0 {
                relays = true;
                eprintln!(
                    "  relays    {connected} of {} connected",
                    status.relays.len()
                );
            }
        }
        if !listed && let Ok(hosts) = client.hosts().await {
            let own = hosts
                .iter()
                // One that was stored by an earlier run says nothing of this one.
                .find(|row| row.manifest.node == node.key() && row.seen >= began);
            if let Some(own) = own {
                listed = true;
                eprintln!(
                    "  listing   passed the self-test; published on {}",
                    own.relays.join(", ")
                );
            }
        }
    }
}
