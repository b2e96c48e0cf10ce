//! What can go wrong with a lab, and the check that keeps it on regtest.

use std::path::PathBuf;

use bitcoin::{Network, Txid};

use crate::chain::ChainError;
use crate::rpc::RpcClientError;

/// Why the lab could not do it.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Real money is out of bounds.
    #[error("the lab works on regtest only, this is '{found}': its keys and coins are toys")]
    NotRegtest {
        /// The network asked for or found.
        found: String,
    },
    /// No free port, or no right to open one.
    #[error("{what} cannot listen on 127.0.0.1")]
    Listen {
        /// Which server.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The chain's RPC refused or failed.
    #[error("the chain refused an order")]
    Rpc(#[from] RpcClientError),
    /// The chain's RPC answered something else than expected.
    #[error("the answer of {method} is not what bitcoind gives")]
    Unreadable {
        /// The method.
        method: &'static str,
        /// The decoder's words.
        #[source]
        source: serde_json::Error,
    },
    /// An address or order that the chain cannot take.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A transaction did not show up.
    #[error("transaction {txid} did not reach the mempool within {seconds} s: was it broadcast?")]
    NotInMempool {
        /// Which.
        txid: Txid,
        /// The bound.
        seconds: f32,
    },
    /// The subsidy has halved too often to pay so much.
    #[error(
        "{sats} sat would take more than {most} coinbases at height {height}: fund early, \
         regtest halves every 150 blocks, or start a fresh lab"
    )]
    SubsidyTooSmall {
        /// Asked for.
        sats: u64,
        /// The bound on coinbases per funding.
        most: u32,
        /// Height of the tip.
        height: u32,
    },
    /// The bitcoind given would not run.
    #[error("bitcoind at {}: {reason}", exe.display())]
    Bitcoind {
        /// Its path.
        exe: PathBuf,
        /// What happened.
        reason: String,
    },
}

/// Lets regtest pass and nothing else; for callers that hold a network.
///
/// # Errors
/// [`LabError::NotRegtest`] for every other network.
pub fn require_regtest(network: Network) -> Result<(), LabError> {
    if network == Network::Regtest {
        return Ok(());
    }
    Err(LabError::NotRegtest {
        found: network.to_string(),
    })
}
