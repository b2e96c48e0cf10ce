//! What the chain refuses, and under which of bitcoind's codes.

use bitcoin::{OutPoint, Txid};

/// RPC_DESERIALIZATION_ERROR of bitcoind's `rpc/protocol.h`.
const CODE_DESERIALIZATION: i64 = -22;
/// RPC_VERIFY_ERROR: missing or spent inputs, among others.
const CODE_VERIFY: i64 = -25;
/// RPC_VERIFY_REJECTED: refused by consensus or policy.
const CODE_REJECTED: i64 = -26;
/// RPC_VERIFY_ALREADY_IN_UTXO_SET: already confirmed.
const CODE_ALREADY_IN_CHAIN: i64 = -27;

/// Why the mempool refused a transaction. The text starts with Core's own
/// reject reason, because wallets and people search for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TxError {
    /// The bytes are no transaction.
    #[error("TX decode failed: {reason}")]
    Undecodable {
        /// The decoder's words.
        reason: String,
    },
    /// Broken by itself, whatever the chain says.
    #[error("bad-txns: {reason}")]
    Malformed {
        /// The rule.
        reason: &'static str,
    },
    /// Heavier than policy allows.
    #[error("tx-size: {weight} weight units, at most {most}")]
    TooHeavy {
        /// Its weight.
        weight: u64,
        /// The bound.
        most: u64,
    },
    /// An input does not exist or is spent in the chain.
    #[error("bad-txns-inputs-missingorspent: {outpoint}")]
    MissingOrSpent {
        /// The first such input.
        outpoint: OutPoint,
    },
    /// All is done already.
    #[error("Transaction outputs already in utxo set: {txid}")]
    AlreadyConfirmed {
        /// Which.
        txid: Txid,
    },
    /// The absolute lock time has not come.
    #[error("non-final: lock time {lock_time}, next height {next_height}")]
    NonFinal {
        /// `nLockTime`.
        lock_time: u32,
        /// Height of the next block.
        next_height: u32,
    },
    /// A relative lock time (BIP68) has not passed.
    #[error("non-BIP68-final: input {input}")]
    NonBip68Final {
        /// Index of the input.
        input: usize,
    },
    /// A coinbase with fewer than 100 blocks on it.
    #[error("bad-txns-premature-spend-of-coinbase: input {input}, depth {depth}")]
    ImmatureCoinbase {
        /// Index of the input.
        input: usize,
        /// Depth it would have in the next block.
        depth: u32,
    },
    /// Spends more than it brings.
    #[error("bad-txns-in-belowout: in {input_sats} sat, out {output_sats} sat")]
    Overspent {
        /// Sum of inputs.
        input_sats: u64,
        /// Sum of outputs.
        output_sats: u64,
    },
    /// Pays less than the floor.
    #[error("min relay fee not met, {fee_sats} < {floor_sats} sat")]
    FeeTooLow {
        /// What it pays.
        fee_sats: u64,
        /// What it would have to pay.
        floor_sats: u64,
    },
    /// An output too small to be worth spending.
    #[error("dust: output {output} holds {sats} sat, at least {floor_sats}")]
    Dust {
        /// Index of the output.
        output: usize,
        /// Its value.
        sats: u64,
        /// The bound for its script.
        floor_sats: u64,
    },
    /// Conflicts with waiting transactions without paying for their removal.
    #[error("insufficient fee, rejecting replacement: {reason}")]
    Replacement {
        /// The replacement rule.
        reason: &'static str,
    },
    /// Bitcoin Core's interpreter said no.
    #[error("mandatory-script-verify-flag-failed: input {input} ({detail})")]
    Script {
        /// Index of the input.
        input: usize,
        /// The interpreter's words.
        detail: String,
    },
    /// No room.
    #[error("mempool full: {most} transactions wait, mine a block")]
    MempoolFull {
        /// The bound.
        most: usize,
    },
}

impl TxError {
    /// The code bitcoind's `sendrawtransaction` answers with.
    pub fn rpc_code(&self) -> i64 {
        match self {
            Self::Undecodable { .. } => CODE_DESERIALIZATION,
            Self::MissingOrSpent { .. } => CODE_VERIFY,
            Self::AlreadyConfirmed { .. } => CODE_ALREADY_IN_CHAIN,
            _ => CODE_REJECTED,
        }
    }
}

/// Why an order to the chain itself was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Not an address of regtest.
    #[error("'{address}' is not a regtest address: {reason}. Regtest addresses start with bcrt1")]
    BadAddress {
        /// What was given, cut at 100 characters.
        address: String,
        /// What is wrong.
        reason: String,
    },
    /// Too much at once.
    #[error("asked for {asked} blocks at once, at most {most}: ask several times")]
    TooManyBlocks {
        /// Asked for.
        asked: u32,
        /// The bound.
        most: u32,
    },
    /// The chain is kept in memory and has an end.
    #[error("the in-process chain ends at height {most}: start a fresh lab")]
    TooTall {
        /// The bound.
        most: u32,
    },
    /// Cannot go below genesis.
    #[error("cannot roll back {asked} blocks, only {available} are above genesis")]
    RollbackTooDeep {
        /// Asked for.
        asked: u32,
        /// Blocks above genesis.
        available: u32,
    },
}
