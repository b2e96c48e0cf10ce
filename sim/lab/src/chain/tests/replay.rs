//! An independent check of a whole chain, from genesis, block by block, with
//! its own set of unspent outputs. Shares no code with what it checks.

use std::collections::HashMap;

use bitcoin::consensus::encode::serialize;
use bitcoin::constants::genesis_block;
use bitcoin::{Block, Network, OutPoint, Transaction, TxOut};

use crate::chain::RegtestChain;

/// Panics with a reason when any block of the best chain is not valid.
pub(super) fn check(chain: &RegtestChain) {
    let genesis = genesis_block(Network::Regtest);
    let mut previous = genesis.block_hash();
    let mut times = vec![genesis.header.time];
    let mut coins: HashMap<OutPoint, (TxOut, usize, bool)> = HashMap::new();
    for height in 1..=chain.tip().height as usize {
        let hash = chain.block_hash(height as u32).unwrap();
        let block = chain.block(&hash).unwrap();
        assert_eq!(block.header.prev_blockhash, previous, "height {height}");
        header(&block, &times);
        coinbase_form(&block, height);
        let fees: u64 = block.txdata[1..]
            .iter()
            .map(|tx| spend(tx, &mut coins, height))
            .sum();
        let reward: u64 = block.txdata[0]
            .output
            .iter()
            .map(|o| o.value.to_sat())
            .sum();
        let subsidy = 5_000_000_000u64 >> (height / 150);
        assert_eq!(reward, subsidy + fees, "reward at height {height}");
        add(&block.txdata[0], &mut coins, height, true);
        previous = hash;
        times.push(block.header.time);
    }
    assert_eq!(previous, chain.tip().hash);
    let unspent: u64 = coins.values().map(|(txout, ..)| txout.value.to_sat()).sum();
    assert_eq!(unspent, chain.supply().unspent_sats);
}

fn header(block: &Block, times: &[u32]) {
    let hash = block.header.validate_pow(block.header.target());
    assert_eq!(hash.unwrap(), block.block_hash());
    assert_eq!(block.header.bits.to_consensus(), 0x207f_ffff);
    let mut last: Vec<u32> = times.iter().rev().take(11).copied().collect();
    last.sort_unstable();
    assert!(block.header.time > last[last.len() / 2], "time too old");
    assert!(block.check_merkle_root());
    assert!(block.check_witness_commitment());
    assert!(block.weight().to_wu() <= 4_000_000);
}

fn coinbase_form(block: &Block, height: usize) {
    let coinbase = &block.txdata[0];
    assert!(coinbase.is_coinbase());
    assert!(block.txdata[1..].iter().all(|tx| !tx.is_coinbase()));
    // BIP34 as Core builds it: OP_1 to OP_16, then a minimal number.
    let mut expected = match height {
        1..=16 => vec![0x50 + height as u8],
        17..=127 => vec![1, height as u8],
        128..=32_767 => vec![2, (height & 0xff) as u8, (height >> 8) as u8],
        _ => panic!("the check knows no height {height}"),
    };
    if (128..=255).contains(&height) {
        expected = vec![2, height as u8, 0];
    }
    let script = coinbase.input[0].script_sig.as_bytes();
    assert!(script.starts_with(&expected), "BIP34 at height {height}");
    assert!((2..=100).contains(&script.len()));
}

/// Spends and adds; returns the fee.
fn spend(
    tx: &Transaction,
    coins: &mut HashMap<OutPoint, (TxOut, usize, bool)>,
    height: usize,
) -> u64 {
    let mut spent = Vec::new();
    for input in &tx.input {
        let coin = coins.remove(&input.previous_output);
        let (txout, born, coinbase) = coin.expect("an input that is missing or spent");
        assert!(!coinbase || height - born >= 100, "immature coinbase");
        spent.push(txout);
    }
    let raw = serialize(tx);
    let utxos: Vec<bitcoinconsensus::Utxo> = spent
        .iter()
        .map(|txout| bitcoinconsensus::Utxo {
            script_pubkey: txout.script_pubkey.as_bytes().as_ptr(),
            script_pubkey_len: txout.script_pubkey.len() as u32,
            value: txout.value.to_sat() as i64,
        })
        .collect();
    for (index, txout) in spent.iter().enumerate() {
        let script = txout.script_pubkey.as_bytes();
        let value = txout.value.to_sat();
        bitcoinconsensus::verify(script, value, &raw, Some(&utxos), index).unwrap();
    }
    let brought: u64 = spent.iter().map(|txout| txout.value.to_sat()).sum();
    let paid: u64 = tx.output.iter().map(|o| o.value.to_sat()).sum();
    add(tx, coins, height, false);
    brought.checked_sub(paid).expect("more out than in")
}

fn add(
    tx: &Transaction,
    coins: &mut HashMap<OutPoint, (TxOut, usize, bool)>,
    height: usize,
    coinbase: bool,
) {
    let txid = tx.compute_txid();
    for (vout, txout) in tx.output.iter().enumerate() {
        if !txout.script_pubkey.is_op_return() {
            let outpoint = OutPoint::new(txid, vout as u32);
            let coin = (txout.clone(), height, coinbase);
            assert!(coins.insert(outpoint, coin).is_none(), "created twice");
        }
    }
}
