//! `freehold.toml`: every setting of a node, with its default.
//!
//! Not secrets (those are in `seed`) and not state. An unknown key is an error
//! that names the file, the key and the nearest valid one. Read by every
//! command; written by `freehold init`, and by `freehold profile --write` (roles
//! only). The text that `init` writes is in [`document`], and a test holds the
//! two together.

use crate::sats::Sats;
use actors::ports::wallet::ldk::{ChainSource, LogLevel};
use protocol::ids::LightningId;
use protocol::wire::envelope::Network;
use protocol::wire::manifest::{PaymentMode, Role};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

mod check;
pub mod document;
mod error;

pub use error::ConfigError;

/// Name of the model that travels in the binary, as a `path` of `[[models]]`.
pub const POCKET: &str = "pocket";
/// Most sat for one order of a gateway without keys, where `gateway.max_cost` does not say.
pub const KEYLESS_PER_ORDER: u64 = 100;
/// Most sat for one UTC day of it, where `budget.per_key` does not say.
pub const KEYLESS_PER_DAY: u64 = 1_000;
/// The budget of a gateway without keys.
pub const KEYLESS: &str = "gateway";
/// Where the gateway listens unless told otherwise.
pub const GATEWAY: &str = "127.0.0.1:9749";

/// All settings.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whose coins: `regtest`, `signet` or `mainnet`.
    pub network: Network,
    /// What this node may be used for.
    pub roles: Vec<Role>,
    /// Nostr relays; `None`: the defaults of the network.
    pub relays: Option<Vec<String>>,
    /// Where a serving node listens, as libp2p multiaddrs.
    pub listen: Vec<String>,
    /// Addresses to list in place of `listen`.
    pub announce: Vec<String>,
    /// Peers to begin with.
    pub bootstrap: Vec<String>,
    /// Where the wallet learns about the chain; `None`: the default of the network.
    pub chain: Option<ChainSource>,
    /// The Lightning node.
    pub lightning: Lightning,
    /// The local HTTP gateway.
    pub gateway: Gateway,
    /// Caps on spending.
    pub budget: Budget,
    /// How this node sells.
    pub host: Host,
    /// What is kept on disk, and how long.
    pub storage: Storage,
    /// Models on this machine.
    pub models: Vec<ModelEntry>,
    /// Checks of answers.
    pub validator: Validator,
}

/// The embedded Lightning node.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lightning {
    /// Addresses to accept Lightning peers on, `host:port`.
    pub listen: Vec<String>,
    /// Addresses to announce in place of `listen`.
    pub announce: Vec<String>,
    /// Name to announce, at most 32 bytes.
    pub alias: Option<String>,
    /// Peers whose channels count before they confirm.
    pub trusted: Vec<LightningId>,
    /// What goes to the wallet's own log.
    pub log: LogLevel,
}

/// The local HTTP gateway.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gateway {
    /// Address and port.
    pub listen: SocketAddr,
    /// Allow an address that other machines reach.
    pub expose: bool,
    /// Run a request here where this node has the model.
    pub local_first: bool,
    /// Largest request body in bytes.
    pub max_body_bytes: usize,
    /// Requests served at once.
    pub max_requests: usize,
    /// Cap per request; `None`: twice the cost at the usual offer, at most `budget.per_order`.
    pub max_cost: Option<Sats>,
    /// Keys that clients must show; none: no key is asked for.
    pub keys: Vec<GatewayKey>,
}

/// A client of the gateway, with a budget of its own.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayKey {
    /// Name in the ledger.
    pub name: String,
    /// The secret that the client sends as `Authorization: Bearer`.
    pub key: String,
    /// Cap per UTC day, routing fees included.
    pub per_day: Option<Sats>,
}

impl std::fmt::Debug for GatewayKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GatewayKey({})", self.name)
    }
}

/// Caps on spending, in sat.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Most for one order, routing fees included.
    pub per_order: Sats,
    /// Most for one UTC day, over everything.
    pub per_day: Sats,
    /// Most for one UTC day per name (`cli`, `gateway`, a gateway key's name).
    pub per_key: BTreeMap<String, Sats>,
    /// Largest step of payment agreed to: so much output is prepaid.
    pub max_quantum: Sats,
}

/// How long finished orders stay on disk, prompts among them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    /// Days.
    pub keep_days: u32,
    /// Mebibytes over all orders; the oldest go first.
    pub keep_mib: u64,
    /// Mebibytes of vocabularies of models that are bought from others; 0 fetches none.
    pub vocabularies_mib: u64,
}

/// How this node sells.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Host {
    /// Sat for a million prompt tokens.
    pub input_price: Sats,
    /// Sat for a million output tokens.
    pub output_price: Sats,
    /// Sat for a million prompt tokens that this buyer sent before and that need not be
    /// computed again; `None`: a quarter of `input_price`.
    pub cached_input_price: Option<Sats>,
    /// Sat for a million embeddings, on top of their tokens.
    pub item_price: Sats,
    /// Least invoice, and one step of payment, in sat.
    pub quantum: Sats,
    /// Largest credit window of one buyer, in sat.
    pub window_cap: Sats,
    /// What an unknown buyer may use before its first payment, in sat.
    pub free_quota: Sats,
    /// Payment modes offered.
    pub payment_modes: Vec<PaymentMode>,
    /// Orders served at once.
    pub concurrent_orders: u32,
    /// Orders waiting behind them.
    pub queued_orders: u32,
    /// Most prompt tokens of an order.
    pub prompt_tokens: u32,
    /// Most output tokens of an order.
    pub output_tokens: u32,
    /// Threads to compute on; 0: all.
    pub threads: usize,
    /// Memory for each model's keys and values, in MiB; 0: a quarter of the machine's.
    pub cache_mib: u64,
    /// Most tokens a second per order; 0: as fast as it goes.
    pub pace: u32,
}

/// A model on this machine.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    /// A GGUF file, or `pocket`: our engine runs it. This or `runner`.
    pub path: Option<PathBuf>,
    /// Base address of an OpenAI-compatible server that runs the model.
    pub runner: Option<String>,
    /// The model, as that server calls it.
    pub runner_model: Option<String>,
    /// The server's key, or where it is.
    pub runner_key: Option<KeySource>,
    /// The GGUF file of the runner's model, to count tokens with.
    pub tokenizer: Option<PathBuf>,
    /// Context in tokens that the server is set to; `None`: as `tokenizer` says.
    pub context: Option<u32>,
    /// Name in the listing; `None`: the file's own.
    pub name: Option<String>,
    /// Sat for a million prompt tokens; `None`: as in `[host]`.
    pub input_price: Option<Sats>,
    /// Sat for a million output tokens; `None`: as in `[host]`.
    pub output_price: Option<Sats>,
    /// Sat for a million cached prompt tokens; `None`: as in `[host]`.
    pub cached_input_price: Option<Sats>,
    /// Sat for a million embeddings; `None`: as in `[host]`.
    pub item_price: Option<Sats>,
}

impl ModelEntry {
    /// Where it is, for people.
    pub fn place(&self) -> String {
        match (&self.path, &self.runner, &self.runner_model) {
            (Some(path), ..) => path.display().to_string(),
            (None, Some(url), Some(model)) => format!("{model} at {url}"),
            _ => "nothing".to_owned(),
        }
    }
}

/// A secret, or where it lies: `env:NAME`, `file:PATH`, otherwise the secret itself.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(from = "String")]
pub enum KeySource {
    /// The secret.
    Plain(String),
    /// An environment variable.
    Variable(String),
    /// A file, relative to the data folder.
    File(PathBuf),
}

impl From<String> for KeySource {
    fn from(text: String) -> Self {
        match text.split_once(':') {
            Some(("env", name)) => KeySource::Variable(name.to_owned()),
            Some(("file", path)) => KeySource::File(path.into()),
            _ => KeySource::Plain(text),
        }
    }
}

impl std::fmt::Debug for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            KeySource::Plain(_) => f.write_str("KeySource"),
            KeySource::Variable(name) => write!(f, "KeySource(env:{name})"),
            KeySource::File(path) => write!(f, "KeySource(file:{})", path.display()),
        }
    }
}

/// Checks of answers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Validator {
    /// Share of our own orders that is replayed, in parts per million.
    pub sample_ppm: u32,
    /// Sampled orders may be sent, prompts included, to another validator.
    pub share_sampled: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            network: Network::Signet,
            roles: vec![Role::Client],
            relays: None,
            listen: vec![
                "/ip4/0.0.0.0/tcp/9748".to_owned(),
                "/ip4/0.0.0.0/udp/9748/quic-v1".to_owned(),
            ],
            announce: Vec::new(),
            bootstrap: Vec::new(),
            chain: None,
            lightning: Lightning::default(),
            gateway: Gateway::default(),
            budget: Budget::default(),
            host: Host::default(),
            storage: Storage::default(),
            models: Vec::new(),
            validator: Validator::default(),
        }
    }
}

impl Default for Gateway {
    fn default() -> Self {
        Gateway {
            listen: SocketAddr::from(([127, 0, 0, 1], 9749)),
            expose: false,
            local_first: true,
            // A prompt of 900 KiB (the protocol's bound) in JSON, escaped.
            max_body_bytes: 2 << 20,
            // More than a home machine's clients open at once.
            max_requests: 64,
            max_cost: None,
            keys: Vec::new(),
        }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Budget {
            per_order: Sats::whole(1_000),
            per_day: Sats::whole(10_000),
            per_key: BTreeMap::new(),
            max_quantum: Sats::whole(10),
        }
    }
}

impl Default for Host {
    fn default() -> Self {
        Host {
            input_price: Sats::whole(50),
            output_price: Sats::whole(200),
            cached_input_price: None,
            item_price: Sats::default(),
            quantum: Sats::whole(1),
            window_cap: Sats::whole(64),
            free_quota: Sats::default(),
            payment_modes: vec![PaymentMode::Metered],
            concurrent_orders: 4,
            queued_orders: 8,
            prompt_tokens: 32_768,
            output_tokens: 8_192,
            threads: 0,
            cache_mib: 0,
            pace: 0,
        }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Storage {
            keep_days: 90,
            keep_mib: 1_024,
            vocabularies_mib: 256,
        }
    }
}

impl Default for Validator {
    fn default() -> Self {
        Validator {
            sample_ppm: 50_000,
            share_sampled: false,
        }
    }
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// Names the file, the key and the fix.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read {
            file: path.to_owned(),
            reason: error.to_string(),
        })?;
        Self::parse(&text, path)
    }

    /// Parses and checks the text of a configuration file; `path` is for messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Config =
            toml::from_str(text).map_err(|error| ConfigError::from_toml(path, text, &error))?;
        check::check(&config).map_err(|(key, reason)| ConfigError::Value {
            file: path.to_owned(),
            key,
            reason,
        })?;
        Ok(config)
    }

    /// Caps for one UTC day by the name of a budget.
    pub fn caps_per_day(&self) -> BTreeMap<String, Sats> {
        let mut caps = self.budget.per_key.clone();
        let keys = self.gateway.keys.iter();
        caps.extend(keys.filter_map(|key| Some((key.name.clone(), key.per_day?))));
        if self.gateway.keys.is_empty() {
            // Any program of this machine may spend it.
            caps.entry(KEYLESS.to_owned())
                .or_insert(Sats::whole(KEYLESS_PER_DAY));
        }
        caps
    }

    /// The relays to use.
    pub fn relay_urls(&self) -> Vec<String> {
        let public = || {
            [
                "wss://relay.damus.io",
                "wss://nos.lol",
                "wss://relay.primal.net",
            ]
            .map(str::to_owned)
            .to_vec()
        };
        match (&self.relays, self.network) {
            (Some(relays), _) => relays.clone(),
            (None, Network::Regtest) => Vec::new(),
            (None, Network::Signet | Network::Mainnet) => public(),
        }
    }

    /// The chain source to use; `None` where the network has no public one.
    pub fn chain_source(&self) -> Option<ChainSource> {
        let esplora = |url: &str| ChainSource::Esplora {
            url: url.to_owned(),
        };
        match (&self.chain, self.network) {
            (Some(chain), _) => Some(chain.clone()),
            (None, Network::Regtest) => None,
            (None, Network::Signet) => Some(esplora("https://mempool.space/signet/api")),
            (None, Network::Mainnet) => Some(esplora("https://blockstream.info/api")),
        }
    }

    /// Whether it has a role that others connect to.
    pub fn serves(&self) -> bool {
        self.roles.iter().any(|role| *role != Role::Client)
    }
}

#[cfg(test)]
mod tests;
