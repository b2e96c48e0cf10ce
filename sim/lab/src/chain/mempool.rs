//! Transactions that wait for a block.
//!
//! Kept in order of arrival. A child can only arrive after its parent, so that
//! order is also a valid order within a block, and a block is simply a prefix.
//!
//! Invariants: no two entries spend the same output; every input is an output
//! of the chain or of an earlier entry; entry times strictly increase.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bitcoin::{OutPoint, Transaction, Txid};

use super::ledger::{Coin, Ledger};
use super::{FEE_FLOOR_SAT_PER_VB, MempoolEntry, TxError, Unspent, rules};

/// Most waiting transactions. A lab has tens; this stops a loop gone wild.
const MAX_ENTRIES: usize = 20_000;

/// Most transactions one replacement may push out (BIP125 rule 5).
const MAX_REPLACED: usize = 100;

struct Entry {
    tx: Transaction,
    txid: Txid,
    info: MempoolEntry,
}

#[derive(Default)]
pub(super) struct Mempool {
    /// By number of arrival.
    entries: BTreeMap<u64, Entry>,
    arrival: HashMap<Txid, u64>,
    /// Output -> the entry that spends it.
    spent_by: HashMap<OutPoint, u64>,
    next_arrival: u64,
    last_time: u64,
}

impl Mempool {
    pub(super) fn txids(&self) -> Vec<Txid> {
        self.entries.values().map(|e| e.txid).collect()
    }

    pub(super) fn entry(&self, txid: &Txid) -> Option<MempoolEntry> {
        self.find(txid).map(|e| e.info)
    }

    pub(super) fn transaction(&self, txid: &Txid) -> Option<Transaction> {
        self.find(txid).map(|e| e.tx.clone())
    }

    fn find(&self, txid: &Txid) -> Option<&Entry> {
        self.entries.get(self.arrival.get(txid)?)
    }

    /// Waiting transactions with their fees, in order of arrival.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (&Transaction, MempoolEntry)> {
        self.entries.values().map(|e| (&e.tx, e.info))
    }

    /// Takes everything out, in order of arrival; used by a rollback.
    pub(super) fn take_all(&mut self) -> Vec<Transaction> {
        self.arrival.clear();
        self.spent_by.clear();
        std::mem::take(&mut self.entries)
            .into_values()
            .map(|e| e.tx)
            .collect()
    }

    pub(super) fn unspent(&self, ledger: &Ledger, outpoint: &OutPoint) -> Option<Unspent> {
        if self.spent_by.contains_key(outpoint) {
            return None;
        }
        if let Some(found) = ledger.unspent(outpoint) {
            return Some(found);
        }
        let coin = self.coin(ledger, outpoint)?;
        Some(Unspent {
            txout: coin.txout,
            height: coin.height,
            coinbase: false,
            in_mempool: true,
        })
    }

    /// An output of the chain or of a waiting transaction, spent by another
    /// waiting one or not.
    fn coin(&self, ledger: &Ledger, outpoint: &OutPoint) -> Option<Coin> {
        if let Some(coin) = ledger.coin(outpoint) {
            return Some(coin.clone());
        }
        let parent = self.find(&outpoint.txid)?;
        let txout = parent.tx.output.get(outpoint.vout as usize)?;
        Some(Coin {
            txout: txout.clone(),
            height: ledger.tip().height + 1,
            coinbase: false,
        })
    }

    /// Checks and takes in one transaction; see `RegtestChain::submit`.
    pub(super) fn accept(
        &mut self,
        ledger: &Ledger,
        tx: Transaction,
        now: u64,
    ) -> Result<Txid, TxError> {
        rules::sane(&tx)?;
        let txid = tx.compute_txid();
        if self.arrival.contains_key(&txid) {
            return Ok(txid);
        }
        if ledger.has_unspent_of(txid, tx.output.len()) {
            return Err(TxError::AlreadyConfirmed { txid });
        }
        let coins = self.coins_of(ledger, &tx)?;
        rules::final_in_next_block(&tx, ledger)?;
        rules::old_enough(&tx, &coins, ledger)?;
        let fee_sats = rules::fee(&tx, &coins)?;
        rules::no_dust(&tx)?;
        let replaced = self.replaced_by(&tx, fee_sats)?;
        if self.entries.len() >= MAX_ENTRIES {
            return Err(TxError::MempoolFull { most: MAX_ENTRIES });
        }
        rules::scripts(&tx, &coins)?;
        for number in replaced {
            self.remove(number);
        }
        self.insert(tx, txid, fee_sats, ledger.tip().height, now);
        Ok(txid)
    }

    fn coins_of(&self, ledger: &Ledger, tx: &Transaction) -> Result<Vec<Coin>, TxError> {
        tx.input
            .iter()
            .map(|input| {
                let outpoint = input.previous_output;
                self.coin(ledger, &outpoint)
                    .ok_or(TxError::MissingOrSpent { outpoint })
            })
            .collect()
    }

    /// The entries that must go for `tx` to come in, descendants included;
    /// an error when it does not pay for that.
    fn replaced_by(&self, tx: &Transaction, fee_sats: u64) -> Result<BTreeSet<u64>, TxError> {
        let refuse = |reason| Err(TxError::Replacement { reason });
        let direct: BTreeSet<u64> = tx
            .input
            .iter()
            .filter_map(|i| self.spent_by.get(&i.previous_output).copied())
            .collect();
        if direct.is_empty() {
            return Ok(direct);
        }
        let all = self.with_descendants(&direct);
        if all.len() > MAX_REPLACED {
            return refuse("too many transactions would go");
        }
        let gone: Vec<&Entry> = all.iter().filter_map(|n| self.entries.get(n)).collect();
        let spends_gone = tx
            .input
            .iter()
            .any(|i| gone.iter().any(|e| e.txid == i.previous_output.txid));
        if spends_gone {
            return refuse("it spends an output of what it replaces");
        }
        let vsize = tx.vsize() as u64;
        let old_fees: u64 = gone.iter().map(|e| e.info.fee_sats).sum();
        if fee_sats < old_fees + vsize * FEE_FLOOR_SAT_PER_VB {
            return refuse("it must pay the fees of what it replaces and its own relay");
        }
        // Fee rates compared as fractions: fee / vsize, without rounding.
        let cheaper = direct
            .iter()
            .filter_map(|n| self.entries.get(n))
            .any(|old| {
                u128::from(fee_sats) * u128::from(old.info.vsize)
                    <= u128::from(old.info.fee_sats) * u128::from(vsize)
            });
        if cheaper {
            return refuse("its fee rate is not above that of what it replaces");
        }
        Ok(all)
    }

    fn with_descendants(&self, roots: &BTreeSet<u64>) -> BTreeSet<u64> {
        let mut all = roots.clone();
        let mut open: Vec<u64> = roots.iter().copied().collect();
        while let Some(entry) = open.pop().and_then(|n| self.entries.get(&n)) {
            for vout in 0..entry.tx.output.len() as u32 {
                let outpoint = OutPoint {
                    txid: entry.txid,
                    vout,
                };
                if let Some(&child) = self.spent_by.get(&outpoint)
                    && all.insert(child)
                {
                    open.push(child);
                }
            }
        }
        all
    }

    fn insert(&mut self, tx: Transaction, txid: Txid, fee_sats: u64, height: u32, now: u64) {
        // Strictly increasing: ldk-node drops entries that are not later than
        // the last one it saw.
        let time = now.max(self.last_time + 1);
        self.last_time = time;
        let number = self.next_arrival;
        self.next_arrival += 1;
        let info = MempoolEntry {
            time,
            height,
            fee_sats,
            vsize: tx.vsize() as u64,
            weight: tx.weight().to_wu(),
        };
        for input in &tx.input {
            self.spent_by.insert(input.previous_output, number);
        }
        self.arrival.insert(txid, number);
        self.entries.insert(number, Entry { tx, txid, info });
    }

    fn remove(&mut self, number: u64) {
        if let Some(entry) = self.entries.remove(&number) {
            self.arrival.remove(&entry.txid);
            for input in &entry.tx.input {
                self.spent_by.remove(&input.previous_output);
            }
        }
    }

    /// Drops the oldest `count` entries: they are in a block now.
    pub(super) fn confirm_first(&mut self, count: usize) {
        for _ in 0..count {
            if let Some((&number, _)) = self.entries.first_key_value() {
                self.remove(number);
            }
        }
    }
}
