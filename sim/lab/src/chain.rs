//! An in-process Bitcoin regtest chain: blocks, unspent outputs, mempool.
//!
//! What it is: the part of a full node that a Lightning wallet leans on. Every
//! input of every transaction goes through Bitcoin Core's own script
//! interpreter (`bitcoinconsensus`, taproot on), every block carries proof of
//! work, its height (BIP34) and a witness commitment, and the mempool refuses
//! what Core refuses: missing or spent inputs, non-final and BIP68-locked
//! transactions, immature coinbases, dust, fees under the floor, replacements
//! that do not pay for themselves.
//!
//! What it is not: a node. There is no peer-to-peer side, no block comes in
//! from outside, and package relay and the ancestor limits of Core's policy are
//! absent. Only regtest exists here; no other network can be named.
//!
//! Called by `rpc` (which serves it as bitcoind JSON-RPC) and by tests.
//!
//! Pitfalls that cost time, kept here so that nobody pays twice:
//! - Mempool entry times strictly increase. ldk-node skips a transaction whose
//!   time is not later than the last one it saw, so two in the same second
//!   would lose one.
//! - Regtest halves the subsidy every 150 blocks, not every 210,000.
//! - Stale blocks stay readable after a reorg: a wallet walks back through
//!   their headers to find the fork.
//! - A shorter chain is not a reorg to anybody: after `rollback(n)` mine `n + 1`
//!   blocks, or wallets go on believing the old tip.

mod error;
mod ledger;
mod mempool;
mod mining;
mod rules;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bitcoin::block::Header;
use bitcoin::{Address, Block, BlockHash, Network, OutPoint, ScriptBuf, Transaction, TxOut, Txid};
use parking_lot::Mutex;
use tokio::sync::watch;

pub use error::{ChainError, TxError};
pub use mining::subsidy_sats;

use ledger::Ledger;
use mempool::Mempool;

/// Blocks between two halvings of the subsidy on regtest (`chainparams.cpp`).
pub const HALVING_INTERVAL: u32 = 150;

/// Blocks that must be on top of a coinbase, itself counted, before it may be
/// spent (consensus).
pub const COINBASE_MATURITY: u32 = 100;

/// Lowest fee rate the mempool takes, sat per virtual byte: Core's default
/// until version 29, and what wallets are written against.
pub const FEE_FLOOR_SAT_PER_VB: u64 = 1;

/// Most blocks one call may mine. A typing mistake must not fill the memory.
pub const MAX_BLOCKS_PER_CALL: u32 = 2_000;

/// Tallest chain kept. All blocks are in memory; a lab never comes near this.
pub const MAX_HEIGHT: u32 = 100_000;

/// The best block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tip {
    /// Its hash.
    pub hash: BlockHash,
    /// Its height; genesis is 0.
    pub height: u32,
}

/// A header with its place in the chain; also given for stale blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderInfo {
    /// The 80-byte header.
    pub header: Header,
    /// Its height.
    pub height: u32,
    /// False once a rollback removed it from the best chain.
    pub in_best_chain: bool,
    /// Sum of expected hashes from genesis to here.
    pub chain_work: u128,
}

/// What the mempool knows about one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MempoolEntry {
    /// Unix seconds of arrival, strictly increasing from entry to entry.
    pub time: u64,
    /// Height of the tip when it arrived.
    pub height: u32,
    /// Fee, sat.
    pub fee_sats: u64,
    /// Virtual size, bytes.
    pub vsize: u64,
    /// Weight units.
    pub weight: u64,
}

/// An unspent output with where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unspent {
    /// The output.
    pub txout: TxOut,
    /// Height of its block; for a mempool output the height of the next block.
    pub height: u32,
    /// Whether a coinbase made it.
    pub coinbase: bool,
    /// Whether its transaction still waits in the mempool.
    pub in_mempool: bool,
}

/// Money in existence on the best chain, sat. `unspent + burned == issued`
/// always holds; the property tests check it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supply {
    /// Sum of all block subsidies (genesis, which nobody can spend, left out).
    pub issued_sats: u64,
    /// Sum of all unspent outputs.
    pub unspent_sats: u64,
    /// Sum of what was sent to outputs that can never be spent (OP_RETURN).
    pub burned_sats: u64,
}

/// Everything behind the lock.
struct State {
    ledger: Ledger,
    mempool: Mempool,
    /// Goes into each coinbase, so that two blocks at one height differ.
    extra_nonce: u64,
}

struct Shared {
    state: Mutex<State>,
    /// Counts changes of tip or mempool; waiting tasks watch it.
    changes: watch::Sender<u64>,
}

/// Handle to one in-process chain. Clones share it; all methods are
/// synchronous and short (a block takes under a millisecond).
#[derive(Clone)]
pub struct RegtestChain {
    shared: Arc<Shared>,
}

impl Default for RegtestChain {
    fn default() -> Self {
        Self::new()
    }
}

impl RegtestChain {
    /// A chain holding regtest's genesis block and nothing else.
    pub fn new() -> Self {
        let state = State {
            ledger: Ledger::new(),
            mempool: Mempool::default(),
            extra_nonce: 0,
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                changes: watch::Sender::new(0),
            }),
        }
    }

    /// The best block.
    pub fn tip(&self) -> Tip {
        self.shared.state.lock().ledger.tip()
    }

    /// Ticks on every change of tip or mempool.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Takes a transaction into the mempool, replacing what it conflicts with
    /// when it pays for that (BIP125 without the signalling rule).
    ///
    /// A transaction that is already waiting is accepted again, as by Core.
    ///
    /// # Errors
    /// [`TxError`] names the rule it broke; `TxError::rpc_code` is Core's code.
    pub fn submit(&self, tx: Transaction) -> Result<Txid, TxError> {
        let txid = {
            let state = &mut *self.shared.state.lock();
            state.mempool.accept(&state.ledger, tx, unix_seconds())?
        };
        self.changed();
        Ok(txid)
    }

    /// Mines `count` blocks whose coinbases pay `address`, each holding as much
    /// of the mempool as fits, in order of arrival.
    ///
    /// # Errors
    /// When `count` passes [`MAX_BLOCKS_PER_CALL`] or the chain [`MAX_HEIGHT`].
    pub fn generate(&self, count: u32, address: &Address) -> Result<Vec<BlockHash>, ChainError> {
        self.generate_to_script(count, address.script_pubkey())
    }

    /// As [`RegtestChain::generate`], to a bare script.
    ///
    /// # Errors
    /// As there.
    pub fn generate_to_script(
        &self,
        count: u32,
        script: ScriptBuf,
    ) -> Result<Vec<BlockHash>, ChainError> {
        if count > MAX_BLOCKS_PER_CALL {
            return Err(ChainError::TooManyBlocks {
                asked: count,
                most: MAX_BLOCKS_PER_CALL,
            });
        }
        let mut hashes = Vec::new();
        {
            let state = &mut *self.shared.state.lock();
            if state.ledger.tip().height.saturating_add(count) > MAX_HEIGHT {
                return Err(ChainError::TooTall { most: MAX_HEIGHT });
            }
            for _ in 0..count {
                hashes.push(state.mine(script.clone()));
            }
        }
        self.changed();
        Ok(hashes)
    }

    /// Takes the last `count` blocks off the best chain. Their transactions go
    /// back into the mempool where the rules still allow it. The blocks stay
    /// readable by hash. Mine `count + 1` blocks for wallets to see a reorg.
    ///
    /// # Errors
    /// When fewer than `count` blocks are above genesis.
    pub fn rollback(&self, count: u32) -> Result<Tip, ChainError> {
        let tip = {
            let state = &mut *self.shared.state.lock();
            state.rollback(count)?;
            state.ledger.tip()
        };
        self.changed();
        Ok(tip)
    }

    /// A block by hash, stale ones too.
    pub fn block(&self, hash: &BlockHash) -> Option<Arc<Block>> {
        self.shared.state.lock().ledger.block(hash)
    }

    /// A header by hash, stale ones too.
    pub fn header(&self, hash: &BlockHash) -> Option<HeaderInfo> {
        self.shared.state.lock().ledger.header(hash)
    }

    /// The best chain's block at `height`.
    pub fn block_hash(&self, height: u32) -> Option<BlockHash> {
        self.shared.state.lock().ledger.block_hash(height)
    }

    /// An unspent output. With `with_mempool`, outputs of waiting transactions
    /// count and outputs that a waiting transaction spends do not.
    pub fn unspent(&self, outpoint: &OutPoint, with_mempool: bool) -> Option<Unspent> {
        let state = self.shared.state.lock();
        if with_mempool {
            state.mempool.unspent(&state.ledger, outpoint)
        } else {
            state.ledger.unspent(outpoint)
        }
    }

    /// Ids of all waiting transactions, parents before children.
    pub fn mempool(&self) -> Vec<Txid> {
        self.shared.state.lock().mempool.txids()
    }

    /// What is known of one waiting transaction.
    pub fn mempool_entry(&self, txid: &Txid) -> Option<MempoolEntry> {
        self.shared.state.lock().mempool.entry(txid)
    }

    /// A waiting transaction. Confirmed ones are not indexed, as on a bitcoind
    /// without `-txindex`.
    pub fn mempool_transaction(&self, txid: &Txid) -> Option<Transaction> {
        self.shared.state.lock().mempool.transaction(txid)
    }

    /// Money issued, unspent and burned on the best chain.
    pub fn supply(&self) -> Supply {
        self.shared.state.lock().ledger.supply()
    }

    fn changed(&self) {
        self.shared
            .changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// Parses an address and refuses every network but regtest.
///
/// # Errors
/// [`ChainError::BadAddress`] with what was wrong with it.
pub fn regtest_address(text: &str) -> Result<Address, ChainError> {
    let bad = |reason: String| ChainError::BadAddress {
        address: text.chars().take(100).collect(),
        reason,
    };
    text.parse::<Address<bitcoin::address::NetworkUnchecked>>()
        .map_err(|e| bad(e.to_string()))?
        .require_network(Network::Regtest)
        .map_err(|_| bad("it belongs to another network than regtest".to_owned()))
}

/// Seconds since 1970; 0 on a clock set before that.
fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
