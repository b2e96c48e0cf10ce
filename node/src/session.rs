//! One command's node: the one that runs on the folder, or one for the moment.
//!
//! Not a server. Every command but `up` goes through here, so that a command does
//! the same whether a node runs or not.

use crate::control::Client;
use crate::folder::{Folder, FolderError};
use crate::service::{self, Running, StartOptions};
use anyhow::Context;
use protocol::discovery::io::HostRow;
use std::time::{Duration, Instant};

/// How long a node that has the folder may take until it answers: it may be starting.
const STARTING: Duration = Duration::from_secs(30);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(150);
/// How long relays may take to deliver the first listing.
const LISTINGS: Duration = Duration::from_secs(15);
/// How long Lightning peers may take to come back after a start.
const PEERS: Duration = Duration::from_secs(20);

/// A node to talk to.
pub struct Session {
    /// Its control API.
    pub client: Client,
    running: Option<Running>,
}

impl Session {
    /// Finds the node of a folder, or starts one for this command.
    ///
    /// # Errors
    /// Where neither works; says why.
    pub async fn open(folder: &Folder, quiet: bool) -> anyhow::Result<Self> {
        // Says what is missing before anything is tried.
        folder.config()?;
        if let Some(client) = Client::find(folder).await {
            return Ok(Session {
                client,
                running: None,
            });
        }
        let mut say = |what: &str, result: &str| {
            if !quiet {
                eprintln!("  {what}: {result}");
            }
        };
        if !quiet {
            eprintln!(
                "no node runs on {}: starting one for this command",
                folder.dir().display()
            );
        }
        let options = StartOptions {
            ephemeral: true,
            cheat: None,
            other_words: false,
        };
        match service::start(folder, options, &mut say).await {
            Ok(running) => {
                let client = Client::new(&running.control);
                let session = Session {
                    client,
                    running: Some(running),
                };
                session.peers().await;
                Ok(session)
            }
            Err(error) if is_locked(&error) => Self::wait(folder).await.context(error),
            Err(error) => Err(error),
        }
    }

    async fn wait(folder: &Folder) -> anyhow::Result<Self> {
        let end = Instant::now() + STARTING;
        while Instant::now() < end {
            if let Some(client) = Client::find(folder).await {
                return Ok(Session {
                    client,
                    running: None,
                });
            }
            tokio::time::sleep(LOOK).await;
        }
        anyhow::bail!("its node does not answer")
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
        let end = Instant::now() + LISTINGS;
        loop {
            let hosts = self.client.hosts().await?;
            let relays = self.client.status().await?.relays;
            if relays.is_empty() || hosts.iter().any(&wanted) || Instant::now() >= end {
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

fn is_locked(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<FolderError>(),
        Some(FolderError::Locked { .. })
    )
}
