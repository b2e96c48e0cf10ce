//! The books: one row per payment, invoice, closed order and oddity.
//!
//! Not a report for people: `freehold ledger` formats [`Report`]. Rows are
//! appended, an entry's row is rewritten as its state changes; only invoices that
//! nobody paid are ever deleted ([`MAX_EXPIRED`]). In memory are at most [`MAX_ROWS`] rows that are done (the
//! oldest leave first) and every open one; totals are over all rows ever.

use super::io::{EntryState, LedgerEntry, Note, OrderAccount, Report, Side};
use super::turn::{self, RecordError, Turn};
use crate::ids::{NodeKey, OrderId, PaymentHash};
use crate::machine::{Record, Table};
use crate::money::Msat;
use crate::time::Now;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Rows kept in memory once they are done: about 6 MB, and a month of 500 payments a day.
pub const MAX_ROWS: usize = 16_384;

/// Hashes remembered after their rows have left: about 20 MB. An older hash can return only
/// in a new invoice that its host signed again, so it is a new purchase at a known price.
pub const MAX_HASHES: usize = 262_144;

/// Invoices kept that nobody paid. Strangers cause them for free, so beyond it the oldest is
/// deleted, from storage too; money that still comes for it becomes a [`Note`].
pub const MAX_EXPIRED: usize = 1_024;

/// One row of [`Table::Ledger`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Row {
    /// A payment or an invoice; `budget` is empty for an invoice.
    Entry {
        /// The entry.
        entry: LedgerEntry,
        /// The budget it is charged to.
        budget: String,
    },
    /// A closed order.
    Account(OrderAccount),
    /// Money or records that belong to no order.
    Note(Note),
}

impl Row {
    /// Reads a stored value of [`Table::Ledger`], for exports.
    ///
    /// # Errors
    /// When it is of another version or does not decode.
    pub fn decode(value: &[u8]) -> Result<Row, RecordError> {
        turn::decode(value)
    }

    fn is_open(&self) -> bool {
        matches!(self, Row::Entry { entry, .. } if !entry.state.is_done())
    }
}

/// A report over every row that storage has: `report` is what the machine tells, which keeps
/// the newest [`MAX_ROWS`] in memory, and `stored` all of [`Table::Ledger`], in order of the keys.
/// Where both have a row the machine's counts. Rows that do not decode are in the notes of
/// `report`.
pub fn whole(report: Report, stored: &[Record]) -> Report {
    let (mut entries, mut orders, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    let rows = stored.iter().filter_map(|record| record.value.as_deref());
    for row in rows.filter_map(|value| Row::decode(value).ok()) {
        match row {
            Row::Entry { entry, .. } => entries.push(entry),
            Row::Account(account) => orders.push(account),
            Row::Note(note) => notes.push(note),
        }
    }
    Report {
        entries: overlay(entries, report.entries, |entry| (entry.side, entry.hash)),
        orders: overlay(orders, report.orders, |account| {
            (account.side, account.order)
        }),
        notes: overlay(notes, report.notes, |note| {
            (note.at, note.hash, note.text.clone())
        }),
        ..report
    }
}

/// `old` in its order, each replaced by the one of `new` with its key; then what is left of `new`.
fn overlay<T, K: Ord>(old: Vec<T>, new: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut at: BTreeMap<K, usize> = BTreeMap::new();
    let mut all = Vec::with_capacity(old.len());
    for item in old.into_iter().chain(new) {
        match at.get(&key(&item)) {
            Some(index) => all[*index] = item,
            None => {
                at.insert(key(&item), all.len());
                all.push(item);
            }
        }
    }
    all
}

/// Rows, totals and the index by hash.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    rows: BTreeMap<u64, Row>,
    next: u64,
    by_hash: BTreeMap<(Side, PaymentHash), u64>,
    hashes: VecDeque<(Side, PaymentHash)>,
    closed: BTreeMap<(Side, OrderId), u64>,
    expired: BTreeSet<u64>,
    earned: Msat,
    spent: Msat,
    fees: Msat,
}

impl Ledger {
    /// Appends an entry and writes it.
    pub fn append(&mut self, turn: &mut Turn, entry: LedgerEntry, budget: &str) -> u64 {
        let budget = budget.to_owned();
        self.push(turn, Row::Entry { entry, budget })
    }

    /// Appends a note and writes it.
    pub fn note(&mut self, turn: &mut Turn, note: Note) {
        self.push(turn, Row::Note(note));
    }

    /// Appends a closed order, or corrects the row of one that was closed before.
    pub fn close(&mut self, turn: &mut Turn, account: OrderAccount) {
        match self.closed.get(&(account.side, account.order)).copied() {
            Some(row) => {
                turn.put(Table::Ledger, &key(row), &Row::Account(account.clone()));
                self.rows.insert(row, Row::Account(account));
            }
            None => {
                self.push(turn, Row::Account(account));
            }
        }
    }

    /// Returns whether this side of the order was closed before.
    pub fn is_closed(&self, side: Side, order: &OrderId) -> bool {
        self.closed.contains_key(&(side, *order))
    }

    /// Returns whether this hash was ever an entry of this side.
    pub fn knows(&self, side: Side, hash: &PaymentHash) -> bool {
        self.by_hash.contains_key(&(side, *hash))
    }

    /// Finds the entry of a hash, if its row is in memory.
    pub fn find(&self, side: Side, hash: &PaymentHash) -> Option<(u64, &LedgerEntry, &str)> {
        let row = *self.by_hash.get(&(side, *hash))?;
        match self.rows.get(&row)? {
            Row::Entry { entry, budget } => Some((row, entry, budget)),
            _ => None,
        }
    }

    /// Changes an entry, keeps the totals, and writes it where `turn` is given.
    ///
    /// Without a turn the change is one that storage need not know: see `saga`.
    pub fn change(
        &mut self,
        turn: Option<&mut Turn>,
        row: u64,
        change: impl FnOnce(&mut LedgerEntry),
    ) {
        let Some(Row::Entry { entry, .. }) = self.rows.get_mut(&row) else {
            return;
        };
        let before = entry.clone();
        change(entry);
        let after = entry.clone();
        if after.state == EntryState::Expired {
            self.expired.insert(row);
        } else {
            self.expired.remove(&row);
        }
        if let Some(turn) = turn
            && let Some(stored) = self.rows.get(&row)
        {
            turn.put(Table::Ledger, &key(row), stored);
            self.forget_expired(turn);
        }
        self.count(&before, false);
        self.count(&after, true);
        self.trim();
    }

    /// Returns what was received for an order so far, as far as its rows are in memory.
    pub fn received_for(&self, order: &OrderId) -> Msat {
        self.entries()
            .filter(|(_, _, entry)| {
                entry.order == *order
                    && entry.side == Side::Host
                    && entry.state == EntryState::Settled
            })
            .fold(Msat::ZERO, |sum, (_, _, entry)| {
                sum.saturating_add(entry.msat)
            })
    }

    /// Returns the most that we may owe a host from closed orders: what was delivered and
    /// not paid, less what later orders took up again. As far as rows are in memory.
    pub fn owed_to(&self, host: &NodeKey) -> Msat {
        let mut paid: BTreeMap<OrderId, Msat> = BTreeMap::new();
        let ours = |entry: &&LedgerEntry| {
            entry.side == Side::Buyer
                && entry.state == EntryState::Settled
                && entry.counterparty.as_ref() == Some(host)
        };
        for entry in self.entries().map(|(_, _, entry)| entry).filter(ours) {
            let sum = paid.entry(entry.order).or_default();
            *sum = sum.saturating_add(entry.msat);
        }
        let mut owed = Msat::ZERO;
        for row in self.rows.values() {
            let Row::Account(account) = row else { continue };
            if account.side != Side::Buyer || account.counterparty != *host {
                continue;
            }
            let due = account
                .cost
                .saturating_add(account.carried)
                .saturating_add(account.unsure);
            let paid = paid.get(&account.order).copied().unwrap_or_default();
            // What the order took up is part of what it leaves.
            owed = owed
                .saturating_sub(account.carried)
                .saturating_add(due.saturating_sub(paid));
        }
        owed
    }

    /// Returns what can be told from the rows alone.
    pub fn report(&self) -> Report {
        let mut report = Report {
            earned: self.earned,
            spent: self.spent,
            fees: self.fees,
            ..Report::default()
        };
        for row in self.rows.values() {
            match row {
                Row::Entry { entry, .. } => report.entries.push(entry.clone()),
                Row::Account(account) => report.orders.push(account.clone()),
                Row::Note(note) => report.notes.push(note.clone()),
            }
        }
        report
    }

    /// Loads one stored row.
    pub fn load(&mut self, at: &[u8], value: &[u8]) -> Result<(), RecordError> {
        let bytes = <[u8; 8]>::try_from(at).map_err(|_| RecordError::Key { bytes: at.len() })?;
        let row = u64::from_be_bytes(bytes);
        self.next = self.next.max(row.saturating_add(1));
        let value = Row::decode(value)?;
        self.insert(row, value);
        Ok(())
    }

    /// Notes a record that could not be read; in memory only, so that it is said at every start.
    pub fn complain(&mut self, now: Now, record: &Record, error: &RecordError) {
        let table = record.table.name();
        let note = Note {
            at: now.wall,
            hash: None,
            msat: Msat::ZERO,
            text: format!("a record of table {table} was not read: {error}"),
        };
        let row = self.next;
        self.next = self.next.saturating_add(1);
        self.rows.insert(row, Row::Note(note));
    }

    /// Returns every open entry with its row and budget.
    pub fn open(&self) -> Vec<(u64, String, LedgerEntry)> {
        self.entries()
            .filter(|(_, _, entry)| !entry.state.is_done())
            .map(|(row, budget, entry)| (row, budget.to_owned(), entry.clone()))
            .collect()
    }

    /// Returns every settled payment of ours with its budget.
    pub fn paid(&self) -> Vec<(String, LedgerEntry)> {
        self.entries()
            .filter(|(_, _, entry)| entry.side == Side::Buyer && entry.state == EntryState::Settled)
            .map(|(_, budget, entry)| (budget.to_owned(), entry.clone()))
            .collect()
    }

    /// Lets the oldest finished rows and hashes go from memory until the bounds hold.
    pub fn trim(&mut self) {
        while self.rows.len() > MAX_ROWS {
            let Some(row) = self
                .rows
                .iter()
                .find(|(_, value)| !value.is_open())
                .map(|(row, _)| *row)
            else {
                break;
            };
            if let Some(Row::Account(account)) = self.rows.remove(&row) {
                self.closed.remove(&(account.side, account.order));
            }
        }
        while self.hashes.len() > MAX_HASHES {
            if let Some(hash) = self.hashes.pop_front() {
                self.by_hash.remove(&hash);
            }
        }
    }

    fn forget_expired(&mut self, turn: &mut Turn) {
        while self.expired.len() > MAX_EXPIRED
            && let Some(row) = self.expired.pop_first()
        {
            turn.delete(Table::Ledger, &key(row));
            if let Some(Row::Entry { entry, .. }) = self.rows.remove(&row) {
                self.by_hash.remove(&(entry.side, entry.hash));
            }
        }
    }

    fn entries(&self) -> impl Iterator<Item = (u64, &str, &LedgerEntry)> {
        self.rows.iter().filter_map(|(row, value)| match value {
            Row::Entry { entry, budget } => Some((*row, budget.as_str(), entry)),
            _ => None,
        })
    }

    fn push(&mut self, turn: &mut Turn, value: Row) -> u64 {
        let row = self.next;
        self.next = self.next.saturating_add(1);
        turn.put(Table::Ledger, &key(row), &value);
        self.insert(row, value);
        self.trim();
        row
    }

    fn insert(&mut self, row: u64, value: Row) {
        match &value {
            Row::Entry { entry, .. } => {
                self.by_hash.insert((entry.side, entry.hash), row);
                self.hashes.push_back((entry.side, entry.hash));
                if entry.state == EntryState::Expired {
                    self.expired.insert(row);
                }
                let entry = entry.clone();
                self.count(&entry, true);
            }
            Row::Account(account) => {
                self.closed.insert((account.side, account.order), row);
            }
            Row::Note(_) => {}
        }
        self.rows.insert(row, value);
    }

    fn count(&mut self, entry: &LedgerEntry, add: bool) {
        if entry.state != EntryState::Settled {
            return;
        }
        let apply = |sum: &mut Msat, part: Msat| {
            *sum = if add {
                sum.saturating_add(part)
            } else {
                sum.saturating_sub(part)
            };
        };
        match entry.side {
            Side::Host => apply(&mut self.earned, entry.msat),
            Side::Buyer => {
                apply(&mut self.spent, entry.msat);
                apply(&mut self.fees, entry.fee);
            }
        }
    }
}

fn key(row: u64) -> [u8; 8] {
    row.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::io::Effect;
    use super::*;
    use crate::ids::NodeKey;
    use crate::machine::Outbox;
    use crate::time::{Tick, WallTime};

    fn entry(number: u8, state: EntryState) -> LedgerEntry {
        LedgerEntry {
            side: Side::Host,
            order: OrderId([number; 16]),
            counterparty: Some(NodeKey([9; 32])),
            seq: 0,
            hash: PaymentHash([number; 32]),
            msat: Msat(1_000),
            fee: Msat::ZERO,
            state,
            preimage: None,
            expires: WallTime(0),
            created: WallTime(u64::from(number)),
            changed: WallTime(0),
            note: String::new(),
        }
    }

    fn stored(row: u64, entry: LedgerEntry) -> Record {
        let now = Now {
            wall: WallTime(0),
            tick: Tick(0),
        };
        let budget = String::new();
        let (mut turn, mut out) = (Turn::new(now), Outbox::default());
        turn.put(Table::Ledger, &key(row), &Row::Entry { entry, budget });
        turn.finish(&mut out);
        let effect = out.drain().next();
        match effect {
            Some(Effect::Persist(mut records)) => records.remove(0),
            other => panic!("{other:?} in place of a record"),
        }
    }

    #[test]
    fn a_whole_report_has_rows_that_left_memory_and_the_newest_state_of_the_others() {
        let records = [
            stored(0, entry(1, EntryState::Settled)),
            stored(1, entry(2, EntryState::Invoiced)),
        ];
        let told = Report {
            entries: vec![
                entry(2, EntryState::Settled),
                entry(3, EntryState::Invoiced),
            ],
            earned: Msat(2_000),
            ..Report::default()
        };
        let whole = whole(told, &records);
        let states: Vec<_> = whole
            .entries
            .iter()
            .map(|entry| (entry.hash.0[0], entry.state))
            .collect();
        let settled = EntryState::Settled;
        assert_eq!(
            states,
            [(1, settled), (2, settled), (3, EntryState::Invoiced)]
        );
        assert_eq!(whole.earned, Msat(2_000));
    }
}
