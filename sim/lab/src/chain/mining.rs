//! Building blocks, and taking them off again.

use bitcoin::absolute::LockTime;
use bitcoin::block::{Header, Version as BlockVersion};
use bitcoin::hashes::Hash;
use bitcoin::script::Builder;
use bitcoin::transaction::Version;
use bitcoin::{
    Amount, Block, BlockHash, CompactTarget, OutPoint, ScriptBuf, Sequence, Transaction, TxIn,
    TxMerkleNode, TxOut, Witness,
};

use super::{ChainError, HALVING_INTERVAL, State, unix_seconds};

/// Subsidy of the first block, sat.
const FIRST_SUBSIDY_SATS: u64 = 50 * 100_000_000;

/// Regtest's difficulty in every block: about two tries find a nonce.
const REGTEST_BITS: u32 = 0x207f_ffff;

/// Weight a block may have (4,000,000), less room for header and coinbase.
const MAX_BLOCK_TX_WEIGHT: u64 = 3_990_000;

/// Magic of the witness commitment: OP_RETURN, 36 bytes, `aa21a9ed` (BIP141).
const WITNESS_COMMITMENT: [u8; 6] = [0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed];

/// Witness reserved value (BIP141): any 32 bytes; zeros as everywhere.
const WITNESS_RESERVED: [u8; 32] = [0; 32];

/// New money in the block at `height`, sat; regtest halves every 150 blocks.
pub fn subsidy_sats(height: u32) -> u64 {
    FIRST_SUBSIDY_SATS
        .checked_shr(height / HALVING_INTERVAL)
        .unwrap_or(0)
}

impl State {
    /// Mines one block on the tip with all of the mempool that fits.
    pub(super) fn mine(&mut self, script: ScriptBuf) -> BlockHash {
        let tip = self.ledger.tip();
        let height = tip.height + 1;
        let mut txdata = vec![];
        let mut fees = 0;
        let mut weight = 0;
        for (tx, info) in self.mempool.in_order() {
            // A prefix, never "the next that fits": children follow parents.
            weight += info.weight;
            if weight > MAX_BLOCK_TX_WEIGHT {
                break;
            }
            fees += info.fee_sats;
            txdata.push(tx.clone());
        }
        let taken = txdata.len();
        self.extra_nonce += 1;
        let reward = subsidy_sats(height) + fees;
        txdata.insert(0, coinbase(height, self.extra_nonce, reward, script));
        let median = self.ledger.median_time(tip.height);
        let now = u32::try_from(unix_seconds()).unwrap_or(u32::MAX);
        let block = solve(tip.hash, now.max(median + 1), txdata);
        let hash = self.ledger.connect(block);
        self.mempool.confirm_first(taken);
        hash
    }

    /// Takes `count` blocks off and offers their transactions to the mempool
    /// again, oldest first, then what had been waiting.
    pub(super) fn rollback(&mut self, count: u32) -> Result<(), ChainError> {
        let available = self.ledger.tip().height;
        if count > available {
            return Err(ChainError::RollbackTooDeep {
                asked: count,
                available,
            });
        }
        let mut blocks = Vec::new();
        for _ in 0..count {
            blocks.extend(self.ledger.disconnect());
        }
        let mut again: Vec<Transaction> = Vec::new();
        for block in blocks.iter().rev() {
            again.extend(block.txdata.iter().skip(1).cloned());
        }
        again.extend(self.mempool.take_all());
        for tx in again {
            // Refusals are right here: a spend of a coinbase that is gone, or a
            // lock that is closed again, cannot wait.
            if let Err(reason) = self.mempool.accept(&self.ledger, tx, unix_seconds()) {
                tracing::debug!(%reason, "a rolled-back transaction was dropped");
            }
        }
        Ok(())
    }
}

fn coinbase(height: u32, extra_nonce: u64, reward_sats: u64, script: ScriptBuf) -> Transaction {
    // BIP34: the height first, encoded as a script number; the extra nonce
    // keeps two blocks at one height apart and the script over two bytes.
    let script_sig = Builder::new()
        .push_int(i64::from(height))
        .push_slice(extra_nonce.to_le_bytes())
        .into_script();
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint::null(),
            script_sig,
            sequence: Sequence::MAX,
            witness: Witness::from_slice(&[WITNESS_RESERVED]),
        }],
        output: vec![TxOut {
            value: Amount::from_sat(reward_sats),
            script_pubkey: script,
        }],
    }
}

/// Adds the witness commitment, then the merkle root, then finds a nonce.
fn solve(previous: BlockHash, time: u32, txdata: Vec<Transaction>) -> Block {
    let mut block = Block {
        header: Header {
            version: BlockVersion::NO_SOFT_FORK_SIGNALLING,
            prev_blockhash: previous,
            merkle_root: TxMerkleNode::all_zeros(),
            time,
            bits: CompactTarget::from_consensus(REGTEST_BITS),
            nonce: 0,
        },
        txdata,
    };
    if let Some(root) = block.witness_root() {
        let commitment = Block::compute_witness_commitment(&root, &WITNESS_RESERVED);
        let mut script = WITNESS_COMMITMENT.to_vec();
        script.extend_from_slice(commitment.as_byte_array());
        if let Some(coinbase) = block.txdata.first_mut() {
            coinbase.output.push(TxOut {
                value: Amount::ZERO,
                script_pubkey: ScriptBuf::from_bytes(script),
            });
        }
    }
    if let Some(root) = block.compute_merkle_root() {
        block.header.merkle_root = root;
    }
    let target = block.header.target();
    while block.header.validate_pow(target).is_err() {
        block.header.nonce = block.header.nonce.wrapping_add(1);
    }
    block
}
