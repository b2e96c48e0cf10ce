//! Helpers of the end-to-end tests: a lab, and nodes inside this process.
//!
//! The nodes are the real ones (`actors::node`), over real sockets, a real relay
//! and real Lightning channels; only the process is shared. Tests that kill
//! nodes use processes instead: see `freehold::lab`.

use actors::keys::NodeKeys;
use actors::node::{Node, NodeConfig};
use actors::ports::compute::Compute;
use actors::ports::runner::Runner;
use actors::ports::storage::Storage;
use actors::ports::wallet::ldk::{ChainSource, LdkConfig, LdkWallet, WalletRuntime};
use actors::ports::wallet::{Network as BitcoinNetwork, OpenChannel, Peer, Wallet};
use anyhow::{Context, Result};
use kernels::{Cheat, Model, OpenOptions};
use lab::{Lab, LabOptions, Miner, MinerOptions};
use protocol::ids::{Digest, ModelDigest, RequestId};
use protocol::message::inference::{BuyRequest, ModelSelector, Served};
use protocol::money::{Msat, Prices};
use protocol::payment;
use protocol::route::Configs;
use protocol::wire::envelope::Network;
use protocol::wire::manifest::{HostLimits, ModelOffer, PaymentMode, Role};
use protocol::wire::order::{self, Handling, Retention};
use protocol::work::{ChatMessage, Job, Sampling, Work};
use slow::SlowWallet;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

mod slow;

/// Bound on every wait of a test. The machine may be busy with a build.
pub const BOUND: Duration = Duration::from_secs(120);
/// Pause between looks at a condition.
pub const POLL: Duration = Duration::from_millis(50);

/// One node of a test.
pub struct TestNode {
    /// The node.
    pub node: Node,
    /// Its wallet.
    pub wallet: Arc<dyn Wallet>,
    /// Where its Lightning node listens.
    pub lightning: String,
}

/// How a test node is made.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Roles.
    pub roles: Vec<Role>,
    /// A damaged model.
    pub cheat: Option<Cheat>,
    /// Show buyers other words than the model chose.
    pub other_words: bool,
    /// Prompt tokens that are billed and not there.
    pub extra_input: u64,
    /// Pause between tokens.
    pub pace: Option<Duration>,
    /// Msat per million output tokens.
    pub output_price: u64,
    /// Caps on spending.
    pub payment: payment::Config,
    /// The model's file; none: no model.
    pub model: Option<Vec<u8>>,
    /// Models that other servers run, sold at the same price.
    pub runners: Vec<Arc<Runner>>,
    /// Most output tokens of an order.
    pub output_tokens: u32,
    /// What every payment takes longer.
    pub payment_delay: Duration,
}

impl Plan {
    /// A node with these roles; hosts and validators load the pocket model.
    pub fn new(roles: &[Role]) -> Self {
        Plan {
            roles: roles.to_vec(),
            cheat: None,
            other_words: false,
            extra_input: 0,
            pace: None,
            output_price: 250_000_000,
            payment: payment::Config::default(),
            model: roles
                .iter()
                .any(|role| matches!(role, Role::Host | Role::Validator))
                .then(|| kernels::pocket::pocket().to_vec()),
            runners: Vec::new(),
            output_tokens: 512,
            payment_delay: Duration::ZERO,
        }
    }
}

/// A lab for a test.
pub struct Stage {
    /// Chain and relay.
    pub lab: Lab,
    runtime: Arc<WalletRuntime>,
    _miner: Miner,
}

impl Stage {
    /// Starts chain, relay and miner.
    pub async fn start() -> Result<Self> {
        let lab = Lab::start(LabOptions::default()).await?;
        let miner = lab.start_miner(MinerOptions::default());
        Ok(Stage {
            lab,
            runtime: Arc::new(WalletRuntime::new()?),
            _miner: miner,
        })
    }

    /// Starts a node in `dir`; the same folder again is the same node.
    pub async fn node(&self, dir: &Path, plan: &Plan) -> Result<TestNode> {
        std::fs::create_dir_all(dir)?;
        let words_path = dir.join("seed");
        let words = match std::fs::read_to_string(&words_path) {
            Ok(words) => words,
            Err(_) => {
                let words = NodeKeys::fresh_words();
                std::fs::write(&words_path, &words)?;
                words
            }
        };
        let keys = NodeKeys::from_words(&words)?;
        let lightning = format!("127.0.0.1:{}", free_port()?);
        let rpc = self.lab.rpc();
        let chain = ChainSource::BitcoindRpc {
            host: rpc.host.clone(),
            port: rpc.port,
            user: rpc.user.clone(),
            password: rpc.password.clone(),
        };
        let mut settings = LdkConfig::new(
            dir.join("wallet"),
            BitcoinNetwork::Regtest,
            keys.lightning,
            chain,
        );
        settings.listen = vec![lightning.clone()];
        let wallet: Arc<dyn Wallet> =
            Arc::new(LdkWallet::start(settings, self.runtime.clone()).await?);
        let wallet = SlowWallet::around(wallet, plan.payment_delay);
        let compute = Compute::new()
            .with_pace(plan.pace)
            .with_other_words(plan.other_words)
            .with_extra_input(plan.extra_input);
        let mut serve = Vec::new();
        if let Some(bytes) = &plan.model {
            let options = OpenOptions {
                threads: 1,
                simd: None,
                cheat: plan.cheat,
                ..OpenOptions::default()
            };
            let model = Model::from_bytes(bytes.clone(), &options)?;
            serve.push(served(&model, plan));
            compute.add(model);
        }
        for runner in &plan.runners {
            serve.push(runner_served(runner, plan));
            compute.runners().add(runner.clone());
        }
        let storage = Storage::open(&dir.join("db"))?;
        let config = config(keys, plan, serve, self.lab.relay_url())?;
        let node = Node::start(config, wallet.clone(), compute, storage).await?;
        Ok(TestNode {
            node,
            wallet,
            lightning,
        })
    }

    /// Funds `buyer` on chain and opens a channel from it to each of `payees`.
    pub async fn connect(&self, buyer: &TestNode, payees: &[&TestNode], sats: u64) -> Result<()> {
        let channels = buyer.wallet.channels().context("no channels")?;
        let address = channels.address().await?;
        let mut addresses = vec![address];
        for payee in payees {
            addresses.push(
                payee
                    .wallet
                    .channels()
                    .context("no channels")?
                    .address()
                    .await?,
            );
        }
        let wanted: Vec<(&str, u64)> = addresses
            .iter()
            .map(|address| (address.as_str(), 10 * sats))
            .collect();
        self.lab.fund_all(&wanted).await?;
        for node in std::iter::once(&buyer).chain(payees) {
            node.wallet
                .channels()
                .context("no channels")?
                .sync()
                .await?;
        }
        for payee in payees {
            let peer = Peer {
                id: payee.wallet.node_id(),
                address: payee.lightning.clone(),
            };
            channels
                .open(OpenChannel {
                    peer,
                    sats,
                    push: Msat::ZERO,
                    announce: false,
                })
                .await?;
        }
        until("channels are usable", || async {
            let mut all = vec![(buyer, payees.len())];
            all.extend(payees.iter().map(|payee| (*payee, 1)));
            for (node, count) in all {
                let Some(channels) = node.wallet.channels() else {
                    return false;
                };
                let _ = channels.sync().await;
                let usable = channels.list().await.unwrap_or_default();
                if usable.iter().filter(|channel| channel.usable).count() < count {
                    return false;
                }
            }
            true
        })
        .await
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn served(model: &Model, plan: &Plan) -> Served {
    let info = model.info();
    let offer = ModelOffer {
        name: info.name.clone(),
        digest: ModelDigest(model.digest()),
        tokenizer: Digest(info.tokenizer_digest),
        template: Digest(info.template_digest),
        architecture: info.architecture.clone(),
        quantisation: info.quantisation.clone(),
        context: info.context,
        numerics: info.numerics.clone(),
        prices: Prices::chat(plan.output_price / 10, plan.output_price),
    };
    with_limits(offer, plan)
}

fn runner_served(runner: &Runner, plan: &Plan) -> Served {
    let info = runner.info().clone();
    let offer = ModelOffer {
        name: info.name,
        digest: info.digest,
        tokenizer: info.tokenizer,
        template: info.template,
        architecture: info.architecture,
        quantisation: info.quantisation,
        context: info.context,
        numerics: None,
        prices: Prices::chat(plan.output_price / 10, plan.output_price),
    };
    with_limits(offer, plan)
}

fn with_limits(offer: ModelOffer, plan: &Plan) -> Served {
    Served {
        offer,
        limits: HostLimits {
            concurrent_orders: 2,
            queued_orders: 4,
            prompt_tokens: 512,
            output_tokens: plan.output_tokens,
        },
    }
}

fn config(keys: NodeKeys, plan: &Plan, serve: Vec<Served>, relay: String) -> Result<NodeConfig> {
    let network = Network::Regtest;
    let mut machines = Configs::new(network);
    machines.payment = plan.payment.clone();
    machines.validator.can_replay = plan.model.is_some();
    machines.validator.serve = plan.roles.contains(&Role::Validator);
    Ok(NodeConfig {
        network,
        keys,
        roles: plan.roles.clone(),
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse()?],
        announce: Vec::new(),
        bootstrap: Vec::new(),
        relays: vec![relay],
        serve,
        quantum: Msat(1_000),
        bands: Vec::new(),
        machines,
        vocabularies: actors::ports::blob::Cache {
            folder: None,
            bytes: 64 << 20,
        },
    })
}

/// A chat of one question.
pub fn question(text: &str, max_output: u32) -> BuyRequest {
    BuyRequest {
        request: RequestId(0),
        model: ModelSelector::Any,
        job: Job {
            work: Work::Chat {
                messages: vec![ChatMessage {
                    role: "user".to_owned(),
                    content: text.to_owned(),
                }],
            },
            max_output,
            sampling: Sampling {
                temperature_milli: 0,
                ..Sampling::default()
            },
            seed: 7,
            stop: Vec::new(),
            date: "2026-11-20".to_owned(),
            steering: Default::default(),
            prefix: Vec::new(),
            extensions: Vec::new(),
        },
        max_cost: Msat(200_000),
        mode: PaymentMode::Metered,
        path: order::Path::Fast,
        retention: Retention::Keep,
        handling: Handling::Plain,
        budget: "test".to_owned(),
        host: None,
        confirm: false,
        audit: true,
        private: false,
    }
}

/// Waits until a condition holds.
pub async fn until<F: Future<Output = bool>>(
    what: &str,
    mut holds: impl FnMut() -> F,
) -> Result<()> {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(BOUND, wait)
        .await
        .with_context(|| format!("waited in vain: {what}"))
}
