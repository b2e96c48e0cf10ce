//! The books: one row per payment, invoice, closed order and oddity.
//!
//! Not a report for people: `freehold ledger` formats [`Report`]. Rows are
//! appended, an entry's row is rewritten as its state changes; only invoices that
//! nobody paid are ever deleted ([`MAX_EXPIRED`]). In memory are at most [`MAX_ROWS`] rows that are done (the
//! oldest leave first, at start too) and every open one; totals are over all rows ever.
//! Sums by order and rows by host are kept beside them, so that no question walks all rows.

#[cfg(test)]
mod tests;

use super::budget::DAY_MS;
use super::turn::{self, RecordError, Turn};
use crate::ids::{NodeKey, OrderId, PaymentHash};
use crate::machine::{Record, Table};
use crate::message::inference::OrderAccount;
use crate::message::payment::{EntryState, LedgerEntry, Note, Report, Side};
use crate::money::Msat;
use crate::time::{Now, WallTime};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Rows kept in memory once they are done: about 6 MB, and a month of 500 payments a day.
pub const MAX_ROWS: usize = 16_384;

/// Hashes remembered after their rows have left: about 20 MB. An older hash can return only
/// in a new invoice that its host signed again, so it is a new purchase at a known price.
pub const MAX_HASHES: usize = 262_144;

/// Records that could not be read, each told in the report; beyond it only their number is.
const MAX_COMPLAINTS: usize = 256;

/// Output that may have been under way when an order broke off is owed for so long. Milliseconds.
/// A day: an honest host carries the debt into the next order, and a host that broke the stream
/// on purpose cannot keep a claim for what it never sent.
const UNSURE_MS: u64 = DAY_MS;

/// Most that a host is believed to have sent without a payment of ours and without its arriving.
/// A default step: who was never paid has no reason to give more.
const UNPROVED: Msat = Msat(1_000);

/// Invoices kept that nobody paid. Strangers cause them for free, so beyond it the oldest is
/// deleted, from storage too; money that still comes for it is booked while it is among the
/// newest `MAX_LATE`, and becomes a [`Note`] afterwards.
pub const MAX_EXPIRED: usize = 1_024;

/// Deleted invoices remembered, in memory only: those of three minutes, an entry invoice's life,
/// at 90 a second. About 5 MB.
const MAX_LATE: usize = 16_384;

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
    /// A closed order, as releases before 2026-12 wrote it.
    Account(OrderAccount),
    /// Money or records that belong to no order.
    Note(Note),
    /// A closed order.
    Closed {
        /// Its account.
        account: OrderAccount,
        /// When it was closed.
        at: WallTime,
    },
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
            Row::Account(account) | Row::Closed { account, .. } => orders.push(account),
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

/// Rows on their way from storage: of a long history all but the newest only enter the totals.
#[derive(Debug, Default)]
struct Loading {
    /// The newest that are done.
    done: VecDeque<(u64, Row)>,
    /// The newest hashes, and their rows.
    hashes: VecDeque<((Side, PaymentHash), u64)>,
}

/// Rows, totals and what finds them.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    loading: Loading,
    /// In memory: every open row, and the newest that are done.
    rows: BTreeMap<u64, Row>,
    /// Those of `rows` that are done.
    done: BTreeSet<u64>,
    next: u64,
    by_hash: BTreeMap<(Side, PaymentHash), u64>,
    hashes: VecDeque<(Side, PaymentHash)>,
    closed: BTreeMap<(Side, OrderId), u64>,
    /// What is settled of each order of a side, over the entries in `rows`.
    settled: BTreeMap<(Side, OrderId), Msat>,
    /// Closed orders in which we bought, by host.
    bought: BTreeMap<NodeKey, BTreeSet<u64>>,
    expired: BTreeSet<u64>,
    /// Expired invoices whose rows were deleted and that may be paid yet, and their sequence.
    late: BTreeMap<PaymentHash, LedgerEntry>,
    lately: VecDeque<PaymentHash>,
    complaints: Vec<Note>,
    /// Complaints beyond [`MAX_COMPLAINTS`].
    untold: u64,
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

    /// Appends a closed order. One that was closed before stays as it was booked.
    pub fn close(&mut self, turn: &mut Turn, account: OrderAccount) {
        if !self.is_closed(account.side, &account.order) {
            let at = turn.now.wall;
            self.push(turn, Row::Closed { account, at });
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
        if after.state.is_done() {
            self.done.insert(row);
        } else {
            self.done.remove(&row);
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
        self.settled_of(Side::Host, order)
    }

    fn settled_of(&self, side: Side, order: &OrderId) -> Msat {
        self.settled
            .get(&(side, *order))
            .copied()
            .unwrap_or_default()
    }

    /// Returns the most that we may owe a host from closed orders: what was delivered and
    /// not paid, less what later orders took up again. As far as rows are in memory; what
    /// only may have been under way counts for [`UNSURE_MS`], and over all orders for no more
    /// than the host was paid and [`UNPROVED`]: the window behind it is the host's own word.
    pub fn owed_to(&self, host: &NodeKey, wall: WallTime) -> Msat {
        let rows = self.bought.get(host).into_iter().flatten();
        let accounts = || {
            rows.clone()
                .filter_map(|row| account_of(self.rows.get(row)?))
        };
        let paid = |account: &OrderAccount| self.settled_of(Side::Buyer, &account.order);
        let believed = accounts().fold(UNPROVED, |sum, (account, _)| {
            sum.saturating_add(paid(account))
        });
        let start = (Msat::ZERO, believed);
        let (owed, _) = accounts().fold(start, |(owed, believed), (account, at)| {
            let fresh = wall.ms_since(at) < UNSURE_MS;
            let unsure = believed.min(if fresh { account.unsure } else { Msat::ZERO });
            let due = account.cost.saturating_add(account.carried);
            let due = due.saturating_add(unsure);
            // What the order took up is part of what it leaves.
            let owed = owed
                .saturating_sub(account.carried)
                .saturating_add(due.saturating_sub(paid(account)));
            (owed, believed.saturating_sub(unsure))
        });
        owed
    }

    /// Returns what can be told from the rows alone.
    pub fn report(&self) -> Report {
        let mut report = Report {
            earned: self.earned,
            spent: self.spent,
            fees: self.fees,
            notes: self.complaints.clone(),
            ..Report::default()
        };
        if self.untold > 0 {
            let text = format!("{} more records were not read", self.untold);
            report.notes.push(Note {
                text,
                ..Note::default()
            });
        }
        for row in self.rows.values() {
            match row {
                Row::Entry { entry, .. } => report.entries.push(entry.clone()),
                Row::Account(account) | Row::Closed { account, .. } => {
                    report.orders.push(account.clone());
                }
                Row::Note(note) => report.notes.push(note.clone()),
            }
        }
        report
    }

    /// Reads one stored row and its number.
    pub fn read(&mut self, at: &[u8], value: &[u8]) -> Result<(u64, Row), RecordError> {
        let bytes = <[u8; 8]>::try_from(at).map_err(|_| RecordError::Key { bytes: at.len() })?;
        let row = u64::from_be_bytes(bytes);
        self.next = self.next.max(row.saturating_add(1));
        Ok((row, Row::decode(value)?))
    }

    /// Takes a row that was read, in ascending order of their numbers; [`Ledger::loaded`] ends
    /// that.
    pub fn load(&mut self, row: u64, value: Row) {
        if let Row::Entry { entry, .. } = &value {
            self.count_total(entry, true);
            if entry.state == EntryState::Expired {
                self.expired.insert(row);
            }
            let hash = (entry.side, entry.hash);
            push_within(&mut self.loading.hashes, MAX_HASHES, (hash, row));
        }
        match value.is_open() {
            true => self.place(row, value),
            false => push_within(&mut self.loading.done, MAX_ROWS, (row, value)),
        }
    }

    /// Every stored row was taken.
    pub fn loaded(&mut self) {
        let Loading { done, hashes } = std::mem::take(&mut self.loading);
        self.by_hash = hashes.iter().copied().collect();
        self.hashes = hashes.into_iter().map(|(hash, _)| hash).collect();
        for (row, value) in done {
            self.place(row, value);
        }
    }

    /// Notes a record that could not be read; in memory only, so that it is said at every start.
    pub fn complain(&mut self, now: Now, record: &Record, error: &RecordError) {
        if self.complaints.len() >= MAX_COMPLAINTS {
            self.untold = self.untold.saturating_add(1);
            return;
        }
        let table = record.table.name();
        self.complaints.push(Note {
            at: now.wall,
            hash: None,
            msat: Msat::ZERO,
            text: format!("a record of table {table} was not read: {error}"),
        });
    }

    /// Returns every open entry with its row and budget.
    pub fn open(&self) -> Vec<(u64, String, LedgerEntry)> {
        self.entries()
            .filter(|(_, _, entry)| !entry.state.is_done())
            .map(|(row, budget, entry)| (row, budget.to_owned(), entry.clone()))
            .collect()
    }

    /// Lets the oldest finished rows and hashes go from memory until the bounds hold.
    fn trim(&mut self) {
        while self.done.len() > MAX_ROWS
            && let Some(row) = self.done.pop_first()
        {
            self.drop_row(row);
        }
        while self.hashes.len() > MAX_HASHES {
            if let Some(hash) = self.hashes.pop_front() {
                self.by_hash.remove(&hash);
            }
        }
    }

    /// Forgets a row and what was kept beside it; totals stay.
    fn drop_row(&mut self, row: u64) -> Option<Row> {
        let value = self.rows.remove(&row)?;
        self.done.remove(&row);
        match &value {
            Row::Entry { entry, .. } => self.count_order(entry, false),
            Row::Account(account) | Row::Closed { account, .. } => {
                self.closed.remove(&(account.side, account.order));
                let host = account.counterparty;
                if let Some(rows) = self.bought.get_mut(&host) {
                    rows.remove(&row);
                    if rows.is_empty() {
                        self.bought.remove(&host);
                    }
                }
            }
            Row::Note(_) => {}
        }
        Some(value)
    }

    fn forget_expired(&mut self, turn: &mut Turn) {
        while self.expired.len() > MAX_EXPIRED
            && let Some(row) = self.expired.pop_first()
        {
            turn.delete(Table::Ledger, &key(row));
            if let Some(Row::Entry { entry, .. }) = self.drop_row(row) {
                self.by_hash.remove(&(entry.side, entry.hash));
                self.lately.push_back(entry.hash);
                self.late.insert(entry.hash, entry);
            }
        }
        while self.lately.len() > MAX_LATE {
            if let Some(hash) = self.lately.pop_front() {
                self.late.remove(&hash);
            }
        }
    }

    /// Money came: appends the row of an invoice again that was deleted, if it was.
    pub fn recall(&mut self, turn: &mut Turn, hash: &PaymentHash) {
        if let Some(entry) = self.late.remove(hash) {
            self.append(turn, entry, "");
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
        if let Row::Entry { entry, .. } = &value {
            self.by_hash.insert((entry.side, entry.hash), row);
            self.hashes.push_back((entry.side, entry.hash));
            if entry.state == EntryState::Expired {
                self.expired.insert(row);
            }
            self.count_total(entry, true);
        }
        self.place(row, value);
    }

    /// Keeps a row whose hash and part of the totals are known.
    fn place(&mut self, row: u64, value: Row) {
        if !value.is_open() {
            self.done.insert(row);
        }
        match &value {
            Row::Entry { entry, .. } => self.count_order(entry, true),
            Row::Account(account) | Row::Closed { account, .. } => {
                self.closed.insert((account.side, account.order), row);
                if account.side == Side::Buyer {
                    let rows = self.bought.entry(account.counterparty).or_default();
                    rows.insert(row);
                }
            }
            Row::Note(_) => {}
        }
        self.rows.insert(row, value);
    }

    fn count_order(&mut self, entry: &LedgerEntry, add: bool) {
        if entry.state != EntryState::Settled {
            return;
        }
        let key = (entry.side, entry.order);
        let sum = self.settled.entry(key).or_default();
        apply(sum, entry.msat, add);
        if *sum == Msat::ZERO {
            self.settled.remove(&key);
        }
    }

    fn count(&mut self, entry: &LedgerEntry, add: bool) {
        self.count_order(entry, add);
        self.count_total(entry, add);
    }

    fn count_total(&mut self, entry: &LedgerEntry, add: bool) {
        if entry.state != EntryState::Settled {
            return;
        }
        let apply = |sum: &mut Msat, part: Msat| apply(sum, part, add);
        match entry.side {
            Side::Host => apply(&mut self.earned, entry.msat),
            Side::Buyer => {
                apply(&mut self.spent, entry.msat);
                apply(&mut self.fees, entry.fee);
            }
        }
    }
}

/// The account in a row, and when it was closed: long ago where the row does not say.
fn account_of(row: &Row) -> Option<(&OrderAccount, WallTime)> {
    match row {
        Row::Account(account) => Some((account, WallTime(0))),
        Row::Closed { account, at } => Some((account, *at)),
        _ => None,
    }
}

fn apply(sum: &mut Msat, part: Msat, add: bool) {
    *sum = if add {
        sum.saturating_add(part)
    } else {
        sum.saturating_sub(part)
    };
}

/// Appends; of more than `most` the first leaves, before there is one too many to make room for.
fn push_within<T>(queue: &mut VecDeque<T>, most: usize, item: T) {
    if queue.len() >= most {
        queue.pop_front();
    }
    queue.push_back(item);
}

fn key(row: u64) -> [u8; 8] {
    row.to_be_bytes()
}
