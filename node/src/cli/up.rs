//! `freehold up`: the node, until it is told to stop.

use super::{Globals, show};
use crate::control::{Client, Degraded};
use crate::folder::Folder;
use crate::service::{self, Needs, Running, StartOptions};
use crate::session::Interrupted;
use crate::signals::Stops;
use clap::ValueEnum;
use kernels::Cheat;
use protocol::wire::manifest::Role;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How often it is looked at what is missing.
const LOOK: Duration = Duration::from_secs(1);
/// How long relays and wallet may take before they are called missing. Meanwhile the gateway
/// answers.
const SETTLE: Duration = Duration::from_secs(2);
/// Most looks between two at the list of hosts.
const PAUSE_MAX: u32 = 20;

/// Arguments of `freehold up`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  freehold up                       run with the roles of freehold.toml
  freehold --dir ./host up          run another node
  freehold up --json                one JSON line when it is ready, for scripts

Without a network, a chain server or relays it runs all the same: it says what is
missing, answers with the models of this machine, and takes the rest up when it is back.
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
        needs: Needs::All,
        cheat: match args.cheat {
            Some(CheatKind::Weight) => Some(Cheat::AlterWeight),
            _ => None,
        },
        other_words: matches!(args.cheat, Some(CheatKind::Text)),
    };
    let preparing = service::prepare(&folder, options, &mut say);
    let prepared = tokio::select! {
        prepared = preparing => prepared?,
        () = stops.next() => return Err(Interrupted.into()),
    };
    // From here on the wallet is open: a signal is looked at when it can stop in order.
    let running = service::launch(prepared, &mut say).await?;
    let client = Client::new(&running.control);
    let missing = settle(&client).await;
    ready(&running, &folder, json, &missing);
    let watching = tokio::spawn(watch(client, running.node.clone(), missing));
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

/// What is missing once everything had a moment to answer.
async fn settle(client: &Client) -> Vec<Degraded> {
    let end = Instant::now() + SETTLE;
    loop {
        let status = client.status().await;
        let missing = status.map(|status| status.degraded).unwrap_or_default();
        if missing.is_empty() || Instant::now() >= end {
            return missing;
        }
        tokio::time::sleep(LOOK / 10).await;
    }
}

/// One line for each thing that is missing: what, why, and what that costs.
fn tell_missing(missing: &[Degraded]) {
    for one in missing {
        eprintln!("  degraded  no {}: {}; {}", one.what, one.why, one.effect);
    }
}

fn ready(running: &Running, folder: &Folder, json: bool, missing: &[Degraded]) {
    let (node, roles) = (&running.node, show::roles(running.node.roles()));
    eprintln!("  roles     {roles}");
    for address in node.addresses() {
        eprintln!("  listening {address}");
    }
    tell_missing(missing);
    eprintln!("up. Ctrl-C stops it.");
    if json {
        let line = serde_json::json!({
            "ready": true, "pid": std::process::id(), "dir": folder.dir(), "gateway": running.gateway(),
            "node": node.key(), "lightning": node.wallet().node_id(), "roles": node.roles(),
            "addresses": node.addresses(), "degraded": missing,
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

/// Tells what comes back, what goes away, and when our own listing came back from a relay.
async fn watch(client: Client, node: actors::node::Node, mut missing: Vec<Degraded>) {
    let serves = node.roles().iter().any(|role| *role != Role::Client);
    let (mut listed, began) = (!serves, actors::clock::wall_now());
    if serves {
        eprintln!("  self-test is this node reachable and payable? it is listed only then");
    }
    let mut look = tokio::time::interval(LOOK);
    let mut until_listing = Pause::default();
    loop {
        look.tick().await;
        if let Ok(status) = client.status().await {
            tell_changes(&missing, &status.degraded);
            missing = status.degraded;
        }
        // A host may wait hours for its first channel; the self-test is repeated until then.
        if listed || !until_listing.is_over() {
            continue;
        }
        if let Ok(hosts) = node.hosts().await {
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

fn tell_changes(before: &[Degraded], now: &[Degraded]) {
    let is_in = |list: &[Degraded], one: &Degraded| list.iter().any(|other| other.what == one.what);
    for one in before.iter().filter(|one| !is_in(now, one)) {
        eprintln!("  back      {}", one.what);
    }
    let gone: Vec<Degraded> = now
        .iter()
        .filter(|one| !is_in(before, one))
        .cloned()
        .collect();
    tell_missing(&gone);
}

/// Looks that are passed over: more and more, since the list of hosts may be long.
#[derive(Default)]
struct Pause {
    left: u32,
    last: u32,
}

impl Pause {
    fn is_over(&mut self) -> bool {
        if self.left > 0 {
            self.left -= 1;
            return false;
        }
        self.last = (self.last + 1).min(PAUSE_MAX);
        self.left = self.last;
        true
    }
}
