//! Chain, RPC and relay together, with the helpers a scenario needs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bitcoin::key::{CompressedPublicKey, PrivateKey, Secp256k1};
use bitcoin::secp256k1::SecretKey;
use bitcoin::{Address, BlockHash, Network, Txid};

use crate::bitcoind::exe_from_env;
use crate::chain::{COINBASE_MATURITY, regtest_address, subsidy_sats};
use crate::{Chain, LabError, Miner, MinerOptions, Relay, RelayOptions, RpcAccess};

/// Most coinbases one funding may take.
const MAX_FUNDING_BLOCKS: u32 = 100;

/// A bitcoind to be used instead of the in-process chain.
#[derive(Clone, Debug)]
pub struct BitcoindOptions {
    /// The binary.
    pub exe: PathBuf,
    /// Its data goes to `dir/bitcoind`, which the caller removes.
    pub dir: PathBuf,
}

/// How to start a lab. The default: in-process chain, open relay.
#[derive(Clone, Debug, Default)]
pub struct LabOptions {
    /// A real bitcoind as the chain.
    pub bitcoind: Option<BitcoindOptions>,
    /// The relay's switches.
    pub relay: RelayOptions,
}

impl LabOptions {
    /// The default, or a real bitcoind with its data under `dir` when the
    /// environment variable `BITCOIND_EXE` names one.
    pub fn from_env(dir: &Path) -> Self {
        Self {
            bitcoind: exe_from_env().map(|exe| BitcoindOptions {
                exe,
                dir: dir.to_path_buf(),
            }),
            relay: RelayOptions::default(),
        }
    }
}

/// What a funding brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Funding {
    /// Sum of the coinbases, at least what was asked for, sat. Fees of
    /// transactions mined along come on top.
    pub sats: u64,
    /// Height of the tip afterwards.
    pub height: u32,
}

/// A running lab. Shut it down with [`Lab::shutdown`]; dropping it stops
/// everything as well, without waiting for it.
pub struct Lab {
    chain: Chain,
    relay: Relay,
    /// Coinbases that are for nobody go here; the key is thrown away.
    nobody: Address,
}

impl Lab {
    /// Starts chain, RPC and relay on free loopback ports.
    ///
    /// # Errors
    /// When a port cannot be bound, or bitcoind does not start or is not
    /// regtest.
    pub async fn start(options: LabOptions) -> Result<Self, LabError> {
        let relay = Relay::start(options.relay)
            .await
            .map_err(|source| LabError::Listen {
                what: "the relay",
                source,
            })?;
        let chain = match &options.bitcoind {
            Some(with) => Chain::bitcoind(&with.exe, &with.dir).await?,
            None => Chain::in_process().await?,
        };
        Ok(Self {
            chain,
            relay,
            nobody: nobody(),
        })
    }

    /// The chain.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// What ldk-node needs to use the chain.
    pub fn rpc(&self) -> &RpcAccess {
        self.chain.rpc()
    }

    /// The relay.
    pub fn relay(&self) -> &Relay {
        &self.relay
    }

    /// `ws://127.0.0.1:<port>` of the relay.
    pub fn relay_url(&self) -> String {
        self.relay.url()
    }

    /// Mines `count` blocks whose coinbases nobody gets.
    ///
    /// # Errors
    /// When the RPC fails.
    pub async fn mine(&self, count: u32) -> Result<Vec<BlockHash>, LabError> {
        self.chain.driver().generate(count, &self.nobody).await
    }

    /// Gives `address` at least `sats` in mature coinbases: mines enough blocks
    /// to it, then 100 more.
    ///
    /// # Errors
    /// See [`Lab::fund_all`].
    pub async fn fund(&self, address: &str, sats: u64) -> Result<Funding, LabError> {
        let mut fundings = self.fund_all(&[(address, sats)]).await?;
        // One request, one answer.
        Ok(fundings.remove(0))
    }

    /// As [`Lab::fund`] for several addresses, with one wait for maturity: the
    /// subsidy halves every 150 blocks, so 100 blocks for each would waste it.
    ///
    /// # Errors
    /// [`LabError::Chain`] for an address that is not regtest's;
    /// [`LabError::SubsidyTooSmall`] on a chain that has halved too often.
    pub async fn fund_all(&self, wanted: &[(&str, u64)]) -> Result<Vec<Funding>, LabError> {
        let driver = self.chain.driver();
        let mut height = driver.height().await?;
        let mut plan = Vec::new();
        for (address, sats) in wanted {
            let (blocks, paid) = coinbases_for(*sats, height)?;
            plan.push((regtest_address(address)?, blocks, paid));
            height += blocks;
        }
        for (address, blocks, _) in &plan {
            driver.generate(*blocks, address).await?;
        }
        driver.generate(COINBASE_MATURITY, &self.nobody).await?;
        let height = driver.height().await?;
        Ok(plan
            .into_iter()
            .map(|(_, _, sats)| Funding { sats, height })
            .collect())
    }

    /// Waits until `txid` is in the mempool.
    ///
    /// # Errors
    /// [`LabError::NotInMempool`] after `bound`.
    pub async fn wait_for_mempool(&self, txid: &Txid, bound: Duration) -> Result<(), LabError> {
        self.chain.driver().wait_for_mempool(txid, bound).await
    }

    /// Mines in the background whenever the mempool is not empty.
    pub fn start_miner(&self, options: MinerOptions) -> Miner {
        Miner::start(self.chain.driver(), self.nobody.clone(), options)
    }

    /// Stops relay and chain and waits until they have (bounded).
    pub async fn shutdown(self) {
        self.relay.shutdown().await;
        self.chain.shutdown().await;
    }
}

/// How many coinbases from `height` on bring `sats`, and how much they bring.
fn coinbases_for(sats: u64, height: u32) -> Result<(u32, u64), LabError> {
    let mut paid = 0u64;
    for blocks in 1..=MAX_FUNDING_BLOCKS {
        paid += subsidy_sats(height.saturating_add(blocks));
        if paid >= sats {
            return Ok((blocks, paid));
        }
    }
    Err(LabError::SubsidyTooSmall {
        sats,
        most: MAX_FUNDING_BLOCKS,
        height,
    })
}

/// A fresh regtest address whose key is forgotten at once.
fn nobody() -> Address {
    let secret = SecretKey::new(&mut bitcoin::secp256k1::rand::thread_rng());
    let key = PrivateKey::new(secret, Network::Regtest);
    let public = key.public_key(&Secp256k1::new());
    Address::p2wpkh(&CompressedPublicKey(public.inner), Network::Regtest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_coinbase_is_enough_for_fifty_bitcoin_and_two_for_a_satoshi_more() {
        assert_eq!(coinbases_for(5_000_000_000, 0).unwrap(), (1, 5_000_000_000));
        assert_eq!(
            coinbases_for(5_000_000_001, 0).unwrap(),
            (2, 10_000_000_000)
        );
    }

    #[test]
    fn a_funding_across_a_halving_counts_the_smaller_subsidy() {
        // Block 149 is the last with 50, block 150 the first with 25.
        assert_eq!(
            coinbases_for(7_500_000_000, 148).unwrap(),
            (2, 7_500_000_000)
        );
    }

    #[test]
    fn a_chain_without_subsidy_says_so_instead_of_mining_for_ever() {
        let refused = coinbases_for(1, 150 * 40);
        assert!(matches!(refused, Err(LabError::SubsidyTooSmall { .. })));
    }

    #[tokio::test]
    async fn funding_pays_a_mature_coinbase_and_refuses_mainnet_addresses() {
        let lab = Lab::start(LabOptions::default()).await.unwrap();
        let address = nobody();
        let funding = lab.fund(&address.to_string(), 1_000_000).await.unwrap();
        assert_eq!(funding.sats, 5_000_000_000);
        assert_eq!(funding.height, 101);
        let mainnet = "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4";
        let refused = lab.fund(mainnet, 1).await;
        assert!(matches!(refused, Err(LabError::Chain(_))), "{refused:?}");
        lab.shutdown().await;
    }

    #[test]
    fn every_network_but_regtest_is_refused() {
        for network in [Network::Bitcoin, Network::Testnet, Network::Signet] {
            assert!(crate::require_regtest(network).is_err());
        }
        assert!(crate::require_regtest(Network::Regtest).is_ok());
    }
}
