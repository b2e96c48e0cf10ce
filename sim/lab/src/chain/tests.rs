//! Tests of the chain: each rule by a sentence, and random scenarios whose
//! blocks are checked again, from genesis, by code that shares nothing with
//! what made them.

mod replay;
mod wallet;

use bitcoin::absolute::LockTime;
use bitcoin::{Amount, OutPoint, Sequence, Txid};
use proptest::prelude::*;

use super::*;
use wallet::Wallet;

/// A chain with `spendable` mature coinbases of the wallet, oldest first.
fn funded(wallet: &Wallet, spendable: u32) -> (RegtestChain, Vec<(OutPoint, TxOut)>) {
    let chain = RegtestChain::new();
    chain
        .generate_to_script(spendable, wallet.segwit_script())
        .unwrap();
    chain
        .generate_to_script(COINBASE_MATURITY - 1, wallet.foreign_script())
        .unwrap();
    let coins = (1..=spendable)
        .map(|height| {
            let hash = chain.block_hash(height).unwrap();
            let block = chain.block(&hash).unwrap();
            let tx = &block.txdata[0];
            let outpoint = OutPoint::new(tx.compute_txid(), 0);
            (outpoint, tx.output[0].clone())
        })
        .collect();
    (chain, coins)
}

fn output_of(tx: &Transaction, vout: u32) -> (OutPoint, TxOut) {
    let outpoint = OutPoint::new(tx.compute_txid(), vout);
    (outpoint, tx.output[vout as usize].clone())
}

#[test]
fn a_fresh_chain_holds_genesis_and_no_money() {
    let chain = RegtestChain::new();
    assert_eq!(chain.tip().height, 0);
    assert_eq!(
        chain.tip().hash.to_string(),
        "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"
    );
    assert_eq!(chain.supply().issued_sats, 0);
    assert_eq!(chain.supply().unspent_sats, 0);
}

#[test]
fn the_subsidy_halves_every_150_blocks_and_ends() {
    assert_eq!(subsidy_sats(149), 5_000_000_000);
    assert_eq!(subsidy_sats(150), 2_500_000_000);
    assert_eq!(subsidy_sats(300), 1_250_000_000);
    assert_eq!(subsidy_sats(150 * 33), 0);
    assert_eq!(subsidy_sats(u32::MAX), 0);
}

#[test]
fn a_coinbase_can_be_spent_in_the_hundredth_block_after_it_and_not_before() {
    let wallet = Wallet::new();
    let (chain, coins) = funded(&wallet, 2);
    // Tip is 101. Block 1's coinbase has depth 101 in the next, block 2's 100.
    let spend = wallet.spend(&coins[1..2], wallet.pay(&coins[1..2], 1_000));
    chain.submit(spend.clone()).unwrap();
    chain.rollback(1).unwrap();
    assert!(
        chain.mempool().is_empty(),
        "immature again after a rollback"
    );
    let refused = chain.submit(spend).unwrap_err();
    assert!(matches!(
        refused,
        TxError::ImmatureCoinbase { depth: 99, .. }
    ));
}

#[test]
fn a_spent_output_cannot_be_spent_again() {
    let wallet = Wallet::new();
    let (chain, coins) = funded(&wallet, 1);
    let first = wallet.spend(&coins, wallet.pay(&coins, 1_000));
    let second = wallet.spend(&coins, wallet.pay(&coins, 1_001));
    chain.submit(first.clone()).unwrap();
    let waiting = chain.submit(second.clone()).unwrap_err();
    assert!(matches!(waiting, TxError::Replacement { .. }), "{waiting}");
    assert_eq!(waiting.rpc_code(), -26);
    chain
        .generate_to_script(1, wallet.foreign_script())
        .unwrap();
    let confirmed = chain.submit(second).unwrap_err();
    assert_eq!(
        confirmed,
        TxError::MissingOrSpent {
            outpoint: coins[0].0
        }
    );
    assert_eq!(confirmed.rpc_code(), -25);
    assert_eq!(chain.submit(first).unwrap_err().rpc_code(), -27);
}

#[test]
fn a_replacement_that_pays_for_itself_takes_descendants_along() {
    let wallet = Wallet::new();
    let (chain, coins) = funded(&wallet, 1);
    let parent = wallet.spend(&coins, wallet.pay(&coins, 1_000));
    let change = [output_of(&parent, 0)];
    let child = wallet.spend(&change, wallet.pay(&change, 500));
    chain.submit(parent).unwrap();
    chain.submit(child).unwrap();
    // More than the parent, less than parent and child together.
    let poor = wallet.spend(&coins, wallet.pay(&coins, 1_400));
    assert!(chain.submit(poor).is_err());
    let rich = wallet.spend(&coins, wallet.pay(&coins, 5_000));
    let txid = chain.submit(rich).unwrap();
    assert_eq!(chain.mempool(), vec![txid]);
}

#[test]
fn signatures_are_checked_on_segwit_and_taproot_inputs() {
    let wallet = Wallet::new();
    let (chain, coins) = funded(&wallet, 1);
    let mut forged = wallet.spend(&coins, wallet.pay(&coins, 1_000));
    forged.output[0].value -= Amount::from_sat(1);
    let refused = chain.submit(forged).unwrap_err();
    assert!(
        matches!(refused, TxError::Script { input: 0, .. }),
        "{refused}"
    );

    let outputs = vec![TxOut {
        value: coins[0].1.value - Amount::from_sat(1_000),
        script_pubkey: wallet.taproot_script(),
    }];
    let to_taproot = wallet.spend(&coins, outputs);
    chain.submit(to_taproot.clone()).unwrap();
    let coin = [output_of(&to_taproot, 0)];
    let from_taproot = wallet.spend(&coin, wallet.pay(&coin, 1_000));
    let mut forged = from_taproot.clone();
    forged.output[0].value -= Amount::from_sat(1);
    let refused = chain.submit(forged).unwrap_err();
    assert!(
        matches!(refused, TxError::Script { input: 0, .. }),
        "{refused}"
    );
    chain.submit(from_taproot).unwrap();
    chain
        .generate_to_script(1, wallet.foreign_script())
        .unwrap();
    replay::check(&chain);
}

#[test]
fn a_height_lock_opens_at_its_height() {
    let wallet = Wallet::new();
    let (chain, coins) = funded(&wallet, 1);
    let height = chain.tip().height + 1;
    let lock = |height| LockTime::from_height(height).unwrap();
    let build = |height| {
        let outputs = wallet.pay(&coins, 1_000);
        wallet.spend_with(
            &coins,
            outputs,
            lock(height),
            Sequence::ENABLE_LOCKTIME_NO_RBF,
        )
    };
    // A lock time of h is open in block h + 1.
    let refused = chain.submit(build(height)).unwrap_err();
    assert!(matches!(refused, TxError::NonFinal { .. }));
    chain.submit(build(height - 1)).unwrap();
}

#[test]
fn a_relative_lock_opens_after_its_blocks_and_its_seconds() {
    let wallet = Wallet::new();
    let (chain, coins) = funded(&wallet, 1);
    let first = wallet.spend(&coins, wallet.pay(&coins, 1_000));
    chain.submit(first.clone()).unwrap();
    chain
        .generate_to_script(1, wallet.foreign_script())
        .unwrap();
    let coin = [output_of(&first, 0)];
    let locked =
        |sequence| wallet.spend_with(&coin, wallet.pay(&coin, 1_000), LockTime::ZERO, sequence);
    let three_blocks = locked(Sequence::from_height(3));
    let refused = chain.submit(three_blocks.clone()).unwrap_err();
    assert_eq!(refused, TxError::NonBip68Final { input: 0 });
    chain
        .generate_to_script(2, wallet.foreign_script())
        .unwrap();
    // 512 seconds have not passed on this chain's clock.
    let seconds = locked(Sequence::from_512_second_intervals(1));
    assert_eq!(
        chain.submit(seconds).unwrap_err(),
        TxError::NonBip68Final { input: 0 }
    );
    chain.submit(three_blocks).unwrap();
}

#[test]
fn dust_low_fees_and_overspending_are_refused() {
    let wallet = Wallet::new();
    let (chain, coins) = funded(&wallet, 1);
    let cheap = wallet.spend(&coins, wallet.pay(&coins, 50));
    assert!(matches!(
        chain.submit(cheap).unwrap_err(),
        TxError::FeeTooLow { fee_sats: 50, .. }
    ));
    let mut outputs = wallet.pay(&coins, 1_000);
    outputs.push(TxOut {
        value: Amount::from_sat(100),
        script_pubkey: wallet.segwit_script(),
    });
    let dust = wallet.spend(&coins, outputs);
    assert!(matches!(
        chain.submit(dust).unwrap_err(),
        TxError::Dust {
            output: 1,
            sats: 100,
            floor_sats: 294
        }
    ));
    let mut outputs = wallet.pay(&coins, 0);
    outputs[0].value += Amount::from_sat(1);
    let greedy = wallet.spend(&coins, outputs);
    assert!(matches!(
        chain.submit(greedy).unwrap_err(),
        TxError::Overspent { .. }
    ));
}

#[test]
fn mempool_times_strictly_increase_and_order_is_arrival() {
    let wallet = Wallet::new();
    let (chain, coins) = funded(&wallet, 5);
    let mut txids: Vec<Txid> = Vec::new();
    for coin in coins.chunks(1) {
        let tx = wallet.spend(coin, wallet.pay(coin, 1_000));
        txids.push(chain.submit(tx).unwrap());
    }
    assert_eq!(chain.mempool(), txids);
    let times: Vec<u64> = txids
        .iter()
        .map(|t| chain.mempool_entry(t).unwrap().time)
        .collect();
    assert!(times.windows(2).all(|w| w[0] < w[1]), "{times:?}");
}

#[test]
fn a_rollback_returns_transactions_to_the_mempool_and_keeps_stale_blocks() {
    let wallet = Wallet::new();
    let (chain, coins) = funded(&wallet, 1);
    chain
        .generate_to_script(5, wallet.foreign_script())
        .unwrap();
    let parent = wallet.spend(&coins, wallet.pay(&coins, 1_000));
    let change = [output_of(&parent, 0)];
    let child = wallet.spend(&change, wallet.pay(&change, 1_000));
    let before = chain.supply();
    let txids = vec![chain.submit(parent).unwrap(), chain.submit(child).unwrap()];
    let stale = chain
        .generate_to_script(1, wallet.foreign_script())
        .unwrap()[0];
    assert!(chain.mempool().is_empty());
    chain.rollback(1).unwrap();
    assert_eq!(chain.mempool(), txids);
    assert_eq!(chain.supply(), before);
    assert!(!chain.header(&stale).unwrap().in_best_chain);
    assert!(chain.block(&stale).is_some());
    let fresh = chain
        .generate_to_script(2, wallet.foreign_script())
        .unwrap();
    assert_ne!(fresh[0], stale);
    assert!(chain.mempool().is_empty());
    replay::check(&chain);
}

#[test]
fn orders_beyond_the_bounds_are_refused_with_the_bound() {
    let chain = RegtestChain::new();
    let script = Wallet::new().foreign_script();
    let refused = chain.generate_to_script(MAX_BLOCKS_PER_CALL + 1, script);
    assert!(matches!(refused, Err(ChainError::TooManyBlocks { .. })));
    assert_eq!(
        chain.rollback(1),
        Err(ChainError::RollbackTooDeep {
            asked: 1,
            available: 0
        })
    );
}

#[test]
fn only_regtest_addresses_are_taken() {
    assert!(regtest_address("bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080").is_ok());
    for foreign in [
        "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",
        "tb1qw508d6qejxtdg4y5r3zarvary0c5xw7kxpjzsx",
        "nonsense",
        "",
    ] {
        assert!(regtest_address(foreign).is_err(), "{foreign}");
    }
}

/// One step of a random scenario. Numbers are reduced to what exists.
#[derive(Clone, Debug)]
enum Step {
    Mine(u32),
    /// Spend coin number n (confirmed or waiting) with this fee.
    Spend(usize, u64, bool),
    /// Try to spend an outpoint that some transaction spent before.
    SpendAgain(usize, u64),
    /// Send a coin to OP_RETURN in part.
    Burn(usize),
    Rollback(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1u32..4).prop_map(Step::Mine),
        5 => (any::<usize>(), 300u64..5_000, any::<bool>())
            .prop_map(|(n, fee, taproot)| Step::Spend(n, fee, taproot)),
        3 => (any::<usize>(), 300u64..5_000).prop_map(|(n, fee)| Step::SpendAgain(n, fee)),
        1 => any::<usize>().prop_map(Step::Burn),
        1 => (1u32..4).prop_map(Step::Rollback),
    ]
}

/// A coin as a wallet remembers it.
type Remembered = (OutPoint, TxOut);

/// Runs one step; `coins` are all outputs ever paid to the wallet.
fn run(step: &Step, chain: &RegtestChain, wallet: &Wallet, coins: &mut Vec<Remembered>) {
    let live = |coins: &[Remembered], n: usize| {
        let live: Vec<Remembered> = coins
            .iter()
            .filter(|(outpoint, _)| chain.unspent(outpoint, true).is_some())
            .cloned()
            .collect();
        (!live.is_empty()).then(|| live[n % live.len()].clone())
    };
    match *step {
        Step::Mine(count) => {
            chain
                .generate_to_script(count, wallet.foreign_script())
                .unwrap();
        }
        Step::Spend(n, fee, taproot) => {
            let Some(coin) = live(coins, n) else { return };
            let mut outputs = wallet.pay(std::slice::from_ref(&coin), fee);
            if taproot {
                outputs[0].script_pubkey = wallet.taproot_script();
            }
            let tx = wallet.spend(&[coin], outputs);
            if chain.submit(tx.clone()).is_ok() {
                coins.push(output_of(&tx, 0));
            }
        }
        Step::SpendAgain(n, fee) => {
            let coin = coins[n % coins.len()].clone();
            let gone = chain.unspent(&coin.0, true).is_none();
            let confirmed_gone = gone && chain.unspent(&coin.0, false).is_none();
            let parent_waits = chain.mempool_transaction(&coin.0.txid).is_some();
            let tx = wallet.spend(
                std::slice::from_ref(&coin),
                wallet.pay(std::slice::from_ref(&coin), fee),
            );
            let already = chain.mempool_transaction(&tx.compute_txid()).is_some();
            let outcome = chain.submit(tx.clone());
            if confirmed_gone && !parent_waits && !already {
                assert!(outcome.is_err(), "a spent coin was spent again");
            }
            if outcome.is_ok() {
                coins.push(output_of(&tx, 0));
            }
        }
        Step::Burn(n) => {
            let Some(coin) = live(coins, n) else { return };
            let mut outputs = wallet.pay(std::slice::from_ref(&coin), 2_000);
            outputs[0].value -= Amount::from_sat(7_000);
            outputs.push(TxOut {
                value: Amount::from_sat(7_000),
                script_pubkey: ScriptBuf::new_op_return([1, 2, 3]),
            });
            let tx = wallet.spend(&[coin], outputs);
            if chain.submit(tx.clone()).is_ok() {
                coins.push(output_of(&tx, 0));
            }
        }
        Step::Rollback(count) => {
            chain.rollback(count.min(chain.tip().height)).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_happens_money_is_conserved_and_all_blocks_are_valid(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let wallet = Wallet::new();
        let (chain, mut coins) = funded(&wallet, 4);
        for step in &steps {
            run(step, &chain, &wallet, &mut coins);
            let supply = chain.supply();
            prop_assert_eq!(supply.unspent_sats + supply.burned_sats, supply.issued_sats);
        }
        // Whatever waits must fit into a valid block.
        chain.generate_to_script(1, wallet.foreign_script()).unwrap();
        prop_assert!(chain.mempool().is_empty());
        replay::check(&chain);
    }
}
