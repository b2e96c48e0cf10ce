//! A node from a data folder: models, wallet, actors and HTTP servers put together.
//!
//! Wiring and its order; each service starts by itself. What depends on the world (chain,
//! relays, peers) may be away: the node then runs without it, says so
//! ([`crate::server::health`]), and takes it up when it is back. Called by `freehold up`,
//! and by every other command where no node runs on the folder yet.

use crate::config::Config;
use crate::folder::{ControlFile, Folder, FolderLock};
use crate::server::{App, Server};
use actors::keys::NodeKeys;
use actors::node::Node;
use actors::ports::compute::Compute;
use actors::ports::storage::Storage;
use kernels::Cheat;
use protocol::wire::envelope::Network;
use protocol::wire::manifest::Role;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::task::JoinSet;

mod memory;
pub mod models;
pub mod reach;
pub mod serve;
pub mod wallet;

use models::{LoadOptions, Loaded};

/// What is started beside the books.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Needs {
    /// Everything that the settings name, at the configured addresses: `freehold up`.
    #[default]
    All,
    /// A wallet and the market, for one command that buys.
    Purchase,
    /// The wallet, for one command.
    Wallet,
    /// The market without a wallet, for one command that only looks.
    Market,
    /// The books alone, for one command.
    Books,
}

impl Needs {
    fn wallet(self) -> bool {
        matches!(self, Needs::All | Needs::Purchase | Needs::Wallet)
    }

    fn market(self) -> bool {
        matches!(self, Needs::All | Needs::Purchase | Needs::Market)
    }

    /// Whether a node that was started for this has what `other` needs, and for long enough.
    /// One that was started for a command ends with it: another command may look at its lists
    /// meanwhile, but neither buy nor move money.
    pub fn covers(self, other: Needs) -> bool {
        match other {
            Needs::Books => true,
            Needs::Market => self.market(),
            Needs::All | Needs::Purchase | Needs::Wallet => self == Needs::All,
        }
    }
}

/// What is special about this start.
#[derive(Debug, Clone, Copy, Default)]
pub struct StartOptions {
    /// What is started. All but [`Needs::All`] are for the duration of one command: they
    /// open no public port, load no model, and take no role but `client`.
    pub needs: Needs,
    /// Damage the models on purpose (regtest alone): for demonstrations of audits.
    pub cheat: Option<Cheat>,
    /// Show buyers other words than the model chose (regtest alone).
    pub other_words: bool,
}

/// A node that runs in this process.
pub struct Running {
    /// The node.
    pub node: Node,
    /// Where its control API answers, and the token.
    pub control: ControlFile,
    server: Server,
    config: Config,
    folder: Folder,
    /// Ends with it.
    _memory: JoinSet<()>,
    _lock: FolderLock,
}

/// Told what is being done, and with what result.
pub type Say<'a> = &'a mut (dyn FnMut(&str, &str) + Send);

/// Everything about a start that may be given up at any moment.
pub struct Prepared {
    config: Config,
    keys: NodeKeys,
    lock: FolderLock,
    folder: Folder,
    compute: Compute,
    loaded: Loaded,
    needs: Needs,
}

/// Locks the folder and loads the models. Dropping it at any point leaves nothing behind.
///
/// # Errors
/// The first step that fails, with its fix.
pub async fn prepare(
    folder: &Folder,
    options: StartOptions,
    say: Say<'_>,
) -> anyhow::Result<Prepared> {
    let mut config = folder.config()?;
    anyhow::ensure!(
        options.cheat.is_none() && !options.other_words || config.network == Network::Regtest,
        "cheating is for demonstrations on regtest alone; this node is on {}",
        config.network.name()
    );
    if options.needs != Needs::All {
        config.roles = vec![Role::Client];
    }
    if !options.needs.market() {
        config.relays = Some(Vec::new());
        config.bootstrap = Vec::new();
    }
    let lock = folder.lock()?;
    // Of a process that is gone: whoever answers there now is somebody else.
    folder.remove_control();
    let keys = folder.keys()?;
    say("folder", &folder.dir().display().to_string());
    let compute = models::compute(&config.host).with_other_words(options.other_words);
    // A node for one command loads a model when the command asks for it.
    let entries = match options.needs {
        Needs::All => config.models.clone(),
        _ => Vec::new(),
    };
    let how = LoadOptions {
        cheat: options.cheat,
        measure: true,
    };
    let loaded = models::load(&entries, &config, folder, &compute, how, say).await?;
    Ok(Prepared {
        config,
        keys,
        lock,
        folder: folder.clone(),
        compute,
        loaded,
        needs: options.needs,
    })
}

/// Starts what was prepared. Must run to its end: a wallet that was dropped half-way does
/// not stop in good order.
///
/// # Errors
/// The first step that fails, with its fix. Nothing is left running.
pub async fn launch(prepared: Prepared, say: Say<'_>) -> anyhow::Result<Running> {
    let Prepared {
        config,
        keys,
        lock,
        folder,
        compute,
        loaded,
        needs,
    } = prepared;
    folder.make_private(&folder.db_path())?;
    let storage = Storage::open(&folder.db_path())?;
    let wallet = match needs.wallet() {
        true => wallet::open(&folder, &config, keys.lightning, say).await?,
        false => wallet::none(&config, &keys.lightning, "this command needs none")?,
    };
    let node_config =
        match reach::node_config(&config, keys, &loaded.models, folder.vocabularies_path()) {
            Ok(node_config) => node_config,
            Err(error) => {
                wallet.stop().await;
                return Err(error);
            }
        };
    let started = Node::start(node_config, wallet.clone(), compute, storage).await;
    let node = match started {
        Ok(node) => node,
        Err(error) => {
            wallet.stop().await;
            return Err(error.into());
        }
    };
    say("node key", &node.key().to_string());
    let app = App::new(node.clone(), &config, loaded).with_names(folder.names_path());
    let app = Arc::new(app);
    let (server, control) = match serve::start(app, &folder, &config, needs).await {
        Ok(served) => served,
        Err(error) => {
            node.shutdown().await;
            return Err(error);
        }
    };
    if let Some(gateway) = server.gateway() {
        say("gateway", &format!("{gateway}/v1"));
    }
    let mut memory = JoinSet::new();
    if needs == Needs::All {
        memory.spawn(memory::give_back());
    }
    Ok(Running {
        node,
        control,
        server,
        config,
        folder,
        _memory: memory,
        _lock: lock,
    })
}

/// [`prepare`] and [`launch`].
///
/// # Errors
/// As they.
pub async fn start(
    folder: &Folder,
    options: StartOptions,
    say: Say<'_>,
) -> anyhow::Result<Running> {
    let prepared = prepare(folder, options, say).await?;
    launch(prepared, say).await
}

impl Running {
    /// Base address of its gateway, where it has one.
    pub fn gateway(&self) -> Option<&str> {
        self.server.gateway()
    }

    /// Loads models of the settings into a node for one command: those that may be called
    /// `name`, or all.
    ///
    /// # Errors
    /// Where one cannot be opened.
    pub async fn load_models(&self, name: Option<&str>, say: Say<'_>) -> anyhow::Result<()> {
        let entries = models::candidates(&self.config.models, name);
        let how = LoadOptions {
            cheat: None,
            measure: false,
        };
        let compute = self.node.compute();
        let loaded = models::load(&entries, &self.config, &self.folder, compute, how, say).await?;
        self.server.app().set_models(loaded);
        Ok(())
    }

    /// Resolves when a client asked for a shutdown over the control API.
    pub async fn shutdown_asked(&self) {
        self.server.shutdown_asked().await;
    }

    /// Stops everything in good order.
    pub async fn shutdown(self) {
        self.folder.remove_control();
        self.node.shutdown().await;
        self.server.stop().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_for_one_command_serves_only_those_that_need_no_more() {
        let all = [
            Needs::All,
            Needs::Purchase,
            Needs::Wallet,
            Needs::Market,
            Needs::Books,
        ];
        assert!(all.iter().all(|other| Needs::All.covers(*other)));
        // What ends with a command is nothing for another one to buy or to pay with.
        for one in &all[1..] {
            assert!(all[..3].iter().all(|other| !one.covers(*other)), "{one:?}");
            assert!(one.covers(Needs::Books));
        }
        assert!(Needs::Purchase.covers(Needs::Market) && !Needs::Wallet.covers(Needs::Market));
    }
}
