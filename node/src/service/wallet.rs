//! Starts the wallet of a node: the embedded one, or none where there is no chain to look at
//! or no need of it.
//!
//! A chain source that is away holds nothing up: the wallet is there, says so, and starts
//! when the chain is back.

use super::Say;
use crate::config::Config;
use crate::folder::Folder;
use actors::ports::wallet::absent::AbsentWallet;
use actors::ports::wallet::ldk::{LdkConfig, LdkWallet, WalletRuntime};
use actors::ports::wallet::{self, Wallet};
use protocol::wire::envelope::Network;
use std::sync::Arc;
use std::time::Duration;

/// How long a start waits for the wallet before it goes on without it. A chain source that
/// answers does so in a second or two.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why a node has no wallet where its settings name no chain.
pub const NO_CHAIN: &str = "freehold.toml has no [chain], and regtest has none of its own; `freehold lab up` prints the section to put there, and the node must be started again then";

/// No wallet, for commands that need none.
///
/// # Errors
/// Where the seed gives no keys.
pub fn none(config: &Config, seed: &[u8; 64], why: &str) -> anyhow::Result<Arc<dyn Wallet>> {
    Ok(Arc::new(AbsentWallet::new(seed, coins(config), why)?))
}

/// Opens the wallet, and waits a little until it runs.
///
/// # Errors
/// Where its folder or its settings cannot be used.
pub async fn open(
    folder: &Folder,
    config: &Config,
    seed: [u8; 64],
    say: Say<'_>,
) -> anyhow::Result<Arc<dyn Wallet>> {
    let Some(chain) = config.chain_source() else {
        return none(config, &seed, NO_CHAIN);
    };
    say("wallet", &format!("opening, chain from {chain}"));
    folder.make_private(&folder.wallet_path())?;
    let mut settings = LdkConfig::new(folder.wallet_path(), coins(config), seed, chain);
    settings.listen.clone_from(&config.lightning.listen);
    settings.announce.clone_from(&config.lightning.announce);
    settings.alias.clone_from(&config.lightning.alias);
    settings.trusted.clone_from(&config.lightning.trusted);
    settings.log = config.lightning.log;
    let opened = LdkWallet::open(settings, Arc::new(WalletRuntime::new()?)).await?;
    if let Ok(Ok(())) = tokio::time::timeout(PATIENCE, opened.opened()).await {
        say("wallet", &format!("Lightning node {}", opened.node_id()));
    }
    Ok(Arc::new(opened))
}

fn coins(config: &Config) -> wallet::Network {
    match config.network {
        Network::Mainnet => wallet::Network::Bitcoin,
        Network::Signet => wallet::Network::Signet,
        Network::Regtest => wallet::Network::Regtest,
    }
}
