//! Blocks, the best chain and its unspent outputs.
//!
//! Connecting a block keeps what it spent (undo data), so taking it off again
//! is exact. Blocks arrive only from `mining`, which builds them from checked
//! transactions; nothing is validated here.

use std::collections::HashMap;
use std::sync::Arc;

use bitcoin::constants::genesis_block;
use bitcoin::{Block, BlockHash, Network, OutPoint, Transaction, TxOut, Txid};

use super::{HeaderInfo, Supply, Tip, Unspent, subsidy_sats};

/// Headers whose middle time bounds the next one from below (BIP113).
const MEDIAN_TIME_SPAN: u32 = 11;

/// Expected hashes per block at regtest's difficulty (`powLimit` 7fffff…).
const WORK_PER_BLOCK: u128 = 2;

/// An unspent output of the best chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Coin {
    pub(super) txout: TxOut,
    pub(super) height: u32,
    pub(super) coinbase: bool,
}

struct StoredBlock {
    block: Arc<Block>,
    height: u32,
    /// What it spent, to be put back by a rollback.
    spent: Vec<(OutPoint, Coin)>,
    burned_sats: u64,
}

pub(super) struct Ledger {
    /// Hashes of the best chain by height.
    best: Vec<BlockHash>,
    /// All blocks ever mined, stale ones too.
    blocks: HashMap<BlockHash, StoredBlock>,
    coins: HashMap<OutPoint, Coin>,
    burned_sats: u64,
}

impl Ledger {
    pub(super) fn new() -> Self {
        let genesis = genesis_block(Network::Regtest);
        let hash = genesis.block_hash();
        // Genesis' coinbase is not in the set of unspent outputs, as in Core.
        let stored = StoredBlock {
            block: Arc::new(genesis),
            height: 0,
            spent: Vec::new(),
            burned_sats: 0,
        };
        Self {
            best: vec![hash],
            blocks: HashMap::from([(hash, stored)]),
            coins: HashMap::new(),
            burned_sats: 0,
        }
    }

    pub(super) fn tip(&self) -> Tip {
        // `best` always holds genesis: `new` puts it there, `disconnect` keeps it.
        let height = self.best.len().saturating_sub(1);
        Tip {
            hash: self.best[height],
            height: height as u32,
        }
    }

    pub(super) fn block_hash(&self, height: u32) -> Option<BlockHash> {
        self.best.get(height as usize).copied()
    }

    pub(super) fn block(&self, hash: &BlockHash) -> Option<Arc<Block>> {
        self.blocks.get(hash).map(|stored| stored.block.clone())
    }

    pub(super) fn header(&self, hash: &BlockHash) -> Option<HeaderInfo> {
        let stored = self.blocks.get(hash)?;
        Some(HeaderInfo {
            header: stored.block.header,
            height: stored.height,
            in_best_chain: self.block_hash(stored.height) == Some(*hash),
            chain_work: WORK_PER_BLOCK * (u128::from(stored.height) + 1),
        })
    }

    pub(super) fn coin(&self, outpoint: &OutPoint) -> Option<&Coin> {
        self.coins.get(outpoint)
    }

    pub(super) fn unspent(&self, outpoint: &OutPoint) -> Option<Unspent> {
        self.coin(outpoint).map(|coin| Unspent {
            txout: coin.txout.clone(),
            height: coin.height,
            coinbase: coin.coinbase,
            in_mempool: false,
        })
    }

    /// Whether any output of this transaction is unspent in the chain, which
    /// is how Core, without an index, knows that it is confirmed.
    pub(super) fn has_unspent_of(&self, txid: Txid, outputs: usize) -> bool {
        (0..outputs as u32).any(|vout| self.coins.contains_key(&OutPoint { txid, vout }))
    }

    /// Median time of the 11 blocks that end at `height` on the best chain.
    pub(super) fn median_time(&self, height: u32) -> u32 {
        let first = height.saturating_sub(MEDIAN_TIME_SPAN - 1);
        let mut times: Vec<u32> = (first..=height)
            .filter_map(|h| self.block_hash(h))
            .filter_map(|hash| self.blocks.get(&hash))
            .map(|stored| stored.block.header.time)
            .collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or(0)
    }

    pub(super) fn connect(&mut self, block: Block) -> BlockHash {
        let hash = block.block_hash();
        let height = self.best.len() as u32;
        let mut spent = Vec::new();
        let mut burned_sats = 0;
        for tx in &block.txdata {
            let coinbase = tx.is_coinbase();
            if !coinbase {
                for input in &tx.input {
                    if let Some(coin) = self.coins.remove(&input.previous_output) {
                        spent.push((input.previous_output, coin));
                    }
                }
            }
            burned_sats += self.add_outputs(tx, height, coinbase);
        }
        self.burned_sats += burned_sats;
        self.best.push(hash);
        let stored = StoredBlock {
            block: Arc::new(block),
            height,
            spent,
            burned_sats,
        };
        self.blocks.insert(hash, stored);
        hash
    }

    /// Adds a transaction's outputs; returns what went to OP_RETURN, sat.
    fn add_outputs(&mut self, tx: &Transaction, height: u32, coinbase: bool) -> u64 {
        let txid = tx.compute_txid();
        let mut burned = 0;
        for (vout, txout) in (0u32..).zip(&tx.output) {
            if txout.script_pubkey.is_op_return() {
                burned += txout.value.to_sat();
                continue;
            }
            let coin = Coin {
                txout: txout.clone(),
                height,
                coinbase,
            };
            self.coins.insert(OutPoint { txid, vout }, coin);
        }
        burned
    }

    /// Takes the tip off. `None` at genesis.
    pub(super) fn disconnect(&mut self) -> Option<Arc<Block>> {
        if self.best.len() < 2 {
            return None;
        }
        let hash = self.best.pop()?;
        let stored = self.blocks.get(&hash)?;
        let block = stored.block.clone();
        // Put back first, take away second: an output made and spent inside the
        // block is in both lists and must end up gone.
        for (outpoint, coin) in &stored.spent {
            self.coins.insert(*outpoint, coin.clone());
        }
        for tx in &block.txdata {
            let txid = tx.compute_txid();
            for vout in 0..tx.output.len() as u32 {
                self.coins.remove(&OutPoint { txid, vout });
            }
        }
        self.burned_sats -= stored.burned_sats;
        Some(block)
    }

    pub(super) fn supply(&self) -> Supply {
        Supply {
            issued_sats: (1..=self.tip().height).map(subsidy_sats).sum(),
            unspent_sats: self.coins.values().map(|c| c.txout.value.to_sat()).sum(),
            burned_sats: self.burned_sats,
        }
    }
}
