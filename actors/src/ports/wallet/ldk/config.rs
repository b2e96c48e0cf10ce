//! What the embedded wallet is given.
//!
//! Plain data; the node's configuration file and the lab fill it in.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bitcoin::Network;
use protocol::ids::LightningId;
use serde::{Deserialize, Serialize};

use super::invoices::KEEP;

/// Where the wallet learns about the chain.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ChainSource {
    /// A Bitcoin Core node, or the lab's chain, over JSON-RPC.
    BitcoindRpc {
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
        /// User name.
        user: String,
        /// Password. A wrong one shows as a wallet that never syncs.
        password: String,
    },
    /// An Esplora server.
    Esplora {
        /// Base address, for example `https://blockstream.info/api`.
        url: String,
    },
    /// An Electrum server.
    Electrum {
        /// Address, for example `ssl://electrum.example.org:50002`.
        url: String,
    },
}

impl fmt::Display for ChainSource {
    /// Shows the source without its password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChainSource::BitcoindRpc { host, port, .. } => write!(f, "bitcoind at {host}:{port}"),
            ChainSource::Esplora { url } => write!(f, "Esplora at {url}"),
            ChainSource::Electrum { url } => write!(f, "Electrum at {url}"),
        }
    }
}

impl fmt::Debug for ChainSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// How much LDK writes to `ldk_node.log` in the wallet's folder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Only what went wrong. The default: LDK's own is far more talkative, and
    /// every payment writes several lines from `Info` on.
    #[default]
    Error,
    /// Each payment and channel as well.
    Info,
    /// Everything a bug report needs.
    Debug,
}

impl From<LogLevel> for ldk_node::logger::LogLevel {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::Error,
            LogLevel::Info => Self::Info,
            LogLevel::Debug => Self::Debug,
        }
    }
}

/// Settings of an embedded wallet.
#[derive(Clone)]
pub struct LdkConfig {
    /// Its folder. One wallet each; a second process is refused.
    pub dir: PathBuf,
    /// Whose coins.
    pub network: Network,
    /// The seed of all its keys. Coins on chain can be restored from it;
    /// channels need their current state as well.
    pub seed: [u8; 64],
    /// Where it learns about the chain.
    pub chain: ChainSource,
    /// Addresses to accept peers on, `host:port`; none: only dial out.
    pub listen: Vec<String>,
    /// Addresses to announce in place of `listen`.
    pub announce: Vec<String>,
    /// Name to announce (at most 32 bytes). Announced channels need it, and an
    /// address to listen on.
    pub alias: Option<String>,
    /// Peers whose channels are used before they confirm, and with whom no
    /// reserve is kept on chain. Such a peer could take what it pushed back.
    pub trusted: Vec<LightningId>,
    /// How much goes to the log file.
    pub log: LogLevel,
    /// How long a call to pay waits before it answers `Unknown`.
    pub pay_timeout: Duration,
    /// How long opening a channel waits for the peer's consent.
    pub open_timeout: Duration,
    /// How long after it was made the record of an invoice is kept at least. Less than the
    /// default is for tests: LDK takes payments for so long.
    pub keep_invoices: Duration,
}

impl LdkConfig {
    /// Settings with the defaults for everything that need not be chosen.
    pub fn new(dir: PathBuf, network: Network, seed: [u8; 64], chain: ChainSource) -> Self {
        Self {
            dir,
            network,
            seed,
            chain,
            listen: Vec::new(),
            announce: Vec::new(),
            alias: None,
            trusted: Vec::new(),
            log: LogLevel::default(),
            // LDK itself tries for 10 s; a payment over slow hops that is still
            // out after a minute may take hours.
            pay_timeout: Duration::from_secs(60),
            // A peer on Tor with a slow disk answers within a minute.
            open_timeout: Duration::from_secs(60),
            keep_invoices: KEEP,
        }
    }
}

impl fmt::Debug for LdkConfig {
    /// Leaves the seed out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LdkConfig")
            .field("dir", &self.dir)
            .field("network", &self.network)
            .field("chain", &self.chain)
            .field("listen", &self.listen)
            .field("trusted", &self.trusted)
            .finish_non_exhaustive()
    }
}
