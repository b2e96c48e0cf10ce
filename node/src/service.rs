//! A node from a data folder: wallet, engine, actors and HTTP server put together.
//!
//! Wiring and its order. Called by `freehold up`, and by every other command where
//! no node runs on the folder yet.

use crate::config::{Config, Host};
use crate::control::ModelRow;
use crate::folder::{ControlFile, Folder, FolderLock};
use crate::models::{self, LocalModel, Source};
use crate::profile;
use crate::server::{self, App, Server};
use actors::node::{Node, NodeConfig};
use actors::ports::compute::Compute;
use actors::ports::network::Multiaddr;
use actors::ports::storage::Storage;
use actors::ports::wallet::ldk::{LdkConfig, LdkWallet, WalletRuntime};
use actors::ports::wallet::{self, Wallet};
use anyhow::Context;
use kernels::{Cheat, EngineOptions};
use protocol::envelope::Network;
use protocol::manifest::Role;
use protocol::{discovery, inference, payment, reputation, validator};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What is special about this start.
#[derive(Debug, Clone, Copy, Default)]
pub struct StartOptions {
    /// Listen on a free loopback port in place of the configured one, and take no
    /// role but `client`: for the duration of one command.
    pub ephemeral: bool,
    /// Damage the models on purpose (regtest alone): for demonstrations of audits.
    pub cheat: Option<Cheat>,
    /// Show buyers other words than the model chose (regtest alone).
    pub other_words: bool,
}

/// A node that runs in this process.
pub struct Running {
    /// The node.
    pub node: Node,
    /// Where its HTTP server answers, and the token.
    pub control: ControlFile,
    /// Its models.
    pub models: Vec<ModelRow>,
    server: Server,
    folder: Folder,
    _lock: FolderLock,
}

/// Told what is being done, and with what result.
pub type Say<'a> = &'a mut (dyn FnMut(&str, &str) + Send);

/// Starts a node on `folder`, and says each step.
///
/// # Errors
/// The first step that fails, with its fix. Nothing is left running.
pub async fn start(
    folder: &Folder,
    options: StartOptions,
    say: Say<'_>,
) -> anyhow::Result<Running> {
    let mut config = folder.config()?;
    anyhow::ensure!(
        options.cheat.is_none() && !options.other_words || config.network == Network::Regtest,
        "cheating is for demonstrations on regtest alone; this node is on {}",
        config.network.name()
    );
    if options.ephemeral {
        config.roles = vec![Role::Client];
    }
    let lock = folder.lock()?;
    let keys = folder.keys()?;
    say("folder", &folder.dir().display().to_string());

    let compute = Compute::new()
        .with_pace(pace(config.host.pace))
        .with_other_words(options.other_words)
        .with_engines(engines(&config.host));
    let (served, rows) = load_models(&config, folder, &compute, options, say).await?;
    let storage = Storage::open(&folder.db_path())?;
    let wallet = start_wallet(folder, &config, keys.lightning, say).await?;

    let node_config = node_config(&config, keys, &served)?;
    let started = Node::start(node_config, wallet.clone(), compute, storage).await;
    let node = match started {
        Ok(node) => node,
        Err(error) => {
            wallet.stop().await;
            return Err(error.into());
        }
    };
    say("node key", &node.key().to_string());
    let result = serve(&node, folder, &config, &served, rows.clone(), options).await;
    let (server, control) = match result {
        Ok(served) => served,
        Err(error) => {
            node.shutdown().await;
            return Err(error);
        }
    };
    say("gateway", &format!("{}/v1", control.url));
    Ok(Running {
        node,
        control,
        models: rows,
        server,
        folder: folder.clone(),
        _lock: lock,
    })
}

impl Running {
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

/// Bounds of each model's engine. What is sold is bounded by the order machines; the engine
/// has places beyond it for what runs here for nothing and for replays.
fn engines(host: &Host) -> EngineOptions {
    let places = EngineOptions::default();
    let own = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    EngineOptions {
        cache_bytes: host.cache_mib.saturating_mul(1 << 20),
        streams: places.streams.saturating_add(own(host.concurrent_orders)),
        queue: places.queue.saturating_add(own(host.queued_orders)),
        ..places
    }
}

fn pace(tokens_per_s: u32) -> Option<Duration> {
    (tokens_per_s > 0).then(|| Duration::from_secs(1) / tokens_per_s)
}

async fn load_models(
    config: &Config,
    folder: &Folder,
    compute: &Compute,
    options: StartOptions,
    say: Say<'_>,
) -> anyhow::Result<(Vec<LocalModel>, Vec<ModelRow>)> {
    let (mut served, mut rows) = (Vec::new(), Vec::new());
    // A node for one command computes nothing: it need not wait for its models.
    let entries = if options.ephemeral {
        &[]
    } else {
        config.models.as_slice()
    };
    for entry in entries {
        let (entry, config, folder) = (entry.clone(), config.clone(), folder.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let model = models::open_entry(&entry, &config, &folder, options.cheat)?;
            let speed = model.measure();
            anyhow::Ok((model, speed))
        });
        let (model, speed) = opened.await.context("a model could not be loaded")??;
        // The engine and a server, or two servers, cannot be told apart by their digest.
        anyhow::ensure!(
            served
                .iter()
                .all(|other: &LocalModel| other.digest() != model.digest()),
            "{} is in [[models]] twice, by its digest {}: remove one",
            model.name,
            model.digest().short()
        );
        let how = offer_to(compute, &model, speed);
        let digest = model.digest();
        say("model", &format!("{} {} {how}", model.name, digest.short()));
        rows.push(model.row(speed));
        served.push(model);
    }
    Ok((served, rows))
}

/// Makes a model available, and says in what state it is.
fn offer_to(compute: &Compute, model: &LocalModel, speed: f64) -> String {
    match &model.source {
        Source::Engine(engine) => {
            compute.add(engine.clone());
            format!("{speed:.0} tokens/s")
        }
        Source::Runner(runner) => {
            compute.runners().add(runner.clone());
            match runner.away() {
                None => format!("at {} (runner, not replayable)", runner.url()),
                Some(why) => format!(
                    "at {}, which is away: {why}; orders are refused until it is back",
                    runner.url()
                ),
            }
        }
    }
}

async fn start_wallet(
    folder: &Folder,
    config: &Config,
    seed: [u8; 64],
    say: Say<'_>,
) -> anyhow::Result<Arc<dyn Wallet>> {
    let chain = config
        .chain_source()
        .context("no chain source: add a [chain] section to freehold.toml")?;
    say("wallet", &format!("opening, chain from {chain}"));
    let network = match config.network {
        Network::Mainnet => wallet::Network::Bitcoin,
        Network::Signet => wallet::Network::Signet,
        Network::Regtest => wallet::Network::Regtest,
    };
    let mut settings = LdkConfig::new(folder.wallet_path(), network, seed, chain);
    settings.listen.clone_from(&config.lightning.listen);
    settings.announce.clone_from(&config.lightning.announce);
    settings.alias.clone_from(&config.lightning.alias);
    settings.trusted.clone_from(&config.lightning.trusted);
    settings.log = config.lightning.log;
    let opened = LdkWallet::start(settings, Arc::new(WalletRuntime::new()?)).await?;
    say("wallet", &format!("Lightning node {}", opened.node_id()));
    Ok(Arc::new(opened))
}

fn node_config(
    config: &Config,
    keys: actors::keys::NodeKeys,
    served: &[LocalModel],
) -> anyhow::Result<NodeConfig> {
    let network = config.network;
    let addresses = |list: &[String]| {
        list.iter()
            .map(|text| text.parse::<Multiaddr>())
            .collect::<Result<Vec<_>, _>>()
    };
    let mut per_key: std::collections::BTreeMap<_, _> = config
        .budget
        .per_key
        .iter()
        .map(|(name, cap)| (name.clone(), cap.0))
        .collect();
    for key in &config.gateway.keys {
        if let Some(cap) = key.per_day {
            per_key.insert(key.name.clone(), cap.0);
        }
    }
    let quantum = config.host.quantum.0;
    Ok(NodeConfig {
        network,
        keys,
        roles: config.roles.clone(),
        listen: addresses(&config.listen)?,
        announce: addresses(&config.announce)?,
        bootstrap: addresses(&config.bootstrap)?,
        relays: config.relay_urls(),
        serve: served.iter().map(|model| model.served(config)).collect(),
        quantum,
        bands: profile::bands(&profile::Facts::quick()),
        payment: payment::Config {
            per_order: config.budget.per_order.0,
            per_day: config.budget.per_day.0,
            per_key,
            window_cap: config.host.window_cap.0,
            free_quota: config.host.free_quota.0,
            ..payment::Config::default()
        },
        orders: inference::context::Config {
            quantum,
            ..inference::context::Config::new(network)
        },
        validator: validator::Config {
            sample_ppm: config.validator.sample_ppm,
            share_sampled: config.validator.share_sampled,
            can_replay: served.iter().any(LocalModel::can_replay),
            serve: config.roles.contains(&Role::Validator),
            ..validator::Config::new(network)
        },
        discovery: discovery::Config::new(network),
        reputation: reputation::Config::default(),
    })
}

async fn serve(
    node: &Node,
    folder: &Folder,
    config: &Config,
    served: &[LocalModel],
    rows: Vec<ModelRow>,
    options: StartOptions,
) -> anyhow::Result<(Server, ControlFile)> {
    let address = if options.ephemeral {
        SocketAddr::from(([127, 0, 0, 1], 0))
    } else {
        config.gateway.listen
    };
    let app = App::new(node.clone(), config, served, rows);
    let token = app.token().to_owned();
    let server = server::start(app, address).await.with_context(|| {
        format!("the gateway cannot listen on {address}: set gateway.listen in freehold.toml")
    })?;
    let url = format!("http://{}", reachable(server.address()));
    let control = ControlFile {
        url,
        token,
        pid: std::process::id(),
    };
    folder.write_control(&control)?;
    Ok((server, control))
}

/// A wildcard address is reached over the loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    if !address.ip().is_unspecified() {
        return address;
    }
    SocketAddr::from(([127, 0, 0, 1], address.port()))
}
