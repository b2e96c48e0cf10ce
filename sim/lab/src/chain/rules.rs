//! The checks a transaction must pass, each a function of its own.
//!
//! Sources: Core's `consensus/tx_check.cpp`, `consensus/tx_verify.cpp`,
//! `policy/policy.cpp`; BIP68, BIP113.

use std::collections::BTreeSet;

use bitcoin::consensus::encode::serialize;
use bitcoin::{Transaction, Weight};

use super::ledger::{Coin, Ledger};
use super::{COINBASE_MATURITY, FEE_FLOOR_SAT_PER_VB, TxError};

/// Most money there can be, sat (`MAX_MONEY`).
const MAX_MONEY_SATS: u64 = 21_000_000 * 100_000_000;

/// Core's MAX_STANDARD_TX_WEIGHT.
const MAX_TX_WEIGHT: u64 = 400_000;

/// Lock times below are heights, from here on Unix seconds.
const LOCK_TIME_THRESHOLD: u32 = 500_000_000;

/// BIP68: this bit set means no relative lock.
const SEQUENCE_DISABLE: u32 = 1 << 31;
/// BIP68: this bit set means units of 512 seconds, else blocks.
const SEQUENCE_SECONDS: u32 = 1 << 22;
/// BIP68: the bits that hold the value.
const SEQUENCE_MASK: u32 = 0xffff;
/// BIP68: seconds are counted in units of 2^9.
const SEQUENCE_GRANULARITY: u32 = 9;

/// What holds without looking at the chain.
pub(super) fn sane(tx: &Transaction) -> Result<(), TxError> {
    let malformed = |reason| Err(TxError::Malformed { reason });
    if tx.input.is_empty() {
        return malformed("vin-empty");
    }
    if tx.output.is_empty() {
        return malformed("vout-empty");
    }
    if !(1..=3).contains(&tx.version.0) {
        return malformed("version is not 1, 2 or 3");
    }
    if tx.input.iter().any(|i| i.previous_output.is_null()) {
        return malformed("coinbase or null input");
    }
    let mut seen = BTreeSet::new();
    if !tx.input.iter().all(|i| seen.insert(i.previous_output)) {
        return malformed("inputs-duplicate");
    }
    let total = tx.output.iter().try_fold(0u64, |sum, output| {
        sum.checked_add(output.value.to_sat())
            .filter(|sum| *sum <= MAX_MONEY_SATS)
    });
    if total.is_none() {
        return malformed("txouttotal-toolarge");
    }
    let weight = tx.weight();
    if weight > Weight::from_wu(MAX_TX_WEIGHT) {
        return Err(TxError::TooHeavy {
            weight: weight.to_wu(),
            most: MAX_TX_WEIGHT,
        });
    }
    Ok(())
}

/// Absolute lock time against the next block (BIP113: times against the median).
pub(super) fn final_in_next_block(tx: &Transaction, ledger: &Ledger) -> Result<(), TxError> {
    let tip = ledger.tip().height;
    let lock_time = tx.lock_time.to_consensus_u32();
    let bound = if lock_time < LOCK_TIME_THRESHOLD {
        tip + 1
    } else {
        ledger.median_time(tip)
    };
    let all_final = tx.input.iter().all(|i| i.sequence.0 == u32::MAX);
    if lock_time == 0 || lock_time < bound || all_final {
        return Ok(());
    }
    Err(TxError::NonFinal {
        lock_time,
        next_height: tip + 1,
    })
}

/// Relative lock times (BIP68) and coinbase maturity against the next block.
/// `coins` are the outputs spent, in input order.
pub(super) fn old_enough(tx: &Transaction, coins: &[Coin], ledger: &Ledger) -> Result<(), TxError> {
    let next = ledger.tip().height + 1;
    for (input, (txin, coin)) in tx.input.iter().zip(coins).enumerate() {
        let depth = next.saturating_sub(coin.height);
        if coin.coinbase && depth < COINBASE_MATURITY {
            return Err(TxError::ImmatureCoinbase { input, depth });
        }
        if tx.version.0 >= 2 && !sequence_passed(txin.sequence.0, coin, ledger) {
            return Err(TxError::NonBip68Final { input });
        }
    }
    Ok(())
}

fn sequence_passed(sequence: u32, coin: &Coin, ledger: &Ledger) -> bool {
    if sequence & SEQUENCE_DISABLE != 0 {
        return true;
    }
    let tip = ledger.tip().height;
    let value = sequence & SEQUENCE_MASK;
    if sequence & SEQUENCE_SECONDS == 0 {
        return coin.height.saturating_add(value) <= tip + 1;
    }
    let from = ledger.median_time(coin.height.saturating_sub(1));
    from.saturating_add(value << SEQUENCE_GRANULARITY) <= ledger.median_time(tip)
}

/// Inputs cover outputs and the fee reaches the floor. Returns the fee, sat.
pub(super) fn fee(tx: &Transaction, coins: &[Coin]) -> Result<u64, TxError> {
    let input_sats: u64 = coins.iter().map(|c| c.txout.value.to_sat()).sum();
    let output_sats: u64 = tx.output.iter().map(|o| o.value.to_sat()).sum();
    let fee_sats = input_sats
        .checked_sub(output_sats)
        .ok_or(TxError::Overspent {
            input_sats,
            output_sats,
        })?;
    let floor_sats = tx.vsize() as u64 * FEE_FLOOR_SAT_PER_VB;
    if fee_sats < floor_sats {
        return Err(TxError::FeeTooLow {
            fee_sats,
            floor_sats,
        });
    }
    Ok(fee_sats)
}

/// No output is worth less than spending it would cost.
pub(super) fn no_dust(tx: &Transaction) -> Result<(), TxError> {
    for (output, txout) in tx.output.iter().enumerate() {
        let floor = txout.script_pubkey.minimal_non_dust();
        if txout.value < floor {
            return Err(TxError::Dust {
                output,
                sats: txout.value.to_sat(),
                floor_sats: floor.to_sat(),
            });
        }
    }
    Ok(())
}

/// Every input through Bitcoin Core's interpreter. Giving it all spent outputs
/// is what turns taproot on.
pub(super) fn scripts(tx: &Transaction, coins: &[Coin]) -> Result<(), TxError> {
    let raw = serialize(tx);
    // The interpreter borrows the scripts by pointer; `coins` outlives the loop.
    let spent: Vec<bitcoinconsensus::Utxo> = coins
        .iter()
        .map(|coin| bitcoinconsensus::Utxo {
            script_pubkey: coin.txout.script_pubkey.as_bytes().as_ptr(),
            script_pubkey_len: coin.txout.script_pubkey.len() as u32,
            value: coin.txout.value.to_sat() as i64,
        })
        .collect();
    for (input, coin) in coins.iter().enumerate() {
        bitcoinconsensus::verify(
            coin.txout.script_pubkey.as_bytes(),
            coin.txout.value.to_sat(),
            &raw,
            Some(&spent),
            input,
        )
        .map_err(|e| TxError::Script {
            input,
            detail: format!("{e:?}"),
        })?;
    }
    Ok(())
}
