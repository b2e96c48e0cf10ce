//! One command's node: the one that runs on the folder, or one for the moment.
//!
//! Not a server. Every command but `up` goes through here, so that a command does
//! the same whether a node runs or not. From [`Session::open`] on a signal does not end the
//! process: the node that was started for the command stops in good order first.

use crate::control::Client;
use crate::folder::{Folder, FolderError};
use crate::service::{self, Needs, Prepared, Running, StartOptions};
use crate::signals::Stops;
use protocol::message::discovery::HostRow;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, MutexGuard};

/// How long a node that has the folder may take until it answers: it may be starting.
const STARTING: Duration = Duration::from_secs(30);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(150);
/// How long relays may take to deliver the first listing.
const LISTINGS: Duration = Duration::from_secs(15);
/// How long relays are waited for where each was tried and none answered.
const IN_VAIN: Duration = Duration::from_secs(4);
/// How long Lightning peers may take to come back after a start.
const PEERS: Duration = Duration::from_secs(20);

/// A node to talk to.
pub struct Session {
    /// Its control API.
    pub client: Client,
    running: Option<Running>,
    stops: Mutex<Stops>,
    quiet: bool,
}

/// Somebody asked to stop before the command was done.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("interrupted; what was begun is in `freehold ledger`")]
pub struct Interrupted;

/// Says each step on stderr.
fn say(quiet: bool) -> impl FnMut(&str, &str) + Send {
    move |what: &str, result: &str| {
        if !quiet {
            eprintln!("  {what}: {result}");
        }
    }
}

impl Session {
    /// Finds the node of a folder, or starts one for this command with what it needs.
    ///
    /// # Errors
    /// Where neither works; says why.
    pub async fn open(folder: &Folder, quiet: bool, needs: Needs) -> anyhow::Result<Self> {
        // From here on a signal no longer ends the process: what was started stops in order.
        let mut stops = Stops::listen()?;
        // Says what is missing before anything is tried.
        folder.config()?;
        let found = tokio::select! {
            found = find(folder, quiet, needs) => found?,
            () = stops.next() => return Err(Interrupted.into()),
        };
        let (client, running) = match found {
            Found::Node(client) => (client, None),
            Found::Prepared(prepared) => {
                let running = service::launch(*prepared, &mut say(quiet)).await?;
                (Client::new(&running.control), Some(running))
            }
        };
        Ok(Session {
            client,
            running,
            stops: stops.into(),
            quiet,
        })
    }

    /// Waits until the wallet can be used: it runs, and the peers of its channels are there,
    /// or some seconds have passed.
    ///
    /// # Errors
    /// Where the node has no wallet that runs; says why.
    pub async fn wallet(&self) -> anyhow::Result<()> {
        match &self.running {
            Some(running) => {
                running.node.wallet().opened().await?;
                self.peers().await;
            }
            // It waits for its own wallet, and says why there is none.
            None => {
                self.client.balance().await?;
            }
        }
        Ok(())
    }

    /// Whether the node's own machine has a model that is called `name` (a name or a
    /// digest), or any.
    ///
    /// # Errors
    /// Where the node does not answer, or a model of the settings cannot be opened.
    pub async fn has_model(&self, name: Option<&str>) -> anyhow::Result<bool> {
        if let Some(running) = &self.running {
            running.load_models(name, &mut say(self.quiet)).await?;
        }
        let models = self.client.status().await?.models;
        Ok(models
            .iter()
            .any(|row| name.is_none_or(|name| row.name == name || row.digest.to_string() == name)))
    }

    /// Carries out `work`, unless somebody presses Ctrl-C, the system asks to stop, or the node
    /// that was started for this command must stop.
    ///
    /// # Errors
    /// What `work` says, [`Interrupted`], or why the node must stop.
    pub async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let mut stops = self.stops.lock().await;
        tokio::select! {
            result = work => result,
            () = stops.next() => Err(Interrupted.into()),
            died = self.died() => Err(died),
        }
    }

    /// Waits until the node that was started for this command must stop (its disk is full,
    /// say), and returns why. For ever, where another process has the node.
    pub async fn died(&self) -> anyhow::Error {
        let Some(running) = &self.running else {
            return std::future::pending().await;
        };
        let mut fatal = running.node.fatal();
        let fatal = fatal.wait_for(Option::is_some).await;
        match fatal.ok().and_then(|fatal| fatal.clone()) {
            Some(fatal) => anyhow::anyhow!("{}; {}", fatal.what, fatal.fix),
            None => anyhow::anyhow!("the node stopped by itself; its log says why"),
        }
    }

    /// The signals to stop, for work that deals with them itself.
    pub async fn stops(&self) -> MutexGuard<'_, Stops> {
        self.stops.lock().await
    }

    /// Waits until a channel can be used, where there are any.
    async fn peers(&self) {
        let end = Instant::now() + PEERS;
        while Instant::now() < end {
            match self.client.channels().await {
                Ok(channels) if channels.iter().any(|channel| !channel.usable) => {}
                _ => return,
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The hosts, once there is one that `wanted` takes, or after some seconds.
    ///
    /// # Errors
    /// Where the node does not answer.
    pub async fn hosts(&self, wanted: impl Fn(&HostRow) -> bool) -> anyhow::Result<Vec<HostRow>> {
        let began = Instant::now();
        let end = began + LISTINGS;
        loop {
            let hosts = self.client.hosts().await?;
            let relays = self.client.status().await?.relays;
            // None configured, or each of them was tried in vain.
            let in_vain = relays
                .iter()
                .all(|relay| !relay.connected && relay.last_error.is_some());
            let in_vain = in_vain && (relays.is_empty() || began.elapsed() >= IN_VAIN);
            if in_vain || hosts.iter().any(&wanted) || Instant::now() >= end {
                return Ok(hosts);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends the node if it was started for this command.
    pub async fn close(self) {
        if let Some(running) = self.running {
            running.shutdown().await;
        }
    }
}

/// A node for a command.
enum Found {
    /// It runs already.
    Node(Client),
    /// It is to be started.
    Prepared(Box<Prepared>),
}

/// Finds the node of a folder, or takes the folder to start one. Dropping it leaves nothing
/// behind.
async fn find(folder: &Folder, quiet: bool, needs: Needs) -> anyhow::Result<Found> {
    let end = Instant::now() + STARTING;
    loop {
        if let Some(client) = Client::find(folder, needs).await {
            return Ok(Found::Node(client));
        }
        let options = StartOptions {
            needs,
            ..StartOptions::default()
        };
        match service::prepare(folder, options, &mut say(quiet)).await {
            Ok(prepared) => {
                if !quiet {
                    eprintln!(
                        "no node runs on {}: starting one for this command",
                        folder.dir().display()
                    );
                }
                return Ok(Found::Prepared(Box::new(prepared)));
            }
            // Another process has the folder: its node starts, or ends with its command.
            Err(error) if is_locked(&error) && Instant::now() < end => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn is_locked(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<FolderError>(),
        Some(FolderError::Locked { .. })
    )
}
